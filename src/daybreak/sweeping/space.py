"""The space of a sweep: which recipe keys are searched, and between which values.

A file has a table for each key: `low` and `high`, if wanted `log` or `step`, or else `choices`.
"""

import itertools
import json
import math
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, ValidationError, model_validator

from daybreak.core.config import Recipe, override
from daybreak.core.errors import UsageError
from daybreak.core.sections import Section, flatten
from daybreak.training.lr_finder import with_rate

if TYPE_CHECKING:
    from optuna import Trial

Scalar = str | int | float | bool | None
PEAK, OTHER_RATES = "schedule.max_lr", {"schedule.initial_lr", "schedule.final_lr"}
NOT_SEARCHED = {
    "name": "it changes nothing in a training",
    "summary": "it changes nothing in a training",
    "expected": "it changes nothing in a training",
    "size": "all trials see the same images",
    "tta": "trials are compared on one view",
}
EXAMPLE = "[schedule.max_lr] with low and high, or choices"


class _Range(Section):
    low: int | float
    high: int | float
    log: bool = False
    step: int | float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _can_be_drawn(self) -> "_Range":
        if self.low >= self.high:
            raise ValueError("low must be below high")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError("log needs a low above zero, and no step")
        return self


class _Choices(Section):
    choices: list[Any] = Field(min_length=1)


@dataclass(frozen=True)
class Parameter:
    """One recipe key that is searched.

    Attributes:
        whole: whether its values are integers.
        choices: the values by what Optuna calls them: scalars by themselves, others by their JSON.
    """

    key: str
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    step: float | None = None
    whole: bool = False
    choices: Mapping[Scalar, Any] | None = None

    def suggest(self, trial: "Trial") -> Any:
        """The trial's value of this key."""
        if self.choices is not None:
            return self.choices[trial.suggest_categorical(self.key, list(self.choices))]
        if self.whole:
            return trial.suggest_int(self.key, int(self.low), int(self.high), step=int(self.step or 1), log=self.log)
        return trial.suggest_float(self.key, self.low, self.high, step=self.step, log=self.log)

    def points(self) -> list[Scalar]:
        """All values, as Optuna calls them.

        Raises:
            UsageError: they cannot be counted.
        """
        if self.choices is not None:
            return list(self.choices)
        step = self.step or (1 if self.whole and not self.log else None)
        if step is None:
            raise UsageError(f"{self.key}", "a grid needs values that can be counted", "a step, or choices")
        count = math.floor((self.high - self.low) / step + 1e-9) + 1
        return [int(self.low + n * step) if self.whole else self.low + n * step for n in range(count)]

    def extremes(self) -> list[Any]:
        """Values that show whether all are allowed."""
        if self.choices is not None:
            return list(self.choices.values())
        return [int(v) if self.whole else v for v in (self.low, self.high)]


@dataclass(frozen=True)
class Space:
    """What is searched, in the order of the keys; `tables` is how it was written."""

    parameters: tuple[Parameter, ...]
    tables: Mapping[str, Any]

    def suggest(self, trial: "Trial") -> dict[str, Any]:
        """The settings of a trial, by recipe key."""
        return {parameter.key: parameter.suggest(trial) for parameter in self.parameters}

    def settings(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The settings by recipe key, from what Optuna keeps of a trial."""
        by_key = {p.key: p.choices for p in self.parameters}
        return {key: value if (known := by_key.get(key)) is None else known[value] for key, value in params.items()}

    def grid(self) -> list[dict[str, Scalar]]:
        """All combinations, as Optuna calls the values."""
        keys = [p.key for p in self.parameters]
        return [dict(zip(keys, v, strict=True)) for v in itertools.product(*(p.points() for p in self.parameters))]


def read_space(source: str | Path | Mapping[str, Any], base: Recipe) -> Space:
    """The space in a file or in the like of it, checked against the recipe that it changes.

    Raises:
        UsageError: the file cannot be read, a key is no recipe key (the nearest is named), or values are out of range.
    """
    name = "space" if isinstance(source, Mapping) else str(source)
    values = dict(source) if isinstance(source, Mapping) else _read(Path(source))
    current = flatten(base.model_dump())
    try:
        tables = dict(sorted(_tables(values, name)))
    except RecursionError:  # a key of a thousand parts
        raise UsageError(name, "its tables are nested too deeply", EXAMPLE) from None
    if not tables:
        raise UsageError(name, "no key to search", EXAMPLE)
    parameters = tuple(_parameter(key, table, current.get(key), name) for key, table in tables.items())
    for parameter in parameters:
        _check(parameter, base)
    return Space(parameters, tables)


def with_settings(base: Recipe, settings: Mapping[str, Any]) -> Recipe:
    """The recipe of a trial. A peak rate alone takes the other rates of the cycle along, in proportion.

    Raises:
        UsageError: the settings do not go together.
    """
    rest = dict(settings)
    if PEAK in rest and not OTHER_RATES & rest.keys():
        base = with_rate(base, float(rest.pop(PEAK)))
    return override(base, rest)


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"--space {path}", "no such file", f"a file with tables such as {EXAMPLE}") from None
    except (OSError, ValueError, RecursionError) as error:  # no TOML, or a number too long, or too many brackets
        raise UsageError(f"--space {path}", f"cannot be read ({error})", f"tables such as {EXAMPLE}") from None


def _tables(values: Mapping[str, Any], name: str, prefix: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The tables that say something about a key; those above them are its sections."""
    for key, value in values.items():
        if not isinstance(value, Mapping):
            raise UsageError(f"{name}: {prefix}{key}", "not a table", f"a table such as {EXAMPLE}")
        if value.keys() & {"low", "high", "choices"}:
            yield prefix + key, value
        else:
            yield from _tables(value, name, f"{prefix}{key}.")


def _parameter(key: str, table: Mapping[str, Any], current: Any, name: str) -> Parameter:
    """A table as a parameter; of a range between integers the recipe says whether others are meant too."""
    if key in NOT_SEARCHED:
        raise UsageError(f"{name}: {key}", f"cannot be searched: {NOT_SEARCHED[key]}", "other keys")
    try:
        if "choices" in table:
            found = _Choices.model_validate(table)
            labels = {c if isinstance(c, Scalar) else json.dumps(c): c for c in found.choices}
            return Parameter(key, choices=labels)
        span = _Range.model_validate(table)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join([key, *(str(part) for part in first["loc"][:1])])
        why = "unknown key" if first["type"] == "extra_forbidden" else first["msg"].removeprefix("Value error, ")
        raise UsageError(f"{name}: {where}", why, EXAMPLE) from None
    whole = all(isinstance(v, int) for v in (span.low, span.high, span.step or 1)) and not isinstance(current, float)
    return Parameter(key, span.low, span.high, span.log, span.step, whole)


def _check(parameter: Parameter, base: Recipe) -> None:
    """Whether the recipe takes the key and its values; what depends on other keys is found when a trial has them.

    Raises:
        UsageError: it does not.
    """
    for value in parameter.extremes():
        try:
            with_settings(base, {parameter.key: value})
        except UsageError as error:
            if error.what == parameter.key or "section" in error.why:
                raise
