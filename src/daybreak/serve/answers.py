"""What the service answers, as its OpenAPI description says it."""

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field

from daybreak.core.errors import DaybreakError


class _Part(BaseModel):
    model_config = ConfigDict(populate_by_name=True)


class ClassProbability(_Part):
    """A class and how likely it is."""

    name: str = Field(alias="class")
    probability: float = Field(ge=0, le=1)


class StageMap(_Part):
    """Where a stage of the net sees evidence for a class."""

    layer: str = Field(description="The stage.")
    name: str = Field(alias="class")
    picture: str | None = Field(description="A PNG as a data URI; null where the stage has a single cell.")
    note: str | None = Field(description="What to know about the map.")


class Answer(_Part):
    """What the net says about an image."""

    top: list[ClassProbability] = Field(description="The likeliest classes, the likeliest first.")
    energy: float = Field(description="High for images unlike those of the training part.")
    unknown: bool | None = Field(None, description="Whether no class is likely enough; only with `--reject`.")
    image: str | None = Field(None, description="The input of the net as a data URI; only with `explain`.")
    maps: list[StageMap] | None = Field(None, description="Only with `explain`, and where a run is served.")


class Example(_Part):
    """A test image of the run."""

    name: str = Field(alias="class", description="Its true class.")
    picture: str = Field(description="A PNG as a data URI.")


class Examples(_Part):
    """Test images of the run to try it with."""

    examples: list[Example]


class Health(_Part):
    status: str = Field(examples=["ok"])


class _Cause(_Part):
    code: str
    what: str
    why: str
    remedy: str = Field(alias="try")


class Refusal(_Part):
    """Why there is no answer."""

    error: _Cause
    message: str = Field(description="All of it in one line.")


REASONS = {
    400: "The image or a class cannot be used.",
    401: "The token is missing or wrong.",
    403: "The page of another site asks.",
    404: "There is no such file.",
    405: "Another method is needed.",
    408: "The image did not come in time.",
    413: "The image is too large.",
    422: "An argument is not valid.",
    500: "An error of the service.",
    503: "Too many ask at once.",
}


def refusals(*numbers: int, of_json: bool = False) -> dict[int | str, dict[str, Any]]:
    """How FastAPI is told of answers other than 200.

    Args:
        of_json: whether the answer 200 is JSON as well. FastAPI takes a model to be of the same kind as that.
    """
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{Refusal.__name__}"}}}
    model: dict[str, Any] = {"model": Refusal} if of_json else {"content": content}
    return {number: model | {"description": REASONS[number]} for number in numbers}


def described(application: FastAPI, classes: Sequence[str] | None) -> dict[str, Any]:
    """The OpenAPI description, with the classes of this net; without what is for maps where there are none."""
    if application.openapi_schema is None:
        application.openapi_schema = FastAPI.openapi(application)
        operation = application.openapi_schema["paths"]["/predict"]["post"]
        for parameter in list(operation["parameters"]):
            if parameter["name"] in ("class", "against"):
                if classes is None:
                    operation["parameters"].remove(parameter)
                else:
                    parameter["schema"] = {"type": "string", "enum": ["", *classes]}
    return application.openapi_schema


def as_refusal(error: DaybreakError) -> dict[str, Any]:
    """The content of a `Refusal`."""
    found = {key: value for key, value in error.as_json()["error"].items() if key != "names"}
    return {"error": found, "message": str(error)}
