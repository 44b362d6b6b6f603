import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from ledger.metrics import Due
from ops.grafana.build import BOARDS, board
from tests.ops.files import DASHBOARDS, read_yaml

PROVISIONING = "ops/grafana/provisioning"


def test_every_panel_asks_the_provisioned_datasource() -> None:
    (source,) = read_yaml(f"{PROVISIONING}/datasources/prometheus.yml")["datasources"]

    for path in DASHBOARDS:
        for panel in json.loads(path.read_text())["panels"]:
            if panel["type"] != "row":
                assert panel["datasource"] == {"type": source["type"], "uid": source["uid"]}
                assert panel["targets"], panel["title"]
                assert panel["description"], panel["title"]


def test_panels_have_their_own_ids_and_do_not_overlap() -> None:
    for path in DASHBOARDS:
        panels = json.loads(path.read_text())["panels"]
        assert len({panel["id"] for panel in panels}) == len(panels)
        cells: set[tuple[int, int]] = set()
        for place in (panel["gridPos"] for panel in panels):
            covered = {
                (x, y)
                for x in range(place["x"], place["x"] + place["w"])
                for y in range(place["y"], place["y"] + place["h"])
            }
            assert not covered & cells
            assert place["x"] + place["w"] <= 24
            cells |= covered


def test_no_table_has_two_columns_of_one_name() -> None:
    """A query's labels are columns too, and what a column's name says about units would be said of both."""
    for path in DASHBOARDS:
        for panel in json.loads(path.read_text())["panels"]:
            if panel["type"] == "table":
                labels = {
                    label for t in panel["targets"] for label in re.findall(r"by \(([^)]*)\)", t["expr"])[0].split(", ")
                }
                columns = set(panel["transformations"][-1]["options"]["renameByName"].values())
                assert not labels & columns, panel["title"]
                assert {override["matcher"]["options"] for override in panel["fieldConfig"]["overrides"]} <= columns


def test_the_provisioned_folder_is_the_one_that_is_mounted() -> None:
    (provider,) = read_yaml(f"{PROVISIONING}/dashboards/expunge.yml")["providers"]
    mounts = read_yaml("docker-compose.yml")["services"]["grafana"]["volumes"]

    assert f"./ops/grafana/dashboards:{provider['options']['path']}:ro" in mounts
    assert DASHBOARDS


def test_the_committed_json_is_what_the_tables_make() -> None:
    assert {path.stem for path in DASHBOARDS} == set(BOARDS)
    for path in DASHBOARDS:
        assert path.read_text() == board(path.stem), f"{path.name}: run python -m ops.grafana.build"


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_grafanas_own_types_know_every_field(path: Path) -> None:
    """Read by the types that Grafana generates from its schemas, and written again, nothing may be missing."""
    register_default_plugins()
    given = json.loads(path.read_text())
    again = json.loads(JSONEncoder().encode(Dashboard.from_json(given)))

    assert lost(given, again) == []


def lost(given: Any, again: Any, where: str = "") -> list[str]:
    """The places of what is in the first and not in the second."""
    if isinstance(given, dict):
        return [
            found
            for key, value in given.items()
            for found in (lost(value, again[key], f"{where}/{key}") if key in again else [f"{where}/{key}"])
        ]
    if isinstance(given, list) and len(given) == len(again):
        return [found for pair in zip(given, again, strict=True) for found in lost(*pair, where)]
    return [] if given == again else [where]


@pytest.mark.parametrize("name", ["unlearning", "requests", "audits"])
def test_a_tenant_can_be_chosen_and_promotions_are_marked(name: str) -> None:
    content = json.loads(board(name))

    assert "tenant" in {variable["name"] for variable in content["templating"]["list"]}
    assert any("$tenant" in target["expr"] for panel in content["panels"] for target in panel.get("targets", ()))
    assert [annotation["name"] for annotation in content["annotations"]["list"]] == ["Promotions"]


def test_a_verdict_has_its_colour_from_the_first_audit_on_and_none_has_no_colour() -> None:
    """`increase` gives a little less than 1 for one event, which was green whatever the verdict."""
    panels = {panel["title"]: panel for panel in json.loads(board("audits"))["panels"]}
    colours = {"Verified": "green", "Inconclusive": "orange", "Failed": "red"}

    for title, colour in colours.items():
        steps = panels[title]["fieldConfig"]["defaults"]["thresholds"]["steps"]
        shown = {value: [step["color"] for step in steps if (step["value"] or 0) <= value][-1] for value in (0, 0.9, 3)}
        assert shown == {0: "text", 0.9: colour, 3: colour}
    for title in ("Verdicts by model", "Verdicts in the window"):
        fixed = {
            override["matcher"]["options"].capitalize(): override["properties"][0]["value"]["fixedColor"]
            for override in panels[title]["fieldConfig"]["overrides"]
        }
        assert fixed == colours


def test_no_count_of_events_waits_for_a_whole_one_to_be_bad() -> None:
    panels = [panel for path in DASHBOARDS for panel in json.loads(path.read_text())["panels"]]
    counts = [panel for panel in panels if panel["type"] == "stat" and "increase(" in panel["targets"][0]["expr"]]
    steps = [panel["fieldConfig"]["defaults"]["thresholds"]["steps"] for panel in counts]

    assert {step["value"] for step in itertools.chain(*steps)} == {None, 0.5}


def test_deadlines_burn_down_on_the_dashboard_of_requests() -> None:
    """All that is unserved, by when it is due, so that one sees whether it is worked off in time."""
    panels = {panel["title"]: panel for panel in json.loads(board("requests"))["panels"]}
    queries = [target["expr"] for target in panels["Burn-down of unserved requests"]["targets"]]

    assert [re.findall(r'due="(\w+)"', query) for query in queries] == [[due] for due in Due]
    assert all(query.startswith("sum(expunge_requests_unserved") for query in queries)
