"""What an audit found, as frozen data and as the report's JSON."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from unlearning.audit.comparison import Change, Comparison
from unlearning.audit.measures import Measures
from unlearning.audit.membership import Attack, Pairing, half_width
from unlearning.audit.relearning import Relearning
from unlearning.audit.verdict import Verdict
from unlearning.specs.audit import AuditSpec

Json = dict[str, object]


@dataclass(frozen=True, kw_only=True, slots=True)
class Membership:
    """attacks: by name, on the original and on the unlearned model. spread: the attack on the distance from the held-out
    median, which sees forgetting that made some samples too good and others too bad. roc, losses: for plotting.
    matched: whether the held-out samples were weighted to the forget set's class mix. unmatched: forgotten samples left out,
    because no held-out sample has their class. compared: forgotten samples that were compared. margin: how far from 0.5
    they may lie.
    """

    original: Mapping[str, Attack]
    unlearned: Mapping[str, Attack]
    roc: Json
    losses: Json
    matched: bool
    unmatched: int
    compared: int
    margin: float

    def to_json(self) -> Json:
        """The report's `membership`: the attacks that it names."""
        names = [name for name in self.original if name != "spread"]
        rows = [
            {"name": name, "original": self.original[name].to_json(), "unlearned": self.unlearned[name].to_json()}
            for name in names
        ]
        return {"attacks": rows, "roc": self.roc, "losses": self.losses}


@dataclass(frozen=True, kw_only=True, slots=True)
class Findings:
    """Everything that an audit measured, and its verdict.

    relearnings: by relearner; the first is the report's. comparison: against a retrained model, where there is one.
    samples: how many of each set. utility: per class, agreement, Jensen-Shannon. measures: by model.
    """

    spec: AuditSpec
    samples: Mapping[str, int]
    measures: Mapping[str, Measures]
    membership: Membership
    relearnings: tuple[Relearning, ...]
    utility: Json
    change: Change
    comparison: Comparison | None
    verdict: Verdict
    limits: tuple[str, ...]
    seconds: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> Json:
        """The report's `audit`, `verdict`, `thresholds` and `limits`: plain JSON without NaN or Infinity."""
        reference = self.measures.get("reference")
        return {
            "audit": {
                "samples": dict(self.samples),
                "measures": {
                    "original": self.measures["original"].to_json(),
                    "unlearned": self.measures["unlearned"].to_json(),
                    "reference": reference.to_json() if reference else None,
                },
                "membership": self.membership.to_json(),
                "relearn": self.relearnings[0].to_json(),
                "utility": self.utility,
                "change": self.change.to_json(),
            },
            "verdict": self.verdict.to_json(),
            "thresholds": {**self.spec.to_json(), "membership_margin_used": self.membership.margin},
            "limits": list(self.limits),
        }


def limits(
    *, membership: Membership, pairing: Pairing, forget: int, spec: AuditSpec, reference: bool = False
) -> tuple[str, ...]:
    """The general limits, and those of this forget set."""
    said = [
        "It does not show that no trace is left: influence was found to be below, or above, the stated thresholds under the "
        "stated attacks.",
        "Attacks with reference models (LiRA, U-LiRA, RMIA) were not run; they can recognise samples that these attacks miss, "
        "one sample at a time.",
        "The figures are about the forgotten samples as a set; a single person's samples among them may still be "
        "recognisable.",
        "It is about this model version only: not about copies, backups, earlier versions, logs, or models trained from its "
        "outputs.",
        "Data never seen are represented by the held-out set, which must come from the same source as the training data.",
    ]
    if reference:
        said.append(
            "That the retrained model never saw the forgotten samples is what whoever trained it says; the audit cannot see it."
        )
    width = half_width(len(pairing.forget), pairing.effective, confidence=spec.thresholds.confidence)
    if width > spec.thresholds.membership_margin:
        said.append(
            f"With {forget:,} forgotten samples, an AUC is known to no better than ± {width:.2f}: an effect within "
            f"± {spec.thresholds.membership_margin:g} can be neither shown nor excluded, by any method, even by retraining."
        )
    if pairing.effective < 1000:
        said.append(
            f"With {pairing.effective:.0f} comparable held-out samples, rates at 1 % and 0.1 % false positives cannot be stated "
            "(1,000 and 10,000 are needed)."
        )
    if membership.matched:
        said.append("Held-out samples were weighted to the class mix of the forget set.")
    if membership.unmatched:
        said.append(
            f"{membership.unmatched:,} forgotten samples were left out of the membership attacks: no held-out sample has "
            "their class."
        )
    return tuple(said)
