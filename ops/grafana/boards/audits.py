"""The dashboard of audits."""

from ops.grafana.panels import Builder, Rows, bars, coloured, graph, number

COLOURS = {"verified": "green", "inconclusive": "orange", "failed": "red"}
"""By verdict, as in the reports."""


def verdicts(verdict: str, text: str) -> Builder:
    """Show how many audits ended with a verdict in the window, in the verdict's colour; none is no colour."""
    counted = f'sum(increase(expunge_audit_verdicts_total{{verdict="{verdict}", tenant=~"$tenant", model=~"$model"}}[$window]))'
    colour = COLOURS[verdict]
    return number(
        verdict.capitalize(), f"In the window. {text}", counted, bad_from=0.5, bad=colour, good="text", width=6
    )


def audits() -> Rows:
    """Verdicts, and the findings about each model's newest version."""
    newest = "Of the newest version."
    return {
        "Verdicts": [
            verdicts(
                "verified",
                "The attacks do not distinguish the forgotten samples from unseen ones beyond the thresholds.",
            ),
            verdicts("inconclusive", "The data do not suffice to decide."),
            verdicts("failed", "Published only if it was retrained, which is exact."),
            number(
                "Samples forgotten",
                "Over all models shown.",
                'sum(expunge_samples_erased_total{tenant=~"$tenant", model=~"$model"})',
                width=6,
            ),
            coloured(
                bars(
                    "Verdicts by model",
                    "Since the installation.",
                    'sum by (model, verdict) (expunge_audit_verdicts_total{tenant=~"$tenant", model=~"$model"})',
                    rows="model",
                    columns="verdict",
                    unit="none",
                ),
                COLOURS,
            ),
            coloured(
                graph(
                    "Verdicts in the window",
                    "By verdict.",
                    (
                        'sum by (verdict) (increase(expunge_audit_verdicts_total{tenant=~"$tenant", model=~"$model"}[$window]))',
                        "{{verdict}}",
                    ),
                    unit="none",
                ),
                COLOURS,
            ),
        ],
        "Evidence": [
            graph(
                "Membership inference",
                f"{newest} AUC of the attack farthest from 0.5, the target.",
                ('expunge_audit_membership_auc_ratio{tenant=~"$tenant", model=~"$model"}', "{{model}}"),
                unit="none",
                top=1,
            ),
            graph(
                "Relearn delay",
                f"{newest} Steps to relearn the forgotten samples over those for unseen ones: near 1 forgotten, near 0 hidden. "
                "Values above 2 are shown as 2.",
                ('clamp_max(expunge_audit_relearn_delay_ratio{tenant=~"$tenant", model=~"$model"}, 2)', "{{model}}"),
                unit="none",
            ),
            graph(
                "Change of merit on test data",
                f"{newest} What unlearning cost, in accuracy for a classifier.",
                ('expunge_audit_utility_delta_ratio{tenant=~"$tenant", model=~"$model"}', "{{model}}"),
                unit="percentunit",
            ),
            graph(
                "Samples forgotten",
                "By model, in total.",
                ('expunge_samples_erased_total{tenant=~"$tenant", model=~"$model"}', "{{model}}"),
                unit="none",
            ),
            graph(
                "Stored versions that know erased people",
                "By model, until `expunge purge` deletes their weights.",
                ('expunge_versions_knowing_erased{tenant=~"$tenant", model=~"$model"}', "{{model}}"),
                unit="none",
            ),
        ],
    }
