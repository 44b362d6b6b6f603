"""The dashboard audits."""

from ops.grafana.panels import Rows, bars, graph, number


def audits() -> Rows:
    """What the audits found in each model's newest version."""
    newest = "Of the newest version."
    return {
        "Verdicts": [
            number(
                "Verified", "Ever.", 'sum(expunge_audit_verdicts_total{verdict="verified", model=~"$model"})', width=6
            ),
            number(
                "Inconclusive",
                "Ever.",
                'sum(expunge_audit_verdicts_total{verdict="inconclusive", model=~"$model"})',
                width=6,
            ),
            number(
                "Failed",
                "Ever. A failed result is not published.",
                'sum(expunge_audit_verdicts_total{verdict="failed", model=~"$model"})',
                bad_from=1,
                width=6,
            ),
            number(
                "Samples forgotten",
                "Over all models shown.",
                'sum(expunge_samples_erased_total{model=~"$model"})',
                width=6,
            ),
            bars(
                "Verdicts by model",
                "Over the whole ledger.",
                'sum by (model, verdict) (expunge_audit_verdicts_total{model=~"$model"})',
                rows="model",
                columns="verdict",
                unit="none",
            ),
            graph(
                "Verdicts in the window",
                "By verdict.",
                ('sum by (verdict) (increase(expunge_audit_verdicts_total{model=~"$model"}[$window]))', "{{verdict}}"),
                unit="none",
            ),
        ],
        "Evidence": [
            graph(
                "Membership inference",
                f"{newest} AUC of the attack farthest from 0.5, which is the aim from both sides.",
                ('expunge_audit_membership_auc_ratio{model=~"$model"}', "{{model}}"),
                unit="none",
                top=1,
            ),
            graph(
                "Relearn delay",
                f"{newest} Steps to relearn the forgotten over those for samples never seen: near 1 forgotten, near 0 hidden.",
                ('expunge_audit_relearn_delay_ratio{model=~"$model"}', "{{model}}"),
                unit="percentunit",
            ),
            graph(
                "Test accuracy, after less before",
                f"{newest} What forgetting cost.",
                ('expunge_audit_utility_delta_ratio{model=~"$model"}', "{{model}}"),
                unit="percentunit",
            ),
            graph(
                "Samples forgotten",
                "By model, ever.",
                ('expunge_samples_erased_total{model=~"$model"}', "{{model}}"),
                unit="none",
            ),
        ],
    }
