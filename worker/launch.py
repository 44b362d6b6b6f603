"""Ranks, seen from the process that drives them step by step: the worker's child, or a command of the operator's that trains.

torchrun starts them (`worker.rank`). The driver says over a socket what is to be done next, the first rank says what came of it. So
an attempt on several processes has the same steps as one in this process: it is shown, saved, cancelled and ended between two of
them. If a rank ends, torchrun ends the others, the attempt fails, and the job goes on from its last training checkpoint. If the
driver ends, the first rank notices, and with it all end.
"""

import contextlib
import io
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import torch
from pydantic import SecretStr
from torch import nn

from ledger.jobs.claims import Claim
from ledger.states import Reason
from unlearning.audit.findings import Findings
from unlearning.data.objectives import Merit
from unlearning.state import State
from unlearning.steps import Outcome, Progress, Steps
from worker.failures import Failure, NoGpu, RankFailed
from worker.settings import ProcessSettings, Settings, choose_device

SOCKET, FAILURE = "socket", "failure"
"""In the folder of a launch: where the first rank connects, and what the rank that failed first has raised."""

_NOT_SENT = {"database_url": SecretStr(""), "redis_url": SecretStr("")}
"""Settings that no rank needs, which may be on another host."""

T = TypeVar("T")
Make = Callable[[torch.device, State], Generator[Progress, None, T]]
"""Begins what a process of several, or the only one, does on its device. `State` gets what a training checkpoint holds."""

_PATIENCE = 60.0
"""Seconds for torchrun to end its processes."""


class Ended(NamedTuple):
    """The reply to "next" when the steps are over. value: what they returned."""

    value: Any


class Stepped(NamedTuple):
    """The reply to "next" after a step. saved_step: `State.step`."""

    progress: Progress
    saved_step: int | None


def to_message(value: object) -> bytes:
    """Serialise what ranks and driver send each other: nested dicts and dataclasses, with tensors."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def from_message(content: bytes) -> Any:
    """Read a message, with its tensors on the CPU. It comes from a process of the same job, never from outside."""
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Launch:
    """How ranks are started. count: of this host. device: "cpu" or "cuda". settings: for jobs those of the worker."""

    count: int
    device: str
    settings: ProcessSettings

    @property
    def command(self) -> list[str]:
        """The command line of torchrun, without the arguments of `worker.rank`. One launch an attempt: the lease restarts it."""
        hosts, (address, port) = self.settings.hosts, self.settings.rendezvous_address
        place = ["--standalone", "--local-addr", "127.0.0.1"]
        if hosts > 1:
            place = ["--nnodes", str(hosts), "--node-rank", "0", "--master-addr", address, "--master-port", port]
        run = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--nproc-per-node",
            str(self.count),
            "--max-restarts",
            "0",
        ]
        return [*run, *place, "-m", "worker.rank", self.device]

    @property
    def environment(self) -> dict[str, str]:
        """The variables of the ranks: those of this process, its import path, and its share of the cores."""
        found = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        found.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // self.count)))
        if self.settings.hosts == 1 and sys.platform.startswith("linux"):
            found.setdefault("GLOO_SOCKET_IFNAME", "lo")
        return found


def plan_launch(settings: ProcessSettings) -> Launch | None:
    """Return how ranks are started; None if there is one process, which does its work itself.

    Raises NoGpu if there are fewer GPUs than processes.
    """
    if settings.processes == settings.hosts == 1:
        return None
    device = choose_device(settings.device, gpu=torch.cuda.is_available())
    gpus = torch.cuda.device_count() if device == "cuda" else 0
    count = max(1, gpus) if settings.processes == "auto" else settings.processes
    if device == "cuda" and count > gpus:
        raise NoGpu(
            f"EXPUNGE_PROCESSES is {count}, and CUDA finds {gpus} GPUs. Run nvidia-smi on the machine that computes."
        )
    return None if count * settings.hosts == 1 else Launch(count=count, device=device, settings=settings)


@contextlib.contextmanager
def launched(launch: Launch, *, check: Callable[[], object] = lambda: None) -> Iterator["Ranks"]:
    """Start ranks, which wait for orders. On the way out they end, in order or not.

    check: called while other hosts are awaited. Raises RankFailed, and what `check` raises.
    """
    with tempfile.TemporaryDirectory(prefix="expunge-ranks-") as name, socket.socket(socket.AF_UNIX) as server:
        folder = Path(name)
        server.bind(str(folder / SOCKET))
        server.listen(1)
        # A session of its own: Ctrl-C in a terminal is for this process, which ends the ranks.
        launcher = subprocess.Popen([*launch.command, name], env=launch.environment, start_new_session=True)
        connection = None
        try:
            connection = accept_first_rank(server, launcher, folder, check=check)
            ranks = Ranks(launcher, connection, folder)
            yield ranks
            ranks.ask("leave")
            launcher.wait(_PATIENCE)
        finally:
            _end(launcher)  # first: with its connection closed the first rank would end as if this process had
            if connection is not None:
                connection.close()


def accept_first_rank(
    server: socket.socket, launcher: subprocess.Popen[bytes], folder: Path, *, check: Callable[[], object]
) -> Connection:
    """Wait for the first rank to connect."""
    server.settimeout(0.2)
    while True:
        try:
            accepted, _ = server.accept()
        except TimeoutError:
            if launcher.poll() is not None:
                raise _failure(launcher, folder) from None
            check()
            continue
        accepted.setblocking(True)
        return Connection(accepted.detach())


def _end(launcher: subprocess.Popen[bytes]) -> None:
    if launcher.poll() is None:
        launcher.terminate()
        try:
            launcher.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            launcher.kill()
            launcher.wait()


def _failure(launcher: subprocess.Popen[bytes], folder: Path) -> Exception:
    """Return what a rank has raised, or that one was ended."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        launcher.wait(_PATIENCE)
    try:
        error: Exception = from_message((folder / FAILURE).read_bytes())
    except FileNotFoundError:
        detail = (
            "One of the processes has ended without an error of its own: it was killed, perhaps for want of memory, or lost its "
            "connection to the others. The log names it."
        )
        return RankFailed(Failure(Reason.WORKER_LOST, detail, retry=True))
    return error


@dataclass(slots=True, eq=False)
class RankedState(State):
    """The state of a run on ranks: the first of them takes the snapshot."""

    take: Callable[[], dict[str, Any]] = dict

    def snapshot(self) -> dict[str, Any]:
        """Return the present values, between two steps."""
        return self.take()


@dataclass(slots=True, eq=False)
class Ranks:
    """Ranks that wait for orders. state: of the method that runs on them."""

    launcher: subprocess.Popen[bytes]
    connection: Connection
    folder: Path
    state: RankedState = field(init=False)

    def __post_init__(self) -> None:
        self.state = RankedState(take=lambda: dict(self.ask("snapshot")))

    def ask(self, order: str, *given: object) -> Any:
        """Give an order to all ranks, and return the first one's reply. Raises what a rank has raised, and RankFailed."""
        try:
            self.connection.send_bytes(to_message((order, given)))
            return from_message(self.connection.recv_bytes())
        except (EOFError, OSError):
            raise _failure(self.launcher, self.folder) from None

    def load(self, claim: Claim, settings: Settings) -> None:
        """Have the ranks load the inputs of a job. Raises what loading raises."""
        self.ask("load", claim, settings.model_copy(update=_NOT_SENT))

    def begin(
        self, make: Make[T], *, resumed: Mapping[str, Any] = MappingProxyType({}), expected: type[Exception]
    ) -> Generator[Progress, None, T]:
        """Begin steps on the ranks. make: a function that another process can import, or a `partial` of one.

        resumed: a checkpoint's state, or empty. expected: errors that are raised here as the ranks raise them.
        """
        self.ask("begin", make, dict(resumed), expected)
        return self._steps()

    def unlearn(self, model: nn.Module, *, resumed: Mapping[str, Any]) -> Steps:
        """Run the claim's method on the ranks, and load the weights into `model`. resumed: a checkpoint's state, or empty."""
        self.ask("unlearn", resumed)
        outcome: Outcome = yield from self._steps()
        model.load_state_dict(self.ask("weights"))
        return outcome

    def audit(self, model: nn.Module, *, merit: Merit) -> Generator[Progress, None, Findings]:
        """Audit the unlearned `model` on the ranks. merit: the objective's, whose functions are not sent."""
        self.ask("audit", model.state_dict())
        findings: Findings = yield from self._steps()
        return replace(findings, merit=merit)

    def _steps(self) -> Generator[Progress, None, Any]:
        while isinstance(reply := self.ask("next"), Stepped):
            self.state.step = reply.saved_step
            yield reply.progress
        return reply.value
