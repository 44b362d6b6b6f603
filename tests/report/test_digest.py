import hashlib
import json

from report.canonical import report_bytes, report_sha256
from tests.report.samples import sample_report


def test_the_digest_does_not_depend_on_the_order_of_keys_or_on_a_round_trip() -> None:
    report = sample_report()
    turned = dict(reversed(report.items()))
    assert report_sha256(report) == report_sha256(turned) == report_sha256(json.loads(report_bytes(report)))


def test_anyone_can_compute_the_digest_from_the_bytes() -> None:
    report = sample_report()
    assert report_sha256(report) == hashlib.sha256(report_bytes(report)).hexdigest()


def test_another_number_is_another_digest() -> None:
    changed = sample_report()
    changed["audit"]["samples"]["forget"] += 1
    assert report_sha256(changed) != report_sha256(sample_report())
