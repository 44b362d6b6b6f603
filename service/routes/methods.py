"""GET /methods: what can be asked for in a request's `method`."""

from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, Field

from service.methods import schemas

router = APIRouter(tags=["methods"])


class MethodBody(BaseModel):
    """A method and the JSON schema of its parameters."""

    kind: str = Field(examples=["ltu"])
    summary: str
    parameters: dict[str, Any] = Field(description="JSON schema (2020-12), with defaults.")


class MethodsBody(BaseModel):
    """All methods."""

    items: list[MethodBody]


@router.get("/methods", summary="List the unlearning methods")
def list_methods() -> MethodsBody:
    """Each method with the JSON schema of its parameters; a request may name one, or leave the choice to the model's policy."""
    return MethodsBody(
        items=[
            MethodBody(kind=kind, summary=schema["description"].split("\n")[0], parameters=schema)
            for kind, schema in schemas().items()
        ]
    )
