import errno

import pytest
import torch

from ledger.states import Reason
from report.document import InvalidReport
from unlearning.errors import MethodRefused, WeightsDamaged, WeightsMissing
from worker.failures import NoGpu, NoSigningKey, WorkloadFailed, classify


def raised(error: Exception) -> Exception:
    try:
        raise error
    except Exception as caught:
        return caught


@pytest.mark.parametrize(
    ("error", "reason", "retry"),
    [
        (WeightsMissing("gone"), Reason.WEIGHTS_MISSING, False),
        (WeightsDamaged("other digest"), Reason.WEIGHTS_DAMAGED, False),
        (WorkloadFailed("raised"), Reason.WORKLOAD_FAILED, False),
        (MethodRefused("no logits"), Reason.METHOD_REFUSED, False),
        (NoSigningKey("none"), Reason.SIGNING_FAILED, False),
        (InvalidReport(["Estimate/low: Input should be a finite number"]), Reason.UNEXPECTED, False),
        (MemoryError(), Reason.OUT_OF_MEMORY, True),
        (torch.OutOfMemoryError("CUDA out of memory"), Reason.OUT_OF_MEMORY, True),
        (torch.AcceleratorError("CUDA error: out of memory"), Reason.OUT_OF_MEMORY, True),
        (torch.AcceleratorError("CUDA error: unspecified launch failure"), Reason.GPU_LOST, True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), Reason.GPU_LOST, True),
        (NoGpu("CUDA finds none"), Reason.GPU_LOST, True),
        (OSError(errno.ENOSPC, "No space left on device"), Reason.DISK_FULL, True),
        (OSError(errno.EDQUOT, "Quota exceeded"), Reason.DISK_FULL, True),
        (KeyError("digit-0007"), Reason.UNEXPECTED, True),
    ],
)
def test_each_error_has_its_reason(error: Exception, reason: Reason, retry: bool) -> None:
    found = classify(raised(error))
    assert (found.reason, found.retry) == (reason, retry)


def test_an_error_that_nobody_foresaw_is_described_by_type_and_place_only() -> None:
    detail = classify(raised(KeyError("digit-0007"))).detail
    assert detail.startswith("KeyError at test_failures.py:")
    assert "digit" not in detail
