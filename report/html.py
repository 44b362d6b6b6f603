"""Render a report as one self-contained HTML page: no network, no script, pictures and styles included."""

from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup, escape

from report.document import Document
from report.figures import ROLES, Panel, in_colours
from report.view import view

_VARIABLES = {role: f"var(--{role})" for role in ROLES.values()}


def render_html(document: Document) -> str:
    """Render a report as a page, with the SHA-256 of its canonical JSON on it."""
    return _template().render(view=view(document))


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["picture"] = _picture
    return environment.get_template("report.html.jinja")


def _picture(panel: Panel) -> Markup:
    # matplotlib has escaped the text inside the drawing; the title and the description are escaped here.
    names = escape(panel.name)
    head = Markup('<svg class="plot" role="img" aria-labelledby="{0}-title {0}-description"').format(names)
    labels = Markup('<title id="{0}-title">{1}</title><desc id="{0}-description">{2}</desc>').format(
        names, panel.title, panel.description
    )
    opening, _, rest = in_colours(panel.svg, _VARIABLES).removeprefix("<svg").partition(">")
    return head + Markup(opening) + Markup(">") + labels + Markup(rest)
