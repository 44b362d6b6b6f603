"""The unlearning methods: the `method` field of a request, and GET /methods with a JSON schema for each."""

import textwrap
from collections.abc import Mapping
from dataclasses import asdict
from functools import cache
from typing import Annotated, Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, BeforeValidator, Discriminator, Field, TypeAdapter
from pydantic_core import PydanticCustomError

from report.canonical import NotCanonical, canonical_json
from service.http.authentication import ApiRoute
from service.http.openapi import problems
from service.http.problems import count_values, masked
from unlearning import specs
from unlearning.errors import InvalidSpec
from unlearning.specs.suitability import NEEDS, OFFERS, Need, suits

AUTO = "auto"
"""The model's own policy: the operator's list of methods, tried in order until the audit verifies."""

MAX_METHOD_VALUES = 500
"""Names and values of a method, at most, all objects and lists in it counted: no method has a tenth of that."""


@cache
def schemas() -> dict[str, dict[str, Any]]:
    """Give the JSON schema (2020-12) of each method's parameters, with defaults, by the method's kind."""
    return {kind: TypeAdapter(spec).json_schema() for kind, spec in specs.PRODUCTION.items()}


def _parse(value: object) -> object:
    """Return `"auto"` unchanged, and parse a method's name or an object into its spec."""
    if value == AUTO:
        return AUTO
    if isinstance(value, str):
        value = {"kind": value}
    if not isinstance(value, Mapping):
        raise PydanticCustomError(
            "method", "Must be auto, the name of a method, or an object with its kind and parameters"
        )
    if count_values(value) > MAX_METHOD_VALUES:
        raise PydanticCustomError("method", "Has more than {most} names and values", {"most": MAX_METHOD_VALUES})
    try:
        spec = specs.parse(value)
        canonical_json(asdict(spec))  # what cannot be written as JSON could not be signed in a report
        return spec
    except InvalidSpec as error:
        context = {"reason": textwrap.shorten(masked(str(error), value), 600), "field": error.field or ""}
        raise PydanticCustomError("method", "{reason}", context) from None
    except (OverflowError, NotCanonical):
        raise PydanticCustomError("method", "A number is too large") from None


Method = Annotated[
    Literal["auto", "ltu", "ieu", "matching", "ct", "gradient_ascent", "retrain", "rewind", "drop_adapter", "certified"]
    | Annotated[specs.Method, Discriminator("kind")],
    BeforeValidator(_parse),
    Field(
        description="`auto` (the model's policy), a method's name (with its defaults), or an object with parameters.",
        examples=["auto", "ltu", {"kind": "ltu", "steps": 40, "stop": {"tolerance": 0.5}}],
    ),
]
"""A validated method: `"auto"`, or a spec. The baselines of the benchmarks are refused."""


router = APIRouter(route_class=ApiRoute, tags=["methods"])


class MethodBody(BaseModel):
    """A method and the JSON schema of its parameters."""

    kind: str = Field(examples=["ltu"])
    summary: str
    parameters: dict[str, Any] = Field(description="JSON schema (2020-12), with defaults.")
    objectives: list[str] = Field(
        description="The given objectives that it serves. Every method serves your own objective if that offers what it `needs`.",
        examples=[["classification", "causal_language_model"]],
    )
    needs: list[Need] = Field(
        description="What it needs beside the losses. `references`: reference predictions, prepared once for the model. "
        "`random_targets`: the objective's `scramble`; LTU takes references in its place. "
        "`classes`: one label a sample. `class_probabilities`: a model that predicts it. "
        "`slices`: a model that was trained in slices. `adapters`: a model with an adapter for each "
        "group of samples. `random_access`: a training set that is no stream. `whole_model`: a model that is not "
        "sharded among several processes. `convex_loss`: the objective's `curvature`. `head`: a model of "
        "which training moves one linear layer alone, which gives the outputs. `convolutions`: a model with square kernels."
    )


class MethodsBody(BaseModel):
    """All methods."""

    items: list[MethodBody]


@router.get("/methods", summary="List the unlearning methods", responses=problems(422))
def list_methods() -> MethodsBody:
    """Each method with the JSON schema of its parameters; a request may name one, or leave the choice to the model's policy."""
    return MethodsBody(
        items=[
            MethodBody(
                kind=kind,
                summary=schema["description"].split("\n")[0],
                parameters=schema,
                objectives=[objective for objective in OFFERS if suits(kind, objective)],
                needs=sorted(NEEDS[kind]),
            )
            for kind, schema in schemas().items()
        ]
    )
