import errno
import json

import pytest
import torch
from sqlalchemy.exc import InterfaceError, OperationalError, TimeoutError
from torch import Tensor, nn

from ledger.errors import JobCancelled, StaleClaim
from ledger.states import Reason
from report.document import InvalidReport
from unlearning.data.stored import StoredSet
from unlearning.errors import InvalidWorkload, MethodRefused, NotFinite, WeightsDamaged, WeightsMisfit, WeightsMissing
from worker.failures import (
    AuditFailed,
    NoGpu,
    NoSigningKey,
    ShuttingDown,
    WorkloadFailed,
    as_method_failure,
    classify,
    describe,
)


def raised(error: Exception) -> Exception:
    try:
        raise error
    except Exception as caught:
        return caught


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "reason", "retry"),
    [
        (WeightsMissing("gone"), Reason.WEIGHTS_MISSING, False),
        (WeightsDamaged("other digest"), Reason.WEIGHTS_DAMAGED, False),
        (WeightsMisfit("another network"), Reason.WORKLOAD_FAILED, False),
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
        (NotFinite("a weight is NaN"), Reason.METHOD_FAILED, False),
        (caused(WorkloadFailed("raised"), ConnectionResetError("peer")), Reason.WORKLOAD_FAILED, True),
        (caused(WorkloadFailed("raised"), MemoryError()), Reason.OUT_OF_MEMORY, True),
        (caused(WorkloadFailed("raised"), FileNotFoundError("no data")), Reason.WORKLOAD_FAILED, False),
    ],
)
def test_each_error_has_its_reason(error: Exception, reason: Reason, retry: bool) -> None:
    found = classify(raised(error))
    assert (found.reason, found.retry) == (reason, retry)


@pytest.mark.parametrize(
    ("cause", "retry"), [(ConnectionResetError, True), (FileNotFoundError, False), (KeyError, False)]
)
def test_a_sample_that_a_network_did_not_bring_is_read_again_later(cause: type[Exception], retry: bool) -> None:
    class Remote(torch.utils.data.Dataset[Tensor]):
        def __len__(self) -> int:
            return 3

        def __getitem__(self, number: int) -> Tensor:
            raise cause("private")

    with pytest.raises(InvalidWorkload) as raised:
        StoredSet.of(Remote(), ids=range(3)).targets  # noqa: B018
    found = classify(raised.value)

    assert (found.reason, found.retry) == (Reason.WORKLOAD_FAILED, retry)
    assert "private" not in found.detail


def test_an_error_that_nobody_foresaw_is_described_by_type_and_place_only() -> None:
    detail = classify(raised(KeyError("digit-0007"))).detail
    assert detail.startswith("KeyError at test_failures.py:")
    assert "digit" not in detail


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.AcceleratorError("CUDA error: unspecified launch failure"),
        OSError(errno.ENOSPC, "No space left on device"),
        ConnectionResetError("peer"),
        caused(ValueError("the shard cannot be read"), TimeoutError("read")),
        OperationalError("", None, Exception()),
        InterfaceError("", None, Exception()),
        TimeoutError("no connection is free"),
        StaleClaim("lost"),
        JobCancelled("cancelled"),
        ShuttingDown("stopping"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_that_may_pass_or_that_stops_the_run_is_no_failure_of_the_method(error: Exception) -> None:
    assert as_method_failure(raised(error)) is None


@pytest.mark.parametrize(
    "error", [KeyError("x"), NotImplementedError("no second derivative"), FileNotFoundError("gone"), NotFinite("NaN")]
)
def test_an_error_that_will_come_again_is_one(error: Exception) -> None:
    found = as_method_failure(raised(error))
    assert found is not None
    assert (classify(found).reason, classify(found).retry) == (Reason.METHOD_FAILED, False)


def caught(action: object) -> Exception:
    try:
        action()  # type: ignore[operator]  # any function
    except Exception as error:
        return error
    raise AssertionError("it raised nothing")


def test_what_the_owners_own_code_and_torch_say_is_shown_without_sample_ids() -> None:
    def forward() -> None:
        raise ValueError("scan-12 has 3 channels, the model wants 1; scan-123 and 3 more too")

    owned = describe(caught(forward), owned=("tests",), ids=("scan-12", "scan-123", "3"))
    assert owned.startswith("ValueError at test_failures.py:")
    assert "channels, the model wants 1" in owned
    assert "scan-12" not in owned
    by_torch = describe(caught(lambda: nn.Linear(3, 2)(torch.zeros(4, 5))))
    assert "mat1 and mat2" in by_torch
    ours = describe(caught(forward))
    assert "channels" not in ours


def test_what_the_ledger_cannot_hold_of_a_message_is_replaced() -> None:
    """PostgreSQL refuses it, and the attempt would have no reason."""
    for error in (WorkloadFailed("a\0b\udcff.png"), InvalidWorkload("a\0b\udcff.png")):
        assert classify(error).detail == "a?b?.png"


def test_an_error_of_a_library_names_the_owners_line_that_called_it() -> None:
    error = caught(lambda: nn.Linear(3, 2)(torch.zeros(4, 5)))
    line = error.__traceback__.tb_next.tb_lineno if error.__traceback__ and error.__traceback__.tb_next else 0
    assert describe(error, owned=("tests",)).startswith(f"RuntimeError at test_failures.py:{line}, in linear.py:")
    assert describe(error).startswith("RuntimeError at linear.py:")


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("no file scan_17.png, nor a-17/17:17", "no file scan_(an ID).png, nor a-(an ID)/(an ID):(an ID)"),
        ("17 of 1700 rows, a17, 17b, 0x17", "(an ID) of 1700 rows, a17, 17b, 0x17"),
        ("cannot open ann@example.org", "cannot open (an ID)"),
        ("thumbann@example.orgx", "thumb(an ID)x"),
        ("ann, bann", "(an ID), bann"),
        ("image-2024-10 and image-2024-1", "(an ID) and (an ID)"),
        ("?who=ann%40example.org&place=caf%C3%A9", "?who=(an ID)&place=(an ID)"),
        (repr('O\'Brien \\ "Bo"') + json.dumps("caf\xe9"), "'(an ID)'\"(an ID)\""),
        ("ID an (an ID)", "ID an (an ID)"),
    ],
)
def test_an_id_is_taken_out_however_it_is_written_and_a_short_one_only_as_a_word(message: str, shown: str) -> None:
    ids = ("17", "ann", "ann@example.org", "image-2024-1", "image-2024-10", 'O\'Brien \\ "Bo"', "caf\xe9")
    assert classify(WorkloadFailed(message), ids=ids).detail == shown


def test_the_counts_in_a_message_of_ours_are_no_sample_ids() -> None:
    """IDs may be numbers."""
    failed = raised(AuditFailed("The audit failed ieu. The audit of the 80 forgotten samples failed."))
    assert "80 forgotten" in classify(failed, ids=("80",)).detail
    factory = raised(WorkloadFailed("it has no row 80"))
    assert "80" not in classify(factory, ids=("80",)).detail
