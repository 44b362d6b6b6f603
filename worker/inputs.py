"""What a job works on: the workload, the served model, and the training set split into the forget set and the remaining set."""

import importlib
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from connectors.storage import Storage
from ledger.jobs.claims import Claim, JobSamples, Rewritten
from ledger.registry.references import ReferenceFile
from ledger.sample_ids import sample_digest
from unlearning.audit.audit import tested_by_references
from unlearning.audit.reference_test import AuditReferences
from unlearning.data.near_copies import Copies, find_copies
from unlearning.data.objectives import Objective
from unlearning.data.references import ReferencePredictions, References, from_bytes, to_bytes
from unlearning.data.samples import SampleSet
from unlearning.data.workload import HeldOut, Workload, check_fingerprints, split_held_out
from unlearning.errors import ReferencesUnusable, WeightsError
from unlearning.files import read_file
from unlearning.sharding import place
from unlearning.specs.audit import AuditSpec
from unlearning.storage import load_weights
from unlearning.training.references import sample_signals
from worker.child import note_loaded_code
from worker.failures import SamplesMissing, WorkloadFailed, WorkloadNotAllowed, owners_line
from worker.settings import Settings, choose_device
from worker.slices import SlicedTraining, usable_checkpoints

logger = logging.getLogger(__name__)

MAX_MESSAGE_LENGTH = 300
"""Characters of a factory's own error that are passed on."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class JobReferences:
    """Reference predictions of a job's sets: `aims` for its method, from the method rounds, and `audit` (`AuditReferences`).

    tested: the positions of the forgotten samples that the audit uses, (k,): those without a near-copy in D_r, or all if all
    have one. copies: of the forget set in D_r. erased_since: how many samples earlier jobs erased on which reference models were
    trained.
    """

    aims: ReferencePredictions
    audit: AuditReferences
    tested: Tensor
    copies: Copies
    erased_since: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class LoadedReferences:
    """What a job has of the model's reference predictions.

    used: those of its sets; None if the model has none or, with the clause `unused` that says why, if they cannot be used.
    remaining: all rows of their file, used or not, but those of what this job and earlier ones erase: they are what the model keeps
    once the job has published; None if the file cannot be read.
    """

    used: JobReferences | None = None
    unused: str | None = None
    remaining: References | None = None


NO_REFERENCES = LoadedReferences()
"""Of a model that has none."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class JobInputs:
    """What a job works on, all on one device.

    original: the served model, in eval mode; nothing changes it. forget: D_f. remain: D_r, without anything forgotten earlier.
    retrained: a model trained on D_r alone, if there is one. training: on D_r. checkpoints: the weights after slices of the model's
    training that may be used (`worker.slices`).
    """

    workload: Workload
    original: nn.Module
    retrained: nn.Module | None
    forget: SampleSet
    remain: SampleSet
    held_out: HeldOut
    test: SampleSet
    device: torch.device
    training: SlicedTraining
    loaded_references: LoadedReferences = NO_REFERENCES
    checkpoints: Sequence[Mapping[str, Any]] = ()

    @property
    def references(self) -> JobReferences | None:
        """The reference predictions that method and audit use, if there are any."""
        return self.loaded_references.used

    @property
    def tested(self) -> SampleSet:
        """The forgotten samples that the audit uses."""
        return self.forget if self.references is None else self.forget.take(self.references.tested)

    @property
    def audit_spec(self) -> AuditSpec:
        """How the results are audited. With the reference test the other tests may be shorter."""
        has_reference_test = self.references is not None and tested_by_references(
            self.references.audit,
            forget=self.tested,
            remain=self.remain,
            held_out=self.held_out.audit,
            objective=self.workload.objective,
        )
        return AuditSpec.with_references() if has_reference_test else AuditSpec()


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """forget: D_f. remain: D_r, without what earlier jobs made the model forget."""

    forget: SampleSet
    remain: SampleSet


def load_inputs(
    claim: Claim, workload: Workload, settings: Settings, *, device: torch.device | None = None
) -> JobInputs:
    """Load the weights of a claim, and split the training set of its workload.

    device: where to; by default as the settings say. Raises WorkloadError, NoGpu, WeightsError, InvalidWorkload.
    """
    device = device or torch.device(choose_device(settings.device, gpu=torch.cuda.is_available()))
    weights = settings.files.fetch(claim.weights_path, claim.weights_sha256)
    original = load_model(workload, weights, claim.weights_sha256, torch.device("cpu"))
    digest = partial(sample_digest, settings.sample_key_bytes, claim.dataset)
    split = split_train(workload.train, claim.samples, digest=digest)
    split = Split(split.forget.in_memory().to(device), split.remain.to(device))
    held_out = split_held_out(workload.held_out.to(device))
    original = place(original, workload.sharded, device)
    references = _load_references(
        claim, split, held_out, settings, digest=digest, original=original, objective=workload.objective
    )
    if references.unused is not None:
        logger.warning("job %s goes on without reference predictions: %s", claim.job_id, references.unused)
    training = SlicedTraining(
        samples=split.remain, dataset=claim.dataset, key=settings.sample_key_bytes, fitted_to=workload.fitted_to
    )
    return JobInputs(
        workload=workload,
        original=original,
        retrained=_load_retrained(workload, claim, settings, device),
        forget=split.forget,
        remain=split.remain,
        held_out=held_out,
        test=workload.test.to(device),
        device=device,
        loaded_references=references,
        training=training,
        checkpoints=usable_checkpoints(training, claim.details),
    )


def load_model(workload: Workload, path: Path, sha256: str, device: torch.device) -> nn.Module:
    """Build the workload's model with the weights at `path`, in eval mode.

    Raises WorkloadFailed if `build` raises, WeightsMissing, WeightsDamaged, WeightsMisfit.
    """
    try:
        model = workload.build()
    except Exception as error:
        raise _workload_failed(f"{workload.name}, build", error) from error
    load_weights(model, path, sha256)
    return model.to(device).eval()


def _load_references(
    claim: Claim,
    split: Split,
    held_out: HeldOut,
    settings: Settings,
    *,
    digest: Callable[[str], bytes],
    original: nn.Module,
    objective: Objective,
) -> LoadedReferences:
    """Read the claim's reference predictions, or say why they are not used; also give what the model keeps of them."""
    if claim.references is None:
        return NO_REFERENCES
    given, unused = read_references(claim.references, settings.files)
    if given is None:
        return LoadedReferences(unused=unused)
    remaining = given.without({*claim.samples.forget, *claim.samples.left_out})
    try:
        used = _use_references(given, remaining, split, held_out, digest=digest, original=original, objective=objective)
    except ReferencesUnusable as error:
        return LoadedReferences(unused=str(error).rstrip("."), remaining=remaining)
    return LoadedReferences(used=used, remaining=remaining)


def _load_retrained(workload: Workload, claim: Claim, settings: Settings, device: torch.device) -> nn.Module | None:
    """Load the claim's retrained model; None if it has none, or if its file cannot be used, which must not delay an erasure."""
    if claim.retrained is None:
        return None
    try:
        path = settings.files.fetch(claim.retrained.weights_path, claim.retrained.weights_sha256)
        model = load_model(workload, path, claim.retrained.weights_sha256, torch.device("cpu"))
        return place(model, workload.sharded, device)
    except WeightsError as error:
        logger.warning("job %s is audited without its retrained model: %s", claim.job_id, error)
        return None


def read_references(file: ReferenceFile, files: Storage) -> tuple[References | None, str | None]:
    """Read a file of reference predictions; or None, with the reason why it cannot be read. Raises StorageError.

    Nobody can take rows out of such a file, so the model loses it with the next erasure.
    """
    try:
        return from_bytes(read_file(files.fetch(file.path, file.sha256), file.sha256)), None
    except WeightsError:
        return None, "their file is missing or damaged; prepare them again"
    except ReferencesUnusable as error:
        return None, f"{error}; prepare them again"


def write_references(references: References, files: Storage) -> ReferenceFile:
    """Write a file of reference predictions into the storage. Raises StorageError."""
    name, sha256 = files.put(to_bytes(references))
    return ReferenceFile(sha256=sha256, path=name)


def rewrite_references(file: ReferenceFile, samples: frozenset[bytes], files: Storage) -> Rewritten:
    """Write a file of reference predictions without these samples' rows. Raises StorageError."""
    references, _ = read_references(file, files)
    after = None if references is None else write_references(references.without({*samples}), files)
    return Rewritten(before=file, after=after, without=samples)


def _use_references(
    references: References,
    remaining: References,
    split: Split,
    held_out: HeldOut,
    *,
    digest: Callable[[str], bytes],
    original: nn.Module,
    objective: Objective,
) -> JobReferences:
    """Choose the reference predictions of the job's sets. Raises ReferencesUnusable.

    remaining: the rows of `references` but those of what this job and earlier ones erase. digest: hashes a sample's ID. Where a
    near-copy of a forgotten sample remains, every model that is trained on what remains knows it: its aim is what `original` says
    of the copy.
    """

    def keys(samples: SampleSet) -> list[bytes]:
        return [digest(sample) for sample in samples.ids]

    forget = keys(split.forget)
    aims = replace(references.for_method(forget), others=partial(remaining.of_samples, digest))
    near = references.near_copies
    copies = find_copies(split.forget, split.remain, held_out=held_out.audit, within=near)
    copied = int(copies.found.sum())
    tested = (~copies.found if copied < len(forget) else copies.found).nonzero().flatten()
    audit = AuditReferences(
        forget=references.take([forget[place] for place in tested.tolist()]),
        remain=references.take(keys(split.remain)),
        held_out=references.take(keys(held_out.audit)),
        copied=copied,
        testable=copied < len(forget),
    )
    if copied:
        aims = _aim_at_copies(aims, copies.places, split, original, objective)
    erased_since = max(0, references.prepared - len(remaining) - len(forget))
    return JobReferences(aims=aims, audit=audit, tested=tested, copies=copies, erased_since=erased_since)


def _aim_at_copies(
    aims: ReferencePredictions, places: Tensor, split: Split, original: nn.Module, objective: Objective
) -> ReferencePredictions:
    """Aim each forgotten sample that has a near-copy at what the original says of the copy. places: as of `find_copies`.

    Raises ReferencesUnusable for a file that keeps other predictions than the objective does now.
    """
    found = (places >= 0).nonzero().flatten()
    # Two samples may have the same copy.
    copies, which = places[found].unique(return_inverse=True)  # type: ignore[no-untyped-call]  # torch's own
    _, predictions, losses = (each[which] for each in sample_signals(original, split.remain.take(copies), objective))
    if predictions.shape[1] != aims.predictions.shape[1]:
        raise ReferencesUnusable("they were prepared when the objective kept other predictions; prepare them again")
    predictions = predictions.to(aims.predictions)
    if objective.predicts is not None:
        losses = objective.predicts.losses(predictions, split.forget.targets.cpu()[found])
    return replace(
        aims,
        predictions=aims.predictions.index_copy(0, found, predictions),
        losses=aims.losses.index_copy(0, found, losses.to(aims.losses)),
    )


def split_train(train: SampleSet, samples: JobSamples, *, digest: Callable[[str], bytes]) -> Split:
    """Split the training set by the digests of a job's samples. Those that are left out are in neither set. digest: hashes an ID.

    Raises SamplesMissing if the training set lacks samples to forget: a report on fewer would claim too much.
    """
    forget, left_out = samples.forget, samples.left_out
    forget_index: list[int] = []
    remain_index: list[int] = []
    for position, sample in enumerate(train.ids):
        hashed = digest(sample)
        if hashed in forget:
            forget_index.append(position)
        elif hashed not in left_out:
            remain_index.append(position)
    if len(forget_index) != len(forget):
        raise SamplesMissing(
            f"The workload's training set has {len(forget_index)} of the {len(forget)} samples to forget. Either the "
            "workload's data has changed since the model was registered, or EXPUNGE_SAMPLE_KEY has."
        )
    return Split(
        forget=train.take(torch.tensor(forget_index, dtype=torch.int64)),
        remain=train.take(torch.tensor(remain_index, dtype=torch.int64)),
    )


def load_workload(reference: str, *, allowed: Sequence[str], details: Mapping[str, object] | None = None) -> Workload:
    """Call the factory that `reference` names, e.g. `examples.digits:workload`.

    details: of the model that it is to be used with; None if there is none yet. Raises WorkloadNotAllowed before anything is
    imported, WorkloadFailed if the module or the factory raises, and InvalidWorkload if its fingerprints are not those in the
    details. The factory's own message is shown: a factory does not know which samples a request names.
    """
    factory = find_factory(reference, allowed=allowed)
    try:
        workload = factory()
    except Exception as error:
        raise _workload_failed(reference, error, owned=allowed) from error
    finally:
        note_loaded_code()  # of what it imported only now
    if not isinstance(workload, Workload):
        raise WorkloadFailed(
            f"Workload {reference!r} returned a {type(workload).__name__}; a factory returns a Workload."
        )
    check_fingerprints(workload, details or {})
    return workload


def find_factory(reference: str, *, allowed: Sequence[str]) -> Callable[[], object]:
    """Import a factory's module and return the factory, without calling it. Raises WorkloadNotAllowed, WorkloadFailed."""
    module, _, name = reference.partition(":")
    check_allowed(reference, allowed=allowed)
    try:
        factory: Callable[[], object] = getattr(importlib.import_module(module), name)
    except Exception as error:
        raise _workload_failed(reference, error, owned=allowed) from error
    finally:
        note_loaded_code()
    return factory


def check_allowed(reference: str, *, allowed: Sequence[str]) -> None:
    """Raise WorkloadNotAllowed unless `reference` is `module:factory` with a module under the allow-list."""
    module, _, name = reference.partition(":")
    if not name.isidentifier() or not all(part.isidentifier() for part in module.split(".")):
        raise WorkloadNotAllowed(
            f"Workload {reference!r} is not of the form module:factory, such as acme.forms:workload for acme/forms.py."
        )
    if not any(module == prefix or module.startswith(f"{prefix}.") for prefix in allowed):
        raise WorkloadNotAllowed(
            f"Workload {reference!r} is not under the allow-list ({', '.join(allowed) or 'empty'}); "
            "the operator adds its module to EXPUNGE_WORKLOADS, a list of module prefixes with commas, for commands and service."
        )


def _workload_failed(reference: str, error: Exception, *, owned: Collection[str] = ()) -> WorkloadFailed:
    message, line = str(error)[:MAX_MESSAGE_LENGTH], owners_line(error, owned)
    place = f" at {line}" if line else ""
    return WorkloadFailed(f"Workload {reference!r} raised {type(error).__name__}{place}: {message}")
