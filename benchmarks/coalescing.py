"""The cost of a hundred requests within one batching window: `python -m benchmarks.coalescing`.

The same 200 samples are requested by one request and by a hundred, each time for a new small model; the last request is
expedited, which closes the window. The cost is the time from a job's start to its end, summed over the jobs.
"""

import argparse

from benchmarks.serving import Served, served, training_ids
from benchmarks.writing import Row, row, write
from expunge import client
from ledger.resources import Job

SAMPLES = 200


def main() -> None:
    """Run both sides, print the figures and write them."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--requests", type=int, default=100)
    arguments.add_argument("--runs", type=int, default=6)
    given = arguments.parse_args()
    with served(EXPUNGE_BATCH_WINDOW_SECONDS="3600", EXPUNGE_LEASE_SECONDS="60") as service:
        rows = measure(service, requests=given.requests, runs=given.runs)
    for found in rows:
        print(f"{found.case:>14} {found.metric:>18} {found.mean:8.3f} [{found.low:.3f}, {found.high:.3f}] n={found.n}")
    print(write("coalescing", rows))


def measure(service: Served, *, requests: int, runs: int) -> list[Row]:
    """Measure cost, number of jobs, and the ratio of costs."""
    sides = {1: list[tuple[float, int]](), requests: list[tuple[float, int]]()}
    for run in range(runs):
        for count, found in sides.items():
            found.append(cost(service, f"coalescing-{run}-{count}", requests=count))
    rows = []
    for count, found in sides.items():
        case = f"{count} requests"
        rows.append(row([seconds for seconds, _ in found], case=case, method="retrain", metric="seconds", unit="s"))
        rows.append(row([jobs for _, jobs in found], case=case, method="retrain", metric="jobs", unit=""))
    ratios = [many / one for (one, _), (many, _) in zip(sides[1], sides[requests], strict=True)]
    case = f"{requests} requests"
    return [*rows, row(ratios, case=case, method="retrain", metric="cost_ratio", unit="")]


def cost(service: Served, name: str, *, requests: int) -> tuple[float, int]:
    """Submit `requests` requests; return the seconds that their jobs ran, and the number of jobs."""
    service.register(name)
    ids = training_ids()[:SAMPLES]
    share = len(ids) // requests
    jobs = set()
    for number in range(requests):
        some = ids[number * share : (number + 1) * share]
        request = service.submit(name, some, expedite=number == requests - 1)
        jobs |= set(client.job_ids(request))
    ended = [service.ended(job_id) for job_id in jobs]
    return sum(busy(job) for job in ended), len(jobs)


def busy(job: Job) -> float:
    """Compute the seconds from a job's start to its end."""
    assert job.started_at is not None
    assert job.finished_at is not None
    return (job.finished_at - job.started_at).total_seconds()


if __name__ == "__main__":
    main()
