from report.document import read
from report.figures import references, relearning, utility
from tests.report.recorded import recorded, stored


def legend(name: str) -> list[str]:
    """The names of the curves in a recorded report's picture."""
    svg = relearning(recorded(name).report).svg
    return [label for label in ("before", "control", "retrained", "after") if f">{label}</text>" in svg]


def test_every_model_has_its_curve_and_a_retrained_one_if_there_is_one() -> None:
    assert legend("verified") == ["before", "control", "after"]
    assert legend("retrained") == ["before", "control", "retrained", "after"]


def test_a_dot_marks_each_model_that_was_back_and_none_that_was_not() -> None:
    report = stored("verified")
    report["audit"]["relearn"]["delay"]["unlearned"]["censored"] = False
    dots = relearning(read(report).report).svg.count("<use")
    report["audit"]["relearn"]["delay"]["unlearned"]["censored"] = True
    assert relearning(read(report).report).svg.count("<use") == dots - 1


def test_of_many_classes_the_most_changed_are_drawn() -> None:
    report = stored("verified")
    report["audit"]["utility"]["per_class"] = [
        {"class": f"class-{number:02d}", "original": 90.0, "unlearned": 90.0 - number} for number in range(40)
    ]
    (panel,) = utility(read(report).report)
    assert [number for number in range(40) if f"class-{number:02d}" in panel.svg] == list(range(28, 40))


def test_without_classes_there_is_no_picture_of_them() -> None:
    report = stored("verified")
    report["audit"]["utility"]["per_class"] = []
    assert utility(read(report).report) == []


def test_the_reference_test_is_drawn_for_each_model_and_only_where_there_was_one() -> None:
    distances, power = references(recorded("retrained").report)
    assert [label for label in ("before", "after", "retrained") if f">{label}</text>" in distances.svg] == [
        "before",
        "after",
        "retrained",
    ]
    assert "retrained" not in references(recorded("verified").report)[0].svg
    assert ">these samples</text>" in power.svg
    assert references(recorded("inconclusive").report) == []
