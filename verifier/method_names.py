"""The names of methods, as their papers write them."""

METHOD_NAMES = {
    **{kind: kind.upper() for kind in ("ct", "ieu", "ltu", "msg", "npo", "rmu", "ssd")},
    "grad_diff": "GradDiff",
    "neggrad_plus": "NegGrad+",
    "salun": "SalUn",
    "sim_npo": "SimNPO",
}
"""Methods whose papers write them otherwise than in words."""


def short_method(kind: str) -> str:
    """Print a method's kind as its paper does: ltu → LTU, gradient_ascent → gradient ascent."""
    return METHOD_NAMES.get(kind, kind.replace("_", " "))
