"""Everything that one job needs in memory: the workload, the served weights, the sets, and what to hold the result against."""

import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from ledger.claims import Claim
from unlearning.errors import WeightsError
from unlearning.samples import SampleSet
from unlearning.weights import load_weights
from unlearning.workload import HeldOut, Workload, split_held_out
from worker.device import choose_device
from worker.settings import Settings
from worker.split import split_train
from worker.workloads import load_workload

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Material:
    """What a job works on, all on one device.

    original: the served model, in eval mode; nobody changes it. forget: D_f. remain: D_r, without anything ever forgotten.
    reference: a model that was trained on D_r alone, where there is one. erased: how many samples of the training set earlier
    jobs made the model forget.
    """

    workload: Workload
    original: nn.Module
    reference: nn.Module | None
    forget: SampleSet
    remain: SampleSet
    erased: int
    held_out: HeldOut
    test: SampleSet
    device: torch.device


def load(claim: Claim, settings: Settings) -> Material:
    """Load a claim's workload and weights, and split its samples.

    Raises WorkloadError, NoGpu, WeightsError, InvalidWorkload.
    """
    workload = load_workload(claim.workload, allowed=settings.allowed)
    device = torch.device(choose_device(settings.device, gpu=torch.cuda.is_available()))
    original = load_model(workload, weights_path(settings.storage, claim.weights_path), claim.weights_sha256, device)
    split = split_train(
        workload.train, dataset=claim.dataset, key=settings.sample_key_bytes, forget=claim.forget, erased=claim.erased
    )
    held_out = split_held_out(workload.held_out)
    return Material(
        workload=workload,
        original=original,
        reference=load_reference(workload, claim, settings, device),
        forget=split.forget.to(device),
        remain=split.remain.to(device),
        erased=split.erased,
        held_out=HeldOut(
            guide=held_out.guide.to(device),
            criterion=held_out.criterion.to(device),
            audit=held_out.audit.to(device),
        ),
        test=workload.test.to(device),
        device=device,
    )


def load_model(workload: Workload, path: Path, sha256: str, device: torch.device) -> nn.Module:
    """Build the workload's model with the weights at `path`, in eval mode. Raises WeightsMissing, WeightsDamaged."""
    model = workload.build()
    load_weights(model, path, sha256)
    return model.to(device).eval()


def load_reference(workload: Workload, claim: Claim, settings: Settings, device: torch.device) -> nn.Module | None:
    """Load the claim's reference; None where it has none, or where the file can not be used: no erasure waits for that."""
    if claim.reference is None:
        return None
    path = weights_path(settings.storage, claim.reference.weights_path)
    try:
        return load_model(workload, path, claim.reference.weights_sha256, device)
    except WeightsError as error:
        logger.warning("job %s is audited without its reference: %s", claim.job_id, error)
        return None


def weights_path(storage: Path, recorded: str) -> Path:
    """Find a version's weights: the ledger records the file's name, so that the storage may move."""
    return storage / recorded
