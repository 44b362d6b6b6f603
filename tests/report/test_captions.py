from report import captions as answers
from report.document import read
from tests.report.samples import sample_report


def test_the_strongest_attack_is_the_one_furthest_from_a_coin_toss_on_either_side() -> None:
    report = sample_report()
    attacks = report["audit"]["membership"]["attacks"]
    attacks[2]["unlearned"]["auc"] = {"value": 0.2, "low": 0.1, "high": 0.3}
    _, (name, after) = answers.strongest(read(report))
    assert (name, after.auc.value) == ("entropy", 0.2)


def test_the_caption_names_the_attack_and_its_numbers() -> None:
    report = sample_report()
    report["audit"]["membership"]["attacks"][0]["original"]["auc"] = {"value": 0.74, "low": 0.7, "high": 0.79}
    text = answers.membership(read(report))
    assert text.startswith("By loss,")
    assert "0.74 before (0.70 to 0.79)" in text


def test_too_few_held_out_samples_are_said_and_not_hidden() -> None:
    report = sample_report()
    report["audit"]["membership"]["attacks"][0]["unlearned"]["tpr_at_1_fpr"] = None
    assert "too few held-out samples" in answers.membership(read(report))


def test_the_mean_loss_is_that_of_the_histogram() -> None:
    report = sample_report()
    report["audit"]["membership"]["losses"] = {
        "bins": [0, 1, 3],
        "original": {"forget": [1, 0], "held_out": [0, 0.5], "remain": [1, 0]},
        "unlearned": {"forget": [0, 0.5], "held_out": [0.5, 0.25], "remain": [1, 0]},
    }
    text = answers.losses(read(report))
    assert "0.50 before and 2.00 after" in text
    assert "now about 1.25" in text


def test_a_retrained_model_is_mentioned_only_where_there_is_one() -> None:
    assert "retrained" not in answers.relearning(read(sample_report()))
    assert "retrained" in answers.relearning(read(sample_report(reference=True)))


def test_the_average_gap_to_a_retrained_model_is_told_where_there_is_one() -> None:
    report = sample_report(reference=True)
    for name, values in {
        "original": (0, 100, 90, 4),
        "unlearned": (8, 98, 89, 10),
        "reference": (10, 99, 90, 12),
    }.items():
        for measure, value in zip(("ua", "ra", "ta", "mi_salun"), values, strict=True):
            report["audit"]["measures"][name][measure] = {"value": value, "low": value, "high": value}
    assert "was 4.8 points before and is 1.5 after" in answers.basis(read(report))
    assert "average gap" not in answers.basis(read(sample_report()))


def test_the_class_that_changed_most_is_named_whether_it_lost_or_gained() -> None:
    report = sample_report()
    report["audit"]["utility"]["per_class"][7] = {"class": "seven", "original": 80.0, "unlearned": 99.0}
    assert "The class that changed most is seven" in answers.utility(read(report))


def test_an_unknown_retraining_time_is_said() -> None:
    report = sample_report()
    report["timings"]["retrain_estimate"] = None
    assert "not known" in answers.time(read(report))
