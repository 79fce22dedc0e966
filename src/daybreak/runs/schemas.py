"""What the JSON files of a run must have, so that whoever edits or damages one is told which key is wrong.

Keys that nobody here asks for may be there as well: later versions and callbacks add some.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from daybreak.core.config import Convolution
from daybreak.core.errors import RunError
from daybreak.core.sections import Fraction, Text
from daybreak.runs.reading import COPY, read_json

Seed = Annotated[int, Field(ge=0, lt=2**63)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class _File(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)


class _Request(_File):
    data: Text
    size: Annotated[int, Field(ge=1)] | None
    split_seed: Seed
    skip_bad: bool = False
    validate_: Fraction | None = Field(default=None, alias="validate")
    parts_of_0_1_0: bool = False


class _Data(_File):
    request: _Request
    name: Text
    title: Text
    fingerprint: str
    notes: list[Text]


class _Convolutions(_File):
    wanted: Convolution
    chosen: dict[str, str]


class _Resumed(_File):
    step: Annotated[int, Field(ge=0)]
    command: list[Text]
    notes: list[Text]


class Config(_File):
    """config.json; before format 2 the options stood beside the recipe."""

    format: Annotated[int, Field(ge=1)] = 1
    recipe: dict[str, Any]
    options: dict[str, Any] | None = None
    data: _Data
    seed: Seed
    command: list[Text]
    versions: dict[str, str]
    hardware: dict[str, Any]
    compute_dtype: str
    convolutions: _Convolutions | None = None
    resumed: list[_Resumed] = []


class Summary(_File):
    """summary.json."""

    test_acc: Fraction | None
    test_acc_tta: Fraction | None
    val_acc: Fraction | None = None
    test_loss: Finite | None
    train_seconds: Finite
    evaluate_seconds: Finite
    epochs: Finite
    steps: Annotated[int, Field(ge=0)]
    dataset: Text
    recipe: Text
    seed: Seed
    notes: list[Text]
    interrupted: int | None = None
    error: Text | None = None


class _DecodeSpec(_File):
    size: Annotated[int, Field(ge=1)]
    channels: Literal[1, 3]


class Card(_File):
    """model.json."""

    format: int
    net: dict[str, Any]
    classes: list[Text] = Field(min_length=1)
    size: Annotated[int, Field(ge=8)]
    decode: _DecodeSpec
    mean: list[Finite] = Field(min_length=1, max_length=3)
    std: list[Annotated[float, Field(gt=0, allow_inf_nan=False)]] = Field(min_length=1, max_length=3)
    precision: str


class Facts(_File):
    """state.json of a checkpoint."""

    format: Annotated[int, Field(ge=1)]
    step: Annotated[int, Field(ge=0)]
    skipped: Annotated[int, Field(ge=0)]
    sizes: dict[Annotated[str, Field(pattern=r"^\d{1,9}$")], Annotated[int, Field(ge=0)]]
    spent: dict[str, Finite]
    metrics_bytes: Annotated[int, Field(ge=0)]
    callbacks: list[Any] = []
    circumstances: dict[str, Any]
    decided_by: dict[str, Any] | None = None


Kind = TypeVar("Kind", bound=_File)


def read_as(path: Path, kind: type[Kind]) -> dict[str, Any]:
    """The file's plain values, once they are known to be those of its kind.

    Raises:
        RunError: the file is missing, cannot be read, or a key is missing or of another kind; it names the key.
    """
    values = read_json(path)
    if fault := fault_in(values, kind):
        raise RunError(path, fault, COPY)
    return values


def fault_in(values: Mapping[str, Any], kind: type[_File]) -> str | None:
    """The first key that is wrong, and why; None where all are right."""
    try:
        kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg'].removeprefix('Value error, ')}"
    return None
