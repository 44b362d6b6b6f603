"""A rank: one of the processes that torchrun starts together, as `python -m worker.rank DEVICE [FOLDER]`.

The first rank takes orders from the socket in FOLDER (`worker.launch` gives them) and passes each on to the others; all carry it
out together. Ranks on other hosts need no folder.
"""

import contextlib
import logging
import os
import queue
import sys
import threading
import traceback
from collections.abc import Collection, Generator, Mapping
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Client
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from connectors.storage import Storage
from ledger.jobs.claims import Claim
from unlearning import ranks
from unlearning.audit.findings import Findings
from unlearning.errors import InvalidSpec, MethodRefused
from unlearning.networks import copy_network
from unlearning.sharding import whole
from unlearning.state import State
from worker.attempt import audit_steps, method_steps
from worker.child import die_with_parent
from worker.failures import RankFailed, as_method_failure, classify
from worker.inputs import JobInputs, load_inputs, load_workload
from worker.launch import FAILURE, SOCKET, Ended, Make, Stepped, from_message, to_message
from worker.settings import Settings

logger = logging.getLogger(__name__)


class Orders:
    """The connection of the first rank to the driver. If it breaks, the driver has ended, and so does this process."""

    def __init__(self, folder: Path) -> None:
        self._connection = Client(str(folder / SOCKET), "AF_UNIX")
        self._waiting: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def next(self) -> bytes:
        """Wait for an order."""
        return self._waiting.get()

    def reply(self, value: object) -> None:
        """Say what came of the latest order."""
        self._connection.send_bytes(to_message(value))

    def _read(self) -> None:
        try:
            while True:
                self._waiting.put(self._connection.recv_bytes())
        except (EOFError, OSError):
            os._exit(1)  # in the middle of a step too; torchrun ends the other ranks


@dataclass(slots=True, eq=False)
class Rank:
    """What a rank works on. Each order is a method of that name; all ranks carry out the same ones in the same order."""

    device: torch.device
    claim: Claim = field(init=False)
    inputs: JobInputs = field(init=False)
    model: nn.Module = field(init=False)
    state: State = field(init=False)
    steps: Generator[Any, None, Any] = field(init=False)
    storage: Storage | None = None
    owned: Collection[str] = ()
    private_ids: Collection[str] = ()
    expected: type[Exception] | tuple[()] = ()

    def load(self, claim: Claim, settings: Settings) -> None:
        """Load the inputs of a job."""
        self.claim, self.owned, self.storage = claim, settings.allowed, settings.files
        workload = load_workload(claim.workload, allowed=settings.allowed, details=claim.details)
        self.private_ids = workload.private_ids
        self.inputs = load_inputs(claim, workload, settings, device=self.device)

    def begin(self, make: Make[Any], resumed: Mapping[str, Any], expected: type[Exception]) -> None:
        """Begin other steps than those of a job. expected: errors that are sent as they are."""
        self.state, self.expected = State(resumed), expected
        self.steps = make(self.device, self.state)

    def unlearn(self, resumed: Mapping[str, Any]) -> None:
        """Begin the claim's method, on a copy of the served model."""
        self.model, self.state = copy_network(self.inputs.original), State(resumed)
        assert self.storage is not None  # `load` comes first
        self.steps = method_steps(self.claim, self.inputs, self.model, self.state, storage=self.storage)

    def audit(self, weights: Mapping[str, Tensor]) -> None:
        """Begin the audit of a model with these weights."""
        self.model, self.state = copy_network(self.inputs.original), State()
        self.model.load_state_dict(weights)
        self.steps = audit_steps(self.claim, self.inputs, self.model.eval())

    def next(self) -> Stepped | Ended:
        """Take a step."""
        try:
            progress = next(self.steps)
        except StopIteration as end:
            found = end.value
            if isinstance(found, Findings):
                found = replace(found, merit=None)  # type: ignore[arg-type]  # its functions cannot be sent; the driver has them
            return Ended(found)
        # The figures of a GPU are read by one rank alone: each reading waits for it.
        metrics = dict(progress.metrics) if ranks.own_rank() == 0 else {}
        return Stepped(replace(progress, metrics=metrics), self.state.step)

    def snapshot(self) -> dict[str, Any]:
        """Return what a training checkpoint holds."""
        return dict(whole(self.state.snapshot()))

    def weights(self) -> dict[str, Tensor]:
        """Return the model's weights and buffers."""
        return dict(whole(self.model.state_dict()))

    def clean_up(self) -> None:
        """Delete the copies of weights on this host, where no worker does."""
        if self.storage is not None:
            with contextlib.suppress(OSError):
                self.storage.delete_own_copies()


def serve(rank: Rank, orders: Orders | None) -> None:
    """Carry out orders until the one to leave. orders: of the first rank."""
    while True:
        name, given = from_message(ranks.broadcast(b"" if orders is None else orders.next()))
        reply = None if name == "leave" else getattr(rank, name)(*given)
        if orders is not None:
            orders.reply(reply)
        if name == "leave":
            return


def note_failure(error: Exception, rank: Rank, folder: Path) -> None:
    """Write for the process that drives the ranks what this one raised, as that which it would have raised itself.

    The first rank to fail counts. What a rank raises because another one has gone says nothing, and is not written.
    """
    if isinstance(error, dist.DistError) or "gloo" in str(error).lower():
        return
    found: Exception | None = as_method_failure(error, owned=rank.owned, ids=rank.private_ids)
    if isinstance(error, MethodRefused | InvalidSpec):
        found = MethodRefused(str(error))
    if isinstance(error, rank.expected):
        found = error
    try:
        with (folder / FAILURE).open("xb") as file:
            file.write(to_message(found or RankFailed(classify(error, owned=rank.owned, ids=rank.private_ids))))
    except OSError:
        return


def main(kind: str, folder: Path | None = None) -> None:
    """Be a rank until the order to leave. kind: "cuda" or "cpu"."""
    die_with_parent()  # Whatever ends torchrun ends its ranks.
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if kind == "cuda" else torch.device("cpu")
    first, rank = os.environ["RANK"] == "0", Rank(device)
    assert folder is not None or not first, "the first rank needs the driver's folder"
    with ranks.joined(device):
        try:
            serve(rank, Orders(folder) if first and folder is not None else None)
            if folder is None:  # on another host than the worker's
                rank.clean_up()
        except Exception as error:
            # Without its message, which may hold a sample's ID.
            logger.error("%s\n%s", type(error).__name__, "".join(traceback.format_tb(error.__traceback__)))
            if folder is not None:
                note_failure(error, rank, folder)
            else:
                rank.clean_up()
            os._exit(1)  # at once: torchrun ends the others, which may wait for this one in the middle of a step


if __name__ == "__main__":
    main(sys.argv[1], *map(Path, sys.argv[2:]))
