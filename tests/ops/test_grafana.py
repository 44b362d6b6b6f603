import json

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


def test_the_provisioned_folder_is_the_one_that_is_mounted() -> None:
    (provider,) = read_yaml(f"{PROVISIONING}/dashboards/expunge.yml")["providers"]
    mounts = read_yaml("docker-compose.yml")["services"]["grafana"]["volumes"]

    assert f"./ops/grafana/dashboards:{provider['options']['path']}:ro" in mounts
    assert DASHBOARDS
