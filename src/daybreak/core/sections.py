"""Sections of a configuration: frozen, validated, JSON both ways. Unknown keys raise and name the nearest known one."""

import json
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, TypeVar, get_args, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from daybreak.core.errors import UsageError, nearest

LONGEST_SHOWN = 200  # characters of a wrong value in an error's line

Fraction = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Momentum = Annotated[float, Field(ge=0, lt=1)]


def _is_text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("not a text")  # pydantic's errors come from ValueErrors
    return value


# A name that may come from a file system, and need not be Unicode: pydantic's own check of a str would refuse it.
Text = Annotated[Any, AfterValidator(_is_text)]


class Section(BaseModel):
    """A frozen part of a configuration; refuses unknown keys, NaN and infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


S = TypeVar("S", bound=Section)


def validate(kind: type[S], values: Mapping[str, Any], source: str) -> S:
    """Build a section from plain values.

    Raises:
        UsageError: a key is unknown (the nearest known one is named) or a value is out of range.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise _usage_error(kind, error, source) from None


def leaf_keys(kind: type[BaseModel], prefix: str = "") -> list[str]:
    """All dotted keys below a section; of sections that are told apart by name, the keys of all."""
    keys: list[str] = []
    for name, field in kind.model_fields.items():
        sections = list(_sections(field.annotation))
        keys += [prefix + name] if not sections else []
        for section in sections:
            keys += leaf_keys(section, f"{prefix}{name}.")
    return list(dict.fromkeys(keys))


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys joined by dots: `{"a": {"b": 1}}` as `{"a.b": 1}`."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat


def parse_value(value: Any) -> Any:
    """Text that is JSON (``0.1``, ``true``, ``[1, 2]``) as what it says; everything else as it is."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):  # also a number of thousands of digits, or thousands of brackets
        return value


def _sections(annotation: object) -> Iterator[type[Section]]:
    """The sections that a field can hold; a tuple of sections is a value, not a section."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    elif get_origin(annotation) is not tuple:
        for part in get_args(annotation):
            yield from _sections(part)


def _usage_error(kind: type[Section], error: ValidationError, source: str) -> UsageError:
    first = error.errors()[0]
    section, parts = _walk(kind, first["loc"])
    key = ".".join(parts)
    if first["type"] == "extra_forbidden":
        known = leaf_keys(section, "".join(f"{part}." for part in parts[:-1]))
        return UsageError(key, f"unknown key in {source}", nearest(key, known))
    why = first["msg"].removeprefix("Value error, ")
    return UsageError(key or source, f"{why} (got {_shown(first['input'])})" if key else why, "daybreak recipes NAME")


def _shown(value: object) -> str:
    """A value as Python writes it, if it can: not a number of thousands of digits, nor what is nested too deeply."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):
        return "a value that is too large to show"
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}…"


def _walk(kind: type[Section], location: tuple[int | str, ...]) -> tuple[type[Section], list[str]]:
    """The section in which an error lies and the keys that lead there, without the tag that pydantic puts behind a
    field that holds one of several sections: a user never wrote it."""
    section: type[Section] = kind
    parts, rest = list[str](), [str(part) for part in location]
    while rest:
        name = rest.pop(0)
        parts.append(name)
        field = section.model_fields.get(name)
        choices = list(_sections(field.annotation)) if field else []
        if len(choices) > 1 and rest:
            tag = rest.pop(0)
            section = next((c for c in choices if tag in tags_of(c)), choices[0])
        elif choices:
            section = choices[0]
    return section, parts


def tags_of(kind: type[Section]) -> tuple[str, ...]:
    """What a union calls a section: the names that its field `name` allows, or the name of its class."""
    field = kind.model_fields.get("name")
    return (*get_args(field.annotation), kind.__name__) if field else (kind.__name__,)
