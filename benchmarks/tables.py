"""Generate the tables of docs/benchmarks.md, docs/benchmarks/, docs/gpu.md and of the README from benchmarks/results/*.json.

    python -m benchmarks.tables           rewrite the text between the markers
    python -m benchmarks.tables --check   exit with status 1 if a page would change

A page contains `<!-- table: quality average_gap ua ra ta mi -->` … `<!-- end -->`: the file, then the metrics that are the columns;
`case=digits*:` before them chooses cases by a pattern. With `across:` before the metrics the numbers of samples are the columns.
`<!-- table: summary -->` is the README's: cost and gap.
"""

import argparse
import json
import re
import sys
from fnmatch import fnmatchcase
from pathlib import Path

from benchmarks.writing import RESULTS, Row, read

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = (DOCS / "benchmarks.md", *sorted((DOCS / "benchmarks").glob("*.md")), DOCS / "gpu.md", ROOT / "README.md")
MARK = re.compile(
    r"(<!-- table: (?P<name>\w+)(?: case=(?P<case>[^:>]+):)?(?P<across> across:)?(?P<metrics>[^>]*) -->\n).*?(?P<end><!-- end -->)",
    re.DOTALL,
)
_SAMPLES = re.compile(r"(\d+) samples$")
NAMES = {
    "average_gap": "average gap",
    "ua": "UA",
    "ra": "RA",
    "ta": "TA",
    "mi": "MI",
    "ta_lost": "TA lost",
    "membership_auc": "AUC",
    "forget_loss": "loss on D_f",
    "forget_loss_gap": "its gap",
    "forget_ks": "KS",
    "min_k_plus_auc": "AUC, Min-K%++",
    "proximal_auc": "AUC, PIA",
    "forgotten_class": "taken for the class",
    "regeneration": "reproduced",
    "other_classes": "others as asked",
    "frechet_distance": "Fréchet",
    "frechet_ratio": "Fréchet / θ_r's",
    "explained_remain_gap": "explained on D_r − θ_r's",
    "explained_test_gap": "on D_t",
    "perplexity_remain": "perplexity on D_r",
    "perplexity_test": "on D_t",
    "perplexity_calibrated": "on D_t, calibrated",
    "perplexity_lost_remain": "lost on D_r",
    "perplexity_lost_test": "lost on D_t",
    "zlib_auc": "AUC, zlib",
    "min_k_auc": "AUC, Min-K%",
    "reference_auc": "AUC beside θ_r",
    "lira_auc": "LiRA",
    "ulira_auc": "U-LiRA",
    "rmia_auc": "RMIA",
    "lira_of_all_auc": "LiRA, all models",
    "ulira_of_all_auc": "U-LiRA, all models",
    "klom": "KLoM, nats",
    "klom_null": "of θ_r, nats",
    "forgetting_null": "of θ_r",
    "privacy_leakage": "PrivLeak",
    "forget_quality": "p of the truth ratios",
    "knowledge_forget": "answers about D_f",
    "knowledge_remain": "about D_r",
    "knowledge_unseen": "about facts never seen",
    "token_bytes": "a token",
    "perplexity_ratio_remain": "perplexity on D_r / θ_r's",
    "perplexity_ratio_test": "on D_t",
    "relearn_delay_sgd": "T, SGD",
    "relearn_delay_adam": "T, Adam",
    "relearn_delay_ratio_sgd": "T / T(θ_r), SGD",
    "relearn_delay_ratio_adam": "T / T(θ_r), Adam",
    "relearn_delay_to_control_sgd": "T / control, SGD",
    "relearn_delay_normalised_sgd": "normalised, SGD",
    "retrain_ratio": "share of retraining",
    "peak_memory": "memory, MiB",
    "wall_seconds": "wall-clock seconds",
    "held_memory": "held by a process, MiB",
    "step_seconds": "a step",
    "compile_seconds": "the first step",
    "waiting_share": "share of time that it waited",
}
CASES = {"digits": "3,000 digits", "cifar": "5,000 CIFAR-10 images"}
"""The titles of the README's cases."""
SOURCES = ("speed", "quality_others", "quality_cifar_others", "quality", "quality_cifar")
"""The files of the README's figures; where two have a figure, the later one counts."""
SUMMARY = {
    "LTU": "ltu",
    "IEU": "ieu",
    "matching": "matching",
    "retraining again": "retrain",
}
"""The README's rows, and the methods that they show."""


def main() -> None:
    """Rewrite or check the pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    given = parser.parse_args()
    stale = [page for page in PAGES if page.exists() and filled(page.read_text()) != page.read_text()]
    for page in stale:
        if given.check:
            print(f"{page.relative_to(ROOT)} differs from benchmarks/results; run python -m benchmarks.tables")
        else:
            page.write_text(filled(page.read_text()))
    sys.exit(given.check and bool(stale))


def filled(text: str) -> str:
    """Generate each marked table of a page's text."""
    return MARK.sub(
        lambda m: f"{m[1]}{_content(m)}\n{m['end']}",
        text,
    )


def _content(marker: re.Match[str]) -> str:
    if marker["name"] == "summary":
        return summary()
    make = across if marker["across"] else table
    return make(marker["name"], marker["metrics"].split(), case=marker["case"])


def table(name: str, metrics: list[str], *, case: str | None = None) -> str:
    """Generate a table: a row a case and method, a column a metric (mean ± half a 95 % interval), and below it the command.

    A case is named in its first row alone.
    """
    rows = [r for r in read(name) if case is None or fnmatchcase(r.case, case)]
    found = {(r.case, r.method, r.metric): r for r in rows}
    metrics = metrics or list(dict.fromkeys(r.metric for r in rows))
    cases = list(dict.fromkeys((r.case, r.method) for r in rows if r.metric in metrics))
    units = {r.metric: r.unit for r in rows}
    head = ["case", "method", "n", *(_titled(m, units.get(m, "")) for m in metrics)]
    lines = [head, ["---", "---", *["--:"] * (1 + len(metrics))]]
    before = None
    for one, method in cases:
        cells = [found.get((one, method, metric)) for metric in metrics]
        n = next((cell.n for cell in cells if cell), 0)
        title = "" if one == before else one
        lines.append([title, method.replace("_", " "), str(n), *(_shown(cell) for cell in cells)])
        before = one
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + f"\n\n{_made(name)}"


def _samples(case: str) -> str:
    """Find the number of samples in a case's name."""
    found = _SAMPLES.search(case)
    assert found is not None, case
    return found[1]


def across(name: str, metrics: list[str], *, case: str | None = None) -> str:
    """Generate a table of cases such as "digits, 10 samples": a row a method and metric, a column a number of samples."""
    rows = [r for r in read(name) if r.metric in metrics and (case is None or fnmatchcase(r.case, case))]
    found = {(r.case, r.method, r.metric): r for r in rows}
    cases = sorted({r.case for r in rows}, key=lambda one: int(_samples(one)))
    of_method = [(method, m) for method in dict.fromkeys(r.method for r in rows) for m in metrics]
    head = ["model", "", *map(_samples, cases)]
    lines = [head, ["---", "---", *["--:"] * len(cases)]]
    before = None
    for method, metric in of_method:
        cells = [found.get((one, method, metric)) for one in cases]
        unit = next((cell.unit for cell in cells if cell), None)
        if unit is not None:
            title = "" if method == before else method.replace("_", " ")
            lines.append([title, _titled(metric, unit), *(_shown(cell) for cell in cells)])
            before = method
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + f"\n\n{_made(name)}"


def summary() -> str:
    """The README's table: what methods cost and how near to retraining they come, a row a method, two columns a case."""
    found = {(r.case, r.method, r.metric): r for name in SOURCES for r in read(name)}
    head = ["", *(f"{title}: {what}" for title in CASES.values() for what in ("cost", "gap"))]
    lines = [head, ["---", *["--:"] * (len(head) - 1)]]
    for title, method in SUMMARY.items():
        cells = [found.get((case, method, metric)) for case in CASES for metric in ("retrain_ratio", "average_gap")]
        lines.append([title, *map(_shown, cells)])
    before = " and ".join(_shown(found.get((case, "original", "average_gap"))) for case in CASES)
    made = "Made by `python -m benchmarks.quality` and `benchmarks.speed`."
    return (
        "\n".join(f"| {' | '.join(line)} |" for line in lines)
        + f"\n\nBefore unlearning the gap is {before}. ± is half a 95 % interval. {made}"
    )


def _titled(metric: str, unit: str) -> str:
    sign = {"percent": ", %", "share": ", %", "points": ", points", "seconds": ", s", "bytes": ", bytes"}.get(unit, "")
    return NAMES.get(metric, metric.replace("_", " ")) + sign


def _shown(row: Row | None) -> str:
    if row is None:
        return "–"
    if row.n == 1 and not row.unit and row.mean.is_integer():  # a count
        return f"{row.mean:,.0f}"
    if row.unit == "share" and row.n == 1:
        return "yes" if row.mean == 1 else "no"
    if row.unit == "share":
        mean, low, high = (round(100 * value) for value in (row.mean, row.low, row.high))
        return f"{mean} ({low} to {high})"
    size = abs(row.mean)
    digits = 0 if size >= 1000 else 1 if size >= 10 else 2 if size >= 0.1 or size == 0 else 3
    half = (row.high - row.low) / 2
    return f"{row.mean:,.{digits}f}" + (f" ± {half:,.{digits}f}" if row.n > 1 else "")


def _made(name: str) -> str:
    path = RESULTS / f"{name}.json"
    if not path.exists():
        return f"Not yet measured: `python -m benchmarks.{name}`."
    found = json.loads(path.read_text())
    return f"`{found['command']}`, commit {found['commit']}, {found['machine']}."


if __name__ == "__main__":
    main()
