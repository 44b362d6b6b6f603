from tests.service.conftest import Serve, Site


def test_a_dataset_is_shown_with_its_size(serve: Serve, site: Site) -> None:
    client = serve(key=site.reader)

    assert client.get("/datasets").json()["items"][0]["samples"] == 100
    assert client.get("/datasets/scans").json()["name"] == "scans"


def test_an_unknown_dataset_is_a_problem(serve: Serve, site: Site) -> None:
    answer = serve(key=site.reader).get("/datasets/scan")

    assert (answer.status_code, answer.json()["type"]) == (404, "https://expunge.dev/problems/unknown-dataset")
