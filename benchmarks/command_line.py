"""The command line of the benchmarks of methods: which cases and seeds to run on."""

import argparse
from collections.abc import Sequence

from benchmarks.cases import WORKLOADS

SEEDS = (100, 101, 102, 103, 104)
"""The seeds of the tables. No default and no tuned parameter was chosen on them."""

BOTH_DIGITS = ("digits", "digits_prepared")
"""The cases on which every method is compared, for a machine with neither a GPU nor CIFAR."""

Chosen = tuple[str, tuple[int, ...]]
"""A case and its seeds."""


def cases_and_seeds(
    description: str | None, *, default: Sequence[int] = SEEDS, cases: Sequence[str] = ("digits",)
) -> list[Chosen]:
    """Parse the command line: each case that it names, with its seeds."""
    return chosen(case_parser(description, default=default, cases=cases).parse_args())


def case_parser(
    description: str | None, *, default: Sequence[int] = SEEDS, cases: Sequence[str] = ("digits",)
) -> argparse.ArgumentParser:
    """Make the parser of `--case` and `--seeds`, to which a benchmark may add arguments of its own."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--case",
        nargs="+",
        type=_case,
        default=[(name, ()) for name in cases],
        help=f"{', '.join(WORKLOADS)} (see examples/); cifar=100,101 gives a case its own seeds",
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=default, help="of the cases without seeds of their own")
    return parser


def chosen(given: argparse.Namespace) -> list[Chosen]:
    """Give each case of the parsed command line its seeds."""
    return [(name, own or tuple(given.seeds)) for name, own in given.case]


def _case(text: str) -> Chosen:
    name, _, seeds = text.partition("=")
    if name not in WORKLOADS:
        raise argparse.ArgumentTypeError(f"there is no case {name!r}; the cases are {', '.join(WORKLOADS)}")
    try:
        return name, tuple(int(seed) for seed in seeds.split(",") if seeds)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"the seeds of {name} must be numbers separated by commas, not {seeds!r}"
        ) from None
