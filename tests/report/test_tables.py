from report.document import read
from report.tables import key_figures
from tests.report.samples import sample_report


def test_without_a_retrained_model_the_control_and_the_original_are_held_against() -> None:
    notes = [row.aim_note for row in key_figures(read(sample_report()))]
    assert notes == ["a coin toss", "data never learned", "error on test data", "as before", "as before"]


def test_a_retrained_model_is_held_against_where_there_is_one() -> None:
    rows = key_figures(read(sample_report(reference=True)))
    assert {row.aim_note for row in rows[1:]} == {"retrained without them"}
    assert rows[3].aim.startswith("99.5")
