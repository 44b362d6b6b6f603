import subprocess
import sys

import pytest

from tests.fixtures.waiting import PATIENCE
from unlearning.errors import InvalidSpec
from unlearning.specs.audit import AuditSpec, Thresholds


def test_the_spec_is_imported_without_torch() -> None:
    code = "import sys; sys.modules['torch'] = None; import unlearning.specs.audit"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=PATIENCE)


@pytest.mark.parametrize(
    ("field", "value"),
    [("confidence", 1.0), ("membership_margin", 0.5), ("membership_margin_least", 0.2), ("relearn_ratio", 0.0)],
)
def test_a_threshold_out_of_range_is_refused_by_name(field: str, value: float) -> None:
    with pytest.raises(InvalidSpec) as refused:
        Thresholds(**{field: value})
    assert refused.value.field == field


@pytest.mark.parametrize(
    ("field", "value"),
    [("replicates", 10), ("relearners", ()), ("relearners", ("lbfgs",)), ("relearn_controls", 2), ("batch_size", 0)],
)
def test_a_setting_out_of_range_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(InvalidSpec) as refused:
        AuditSpec(**{field: value})  # type: ignore[arg-type]
    assert refused.value.field == field
