"""What an audit found, as frozen data and as the report's JSON."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from unlearning.audit.change import Change
from unlearning.audit.comparison import Comparison
from unlearning.audit.delay import Relearning
from unlearning.audit.measures import Measures
from unlearning.audit.membership import Attack
from unlearning.audit.spec import AuditSpec
from unlearning.audit.verdict import Verdict

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
