"""Train a model by the owner's own function, step by step, and check what it did.

The function is an ordinary one; a method is a generator that stops between two steps. So the function runs in a thread of its own,
and only while the caller waits for its next report.
"""

import contextvars
import hashlib
import inspect
import queue
import threading
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unlearning import ranks
from unlearning.data.samples import SampleSet
from unlearning.data.workload import OwnTraining
from unlearning.errors import NotFinite, TrainerFault
from unlearning.networks import frozen_tensors
from unlearning.specs.training import Recipe
from unlearning.state import State
from unlearning.steps import Outcome, Progress, Steps
from unlearning.training.run import TrainingRun, TrainingStopped


def own_steps(model: nn.Module, samples: SampleSet, training: OwnTraining, *, seed: int, state: State) -> Steps:
    """Train `model` in place by the owner's function, yielding at each of its reports; leave it in evaluation mode.

    Draws from the process's random state. `state` holds what the function gave to `run.checkpoint`, and says when it must stop.
    What the function raises is raised here. Raises TrainerFault if it did not train the model that it was given, NotFinite if it
    left numbers that are not finite. Where it was asked to stop and has returned, its last report is yielded once more, so that
    whoever asked can end the run. With several ranks each runs the function, and all take over the first one's weights.
    """
    run = TrainingRun(seed=seed, device=samples.device, share=training.share, stop_asked=state.should_stop)
    state.register(trainer=run)
    before, last = state_of(model), None
    thread = _TrainerThread(partial(training.trainer, model, samples, run), run, patience=training.patience)
    model.train()
    try:
        while isinstance(report := thread.go_on(), Progress):
            last, state.step = report, _saved_step(run)
            yield report
    finally:
        thread.close()
        model.eval()
    result, state.step = report.result(), _saved_step(run)
    ranks.take_first(model)
    stopped = run.should_stop and (last is None or last.step < last.total)
    check_model(model, before, result=result, finished=not stopped)
    if stopped:
        yield last or Progress(phase="train", step=0, total=1)
        raise TrainerFault("The training was asked to stop and returned before its end; its model is not used.")
    if last is None:
        yield Progress(phase="train", step=1, total=1)
    return Outcome(steps=1 if last is None else last.step, stopped_because="completed")


def _saved_step(run: TrainingRun) -> int:
    return 0 if run.saved is None else int(run.saved["step"])


@dataclass(frozen=True, slots=True)
class _End:
    """How the function ended. error: what it raised."""

    value: object = None
    error: BaseException | None = None

    def result(self) -> object:
        """Return what the function returned, or raise what it raised."""
        if isinstance(self.error, Exception):
            raise self.error
        if self.error is not None:
            raise TrainerFault(f"The trainer raised {type(self.error).__name__}; let it return.") from self.error
        return self.value


class _TrainerThread:
    """A function in a thread that runs while the caller waits in `go_on`, and waits itself at each report."""

    def __init__(self, act: Callable[[], object], run: TrainingRun, *, patience: float | None) -> None:
        self._act, self._device, self._patience = act, run.device, patience
        self._reports: queue.SimpleQueue[Progress | _End] = queue.SimpleQueue()
        self._permits: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._stopping = self._ended = False
        context = contextvars.copy_context()  # of logs and traces
        self._thread = threading.Thread(target=context.run, args=(self._run,), name="trainer", daemon=True)
        run.on_report = self._report

    def go_on(self) -> Progress | _End:
        """Let the function run until it reports or ends. Raises TrainerFault if it does neither for `patience` seconds."""
        if self._thread.ident is None:
            self._thread.start()
        else:
            self._permits.put(None)
        try:
            return self._wait()
        except queue.Empty:
            raise TrainerFault(
                f"The trainer has reported nothing for {self._patience:g} s. Call `run.report` in each step, and return when "
                "`run.should_stop` is true: otherwise a job shows no progress, cannot be cancelled, and is ended as stalled."
            ) from None

    def close(self) -> None:
        """End the function at its report, if it has not ended, and wait for it."""
        self._stopping = True
        if self._ended or self._thread.ident is None:
            return
        self._permits.put(None)
        try:
            while isinstance(self._wait(), Progress):
                pass
        except queue.Empty:
            pass  # It is left to itself: nothing can end a thread.

    def _wait(self) -> Progress | _End:
        report = self._reports.get(timeout=self._patience)
        self._ended = isinstance(report, _End)
        return report

    def _report(self, progress: Progress) -> None:
        if not self._stopping:
            self._reports.put(progress)
            self._permits.get()
        if self._stopping:
            raise TrainingStopped

    def _run(self) -> None:
        try:
            with torch.cuda.device(self._device) if self._device.type == "cuda" else nullcontext():
                end = _End(self._act())
        except BaseException as error:
            end = _End(error=error)
        self._reports.put(end)


@dataclass(frozen=True, kw_only=True, slots=True)
class _TensorState:
    """What a tensor of a model was. finite: None for integers."""

    kind: str
    device: torch.device
    trained: bool
    digest: bytes
    finite: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelState:
    """What a model was before its training, by the names of its tensors. frozen: digests of what training does not move."""

    tensors: Mapping[str, _TensorState] = field(default_factory=dict)
    frozen: Mapping[str, bytes] = field(default_factory=dict)


@torch.no_grad()
def state_of(model: nn.Module) -> ModelState:
    """Describe what a model is, to compare it with what training makes of it. No copy is kept."""
    tensors = {
        name: _TensorState(
            kind=f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}",
            device=tensor.device,
            trained=tensor.requires_grad,
            digest=_digest(tensor),
            finite=tensor.is_meta or not tensor.is_floating_point() or bool(tensor.isfinite().all()),
        )
        for name, tensor in (*model.named_parameters(), *model.named_buffers())
    }
    frozen = {name.removeprefix("."): _digest(tensor) for name, tensor in frozen_tensors(model).items()}
    return ModelState(tensors=tensors, frozen=frozen)


def _digest(tensor: Tensor) -> bytes:
    if tensor.is_meta:  # without content
        return b""
    content = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
    return hashlib.sha256(content.data).digest()


def check_model(model: nn.Module, before: ModelState, *, result: object = None, finished: bool = True) -> None:
    """Check that a trainer trained the model that it was given, and nothing else of it.

    result: what the trainer returned. finished: whether it came to its end; otherwise it need not have changed anything yet.
    Raises TrainerFault and NotFinite; both say what to do.
    """
    after = state_of(model)
    names = [*before.tensors, *(name for name in after.tensors if name not in before.tensors)]
    for name in names:
        old, new = before.tensors.get(name), after.tensors.get(name)
        if old is None or new is None or old.kind != new.kind:
            was, now = (each.kind if each else "missing" for each in (old, new))
            raise TrainerFault(
                f"The trainer changed the architecture: {name} was {was} and is {now}. Let `build` return the model as it is after "
                "training, and the trainer change its weights alone."
            )
        if old.device != new.device:
            raise TrainerFault(
                f"The trainer left the model on {new.device} ({name}); it came on {old.device}. Train on "
                "`run.device`, or bring the model back."
            )
        if old.trained != new.trained:
            raise TrainerFault(
                f"The trainer {'unfroze' if new.trained else 'froze'} {name}. Unlearning moves what `build` leaves trainable: let "
                "`build` set `requires_grad` as the training does."
            )
        if old.finite and not new.finite:
            raise NotFinite(
                f"The trainer left numbers that are not finite in {name}. Lower its learning rate, clip its gradient, or use a "
                "higher precision."
            )
    moved = next((name for name, digest in before.frozen.items() if after.frozen.get(name) != digest), None)
    if moved is not None:
        raise TrainerFault(
            f"The trainer changed {moved}, which `build` freezes. Unlearning leaves it as it is; unfreeze it in `build`, or "
            "leave it alone."
        )
    trained = [name for name, each in before.tensors.items() if each.trained]
    if finished and all(before.tensors[name].digest == after.tensors[name].digest for name in trained):
        hint = " It returned a model; that is not used." if isinstance(result, nn.Module) else ""
        raise TrainerFault(
            f"The trainer returned without training: no weight changed.{hint} Train the given model in place."
        )


def training_settings(training: Recipe | OwnTraining) -> dict[str, object]:
    """List what a training depends on beside model, data and seed, as JSON values.

    A trainer stands for itself by its name and the code of its module, so that what was trained by older code is not taken for it.
    """
    if isinstance(training, Recipe):
        return asdict(training)
    function: Any = training.trainer
    given: list[str] = []
    while isinstance(function, partial):
        given.append(repr((function.args, function.keywords)))
        function = function.func
    function = inspect.unwrap(function) if hasattr(function, "__qualname__") else type(function)
    file = inspect.getsourcefile(function)
    code = repr(function) if file is None else hashlib.sha256(Path(file).read_bytes()).hexdigest()
    name = f"{function.__module__}.{function.__qualname__}"
    return {"trainer": name, "code": code, "arguments": given, "share": training.share}
