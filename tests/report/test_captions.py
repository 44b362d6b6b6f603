import pytest

from report import captions
from report.attacks import attack_name
from report.document import read
from report.formatting import delay
from tests.report.recorded import Json, recorded, stored
from unlearning.specs.audit import AuditSpec


def estimate(value: float, low: float, high: float) -> Json:
    return {"value": value, "low": low, "high": high}


def test_it_is_said_which_checks_decide() -> None:
    assert captions.deciding(recorded("verified").report).startswith("The reference test decides.")
    assert captions.deciding(recorded("inconclusive").report).startswith("Membership attacks and relearning decide")


def test_the_strongest_attack_is_the_one_furthest_from_a_coin_toss_on_either_side() -> None:
    report = stored("verified")
    report["audit"]["membership"]["attacks"][2]["unlearned"]["auc"] = estimate(0.1, 0.05, 0.15)
    _, (name, after) = captions.strongest(read(report).report)
    assert (name, after.auc.value) == ("entropy", 0.1)


def test_the_caption_has_the_plotted_attacks_numbers() -> None:
    report = stored("verified")
    assert report["audit"]["membership"]["roc"]["attack"] == "loss"
    report["audit"]["membership"]["attacks"][0]["original"]["auc"] = estimate(0.74, 0.7, 0.79)
    assert "0.74 before (0.70 to 0.79)" in captions.membership(read(report).report)


def test_the_caption_of_the_curve_names_the_attack_that_recognises_most_and_all_ranges_are_of_one_confidence() -> None:
    report = stored("verified")
    report["audit"]["membership"]["attacks"][2]["unlearned"]["auc"] = estimate(0.94, 0.72, 1.0)
    assert "The strongest attack after is by entropy: 0.94 (0.72 to 1.00)" in captions.membership(read(report).report)
    assert AuditSpec().confidence == AuditSpec().thresholds.confidence


def test_an_attack_is_called_by_its_name_or_by_its_code_in_words() -> None:
    named = (attack_name(name) for name in ("modified_entropy", "min_k_plus", "a_signal_of_ours"))
    assert [*named] == ["modified entropy", "Min-K%++", "a signal of ours"]


def test_privacy_leakage_is_in_the_caption_where_it_was_measured() -> None:
    report = stored("verified")
    assert "PrivLeak" not in captions.membership(read(report).report)
    report["audit"]["privacy_leakage"] = {"attack": "min_k", "original": -98.4, "unlearned": 3.2}
    assert "PrivLeak by Min-K% is -98\N{NO-BREAK SPACE}% before and 3\N{NO-BREAK SPACE}% after" in captions.membership(
        read(report).report
    )


def test_the_mean_loss_is_that_of_the_histogram() -> None:
    report = stored("verified")
    report["audit"]["membership"]["losses"] = {
        "bins": [0, 1, 3],
        "original": {"forget": [1, 0], "held_out": [0, 0.5], "remain": [1, 0]},
        "unlearned": {"forget": [0, 0.5], "held_out": [0.5, 0.25], "remain": [0.4, 0.3]},
    }
    caption = captions.losses(read(report).report)
    assert [number for number in ("less than 1.00", "2.00", "1.25", "1.40") if number not in caption] == []


def test_a_retrained_models_delay_is_in_the_caption() -> None:
    report = recorded("retrained").report
    assert report.audit.relearn.delay.reference is not None
    assert delay(report.audit.relearn.delay.reference) in captions.relearning(report)


def test_the_average_gap_is_the_mean_of_four_differences() -> None:
    report = stored("retrained")
    for name, values in {
        "original": (0, 100, 90, 4),
        "unlearned": (8, 98, 89, 10),
        "reference": (10, 99, 90, 12),
    }.items():
        for measure, value in zip(("ua", "ra", "ta", "mi_salun"), values, strict=True):
            report["audit"]["measures"][name][measure] = estimate(value, value, value)
    measures = read(report).report.audit.measures
    assert measures.reference is not None
    assert captions.average_gap(measures.original, measures.reference) == 4.75
    assert captions.average_gap(measures.unlearned, measures.reference) == 1.5


def test_the_class_that_changed_most_comes_first_whether_it_lost_or_gained() -> None:
    report = stored("verified")
    report["audit"]["utility"]["per_class"][7] = {"class": "seven", "original": 60.0, "unlearned": 99.0}
    classes = captions.most_changed(read(report).report.audit.utility.per_class)
    assert classes[0].label == "seven"


def test_the_caption_of_the_reference_test_says_how_many_samples_a_verdict_takes() -> None:
    report = stored("verified")
    report["audit"]["reference_test"]["samples_needed"] = 30
    assert "About 30 typical samples are enough" in captions.references(read(report).report)
    report["audit"]["reference_test"]["samples_needed"] = None
    assert "typical samples" not in captions.references(read(report).report)
    assert captions.references(recorded("inconclusive").report) == ""


@pytest.mark.parametrize(("value", "nearer"), [(1.25, "those of such models"), (-1.25, "the original's")])
def test_the_caption_of_the_reference_test_says_whose_answers_the_new_model_s_are_nearer_to(
    value: float, nearer: str
) -> None:
    report = stored("verified")
    given = {"value": value, "unseen": 1.5, "low": 0.5, "original": -2.75, "p_value": 0.01, "to_original": value < 0}
    report["audit"]["reference_test"]["nearness"] = given
    assert f"1.25 nats nearer to {nearer}" in captions.references(read(report).report)
