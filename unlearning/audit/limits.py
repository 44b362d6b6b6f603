"""What an audit does not show, in words: part of every report."""

from unlearning.audit.findings import Membership
from unlearning.audit.membership import Pairing, half_width
from unlearning.audit.spec import AuditSpec


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
