from report.document import read
from report.figures import relearning
from tests.report.samples import sample_report


def legend(*, reference: bool) -> list[str]:
    """The names of the curves, as the picture has them."""
    svg = relearning(read(sample_report(reference=reference))).svg
    return [name for name in ("before", "control", "retrained", "after") if f">{name}</text>" in svg]


def test_every_model_has_its_curve_and_a_retrained_one_where_there_is_one() -> None:
    assert legend(reference=False) == ["before", "control", "after"]
    assert legend(reference=True) == ["before", "control", "retrained", "after"]


def test_a_dot_marks_each_model_that_was_back_and_none_that_was_not() -> None:
    report = sample_report()
    dots = relearning(read(report)).svg.count("<use")
    report["audit"]["relearn"]["delay"]["unlearned"]["censored"] = True
    assert relearning(read(report)).svg.count("<use") == dots - 1
