"""The dashboards, each a table of panels and queries. `python -m ops.grafana.build` writes the JSON that Grafana reads."""

from ops.grafana.boards.audits import audits
from ops.grafana.boards.platform import platform
from ops.grafana.boards.requests import requests
from ops.grafana.boards.unlearning import unlearning_time

BOARDS = {
    "unlearning": ("Expunge: unlearning time", unlearning_time, ("tenant", "model", "method", "window")),
    "requests": ("Expunge: requests and deadlines", requests, ("tenant", "window")),
    "audits": ("Expunge: audits", audits, ("tenant", "model", "window")),
    "platform": ("Expunge: platform", platform, ("window",)),
}
"""By the name of the file: the title, the rows, and the choices above them."""
