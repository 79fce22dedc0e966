"""Everything that `daybreak.train` takes, in one place.

The Python call, the command line and its help, the run directory, `--resume` and the command that repeats a run are all
derived from `TrainOptions`. A new option is a field here, with its text below it, and the line that uses it.
"""

import dataclasses
import inspect
import json
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass as plain_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic.dataclasses import dataclass
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from daybreak.core.clock import Every, check_budget, parse_seconds
from daybreak.core.config import LENGTH, MAX_EPOCHS, Balance, Compile, Device, OnNonfinite, parse_settings
from daybreak.core.errors import UsageError, nearest
from daybreak.core.machine import parse_bytes

TRAINING, DATA, OUTPUT = "Training", "Data", "Output"
OWN, SAFE = "Parts of your own (docs/extend.md)", "Reliability"


@plain_dataclass(frozen=True)
class Cli:
    """How an option stands on the command line.

    Attributes:
        metavar: what its value is called in the help.
        flag: its name there, where it is not the field's own.
        resume: whether it may be given anew when a run is resumed; else the run has its own.
        repeat: whether the command that repeats a run has it.
        panel: under which heading of the help it stands.
    """

    metavar: str | None = None
    flag: str | None = None
    resume: bool = False
    repeat: bool = True
    panel: str = TRAINING


def _seconds(value: Any) -> Any:
    seconds = parse_seconds(value, "--budget") if isinstance(value, str) else _number(value)
    if value is not None and seconds is None:
        raise UsageError(f"--budget {value}", "not a duration", "a duration such as 90s, 5m or 1h")
    if seconds is not None:
        check_budget(seconds)
    return seconds


def _accuracy(value: Any) -> Any:
    number = _number(value)
    if value is not None and not (number is not None and 0 < number <= 1):
        raise UsageError(f"--target {value}", "not an accuracy", "a number such as 0.94")
    return number


def _peak(value: Any) -> Any:
    number = _number(value)
    if value not in (None, "auto") and not (number is not None and 0 < number < float("inf")):
        raise UsageError(f"--lr {value}", "not a learning rate", "a number such as 0.01, or auto")
    return value if number is None else number


def _bytes(value: Any) -> Any:
    return None if value is None else parse_bytes(str(value), "--memory")


def _interval(value: Any) -> str:
    text = str(value)
    Every.parse(text)
    return text


def _number(value: Any) -> float | None:
    try:
        return None if value is None else float(value)
    except (TypeError, ValueError):
        return None


def _pairs(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    if not isinstance(value, list | tuple) or not all(isinstance(pair, str) for pair in value):
        raise UsageError(f"--set {value}", "not of the form key=value", "--set schedule.max_lr=0.1")
    return parse_settings(list(value))


def _text(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


Text = Annotated[str | None, BeforeValidator(_text)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]  # as the files of a run have room for


@dataclass(
    frozen=True, kw_only=True, config=ConfigDict(extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)
)
class TrainOptions:
    """What a training is asked to do. See `daybreak.train`."""

    data: Annotated[Text, Cli("DATA", resume=True)] = None
    """cifar10, cifar100, mnist, fashion-mnist, digits, or a folder of class folders or of shards (.tar, .parquet), an
    archive, an .npz, a .csv with the columns image and label, or a URL of one of these.
    With `resume`: where the run's data is now, if it has moved."""

    recipe: Annotated[Text, Cli("NAME|FILE")] = None
    """A name of `daybreak recipes`, or a file.toml. By default `finetune` for photos, if its weights are installed;
    else what fits the budget or reaches the target; with neither `sprint`, or `small` below 10,000 training images."""

    net: Annotated[str | None, Cli("NET", resume=True, panel=OWN)] = None
    """Another net than the recipe's: by its name, or your own as package.module:factory (docs/extend.md)."""

    weights: Annotated[Text, Cli("FILE|RUN", panel=OWN)] = None
    """What the net starts from: a run, whose net is taken too, or a .safetensors of it; `imagenet` for lite0 and lite2;
    `pretrained` for a net of timm; or none. By default what the recipe says."""

    loss: Annotated[str | None, Cli("PATH", resume=True, panel=OWN)] = None
    """A loss of your own instead, package.module:function: (logits_BK, labels_B) to the mean over the batch."""

    augment: Annotated[str | None, Cli("PATH", resume=True, panel=OWN)] = None
    """An augmentation of your own after the recipe's: (images_BCHW, labels_B, generator) to images and labels."""

    callbacks: Annotated[tuple[str, ...], Cli("PATH", flag="callback", resume=True, panel=OWN)] = ()
    """A callback of your own, package.module:class; repeatable."""

    epochs: Annotated[int | None, Field(ge=1, le=MAX_EPOCHS), Cli("N", resume=True)] = None
    """Passes over the training images, instead of the recipe's. With `resume`: of the whole run."""

    budget: Annotated[float | None, BeforeValidator(_seconds), Cli("TIME", resume=True)] = None
    """Seconds of training, or a time such as 5m, instead of epochs: one cycle over wall-clock time. Evaluation and
    report come on top. With `resume`: of the whole run."""

    target: Annotated[float | None, BeforeValidator(_accuracy), Cli("ACCURACY")] = None
    """Test accuracy to reach, e.g. 0.94. Chooses the recipe where none is named. With a validation part, training ends
    at the first epoch whose validation accuracy has a lower bound (Wilson's, one-sided, 95 %) of at least this; the
    test part is still evaluated once. The command line exits with 8 if the run ends below it."""

    dawn_rule: bool = False
    """Stop at the first epoch that reaches the target on the test images: DAWNBench's rule, under which the test images
    choose when to stop."""

    lr: Annotated[float | Literal["auto"] | None, BeforeValidator(_peak), Cli("RATE|auto")] = None
    """Peak of the cycle instead of the recipe's; auto: found by a learning-rate range test, on the run's clock."""

    seed: Seed = 0
    """Decides initial weights, order and augmentation."""

    device: Annotated[Device, Cli("auto|cpu|cuda|mps", resume=True)] = "auto"
    """Where to train; auto takes CUDA, then Apple's MPS, then the CPU."""

    compile: Annotated[Compile, Cli("auto|always|never", resume=True)] = "auto"
    """Whether the net is compiled before training, on CUDA: a minute for steps that are faster. auto: where the run is
    long enough to win it back."""

    size: Annotated[int | None, Field(ge=8), Cli("PX", panel=DATA)] = None
    """Side in px at which images are decoded and the net sees them; the data's own by default."""

    settings: Annotated[dict[str, Any], BeforeValidator(_pairs), Cli("KEY=VALUE", flag="set")] = Field(
        default_factory=dict
    )
    """Recipe keys to override, such as schedule.max_lr=0.1; repeatable."""

    out: Annotated[Text, Cli("DIR", repeat=False, panel=OUTPUT)] = None
    """The run directory; by default a new one below runs/."""

    split_seed: Annotated[Seed, Cli("N", panel=DATA)] = 0
    """Decides which images are held out, where data has no test or validation part of its own."""

    validate: Annotated[float | None, Field(ge=0, lt=1), Cli("SHARE", panel=DATA)] = None
    """Share of the training images held out as the validation part, which draws the curves. 0: none, and the curves
    show the test part. By default 0 for the published data sets, and 0.1 for other data that has no such part."""

    keep: Annotated[Literal["last", "best"], Cli("last|best")] = "last"
    """The weights that the run ends with: those of the last step, or of the epoch with the best validation accuracy."""

    balance: Annotated[Balance | Literal["auto"], Cli("auto|none|weights|sampling", panel=DATA)] = "auto"
    """Even out classes of unequal size: by weights in the loss, or by showing each class equally often. auto: weights,
    where the largest class has three times the training images of the smallest or more."""

    memory: Annotated[int | None, BeforeValidator(_bytes), Cli("SIZE", resume=True, repeat=False, panel=DATA)] = None
    """What training images may take in memory, e.g. 2GB, half of what is free by default. More of them are read from
    the cache, ahead of each step; the result is the same."""

    skip_bad: Annotated[bool, Cli(panel=DATA)] = False
    """Leave out images that cannot be used, and count them; by default they are an error."""

    strict: Annotated[bool, Cli(panel=DATA)] = False
    """Refuse data with the same pixels in two parts or under two labels."""

    on_nonfinite: Annotated[OnNonfinite, Cli("stop|skip", resume=True, panel=SAFE)] = "stop"
    """At a loss or gradient that is not finite: stop with the weights before that step, or skip it; the third stops."""

    deterministic: Annotated[bool, Cli(panel=SAFE)] = False
    """The same bits each time, also on CUDA, at a price there."""

    checkpoint_every: Annotated[str, BeforeValidator(_interval), Cli("TIME|Nsteps", resume=True, panel=SAFE)] = "1m"
    """How often to save a checkpoint, e.g. 1m or 40steps; or never."""

    track: Annotated[tuple[str, ...], Cli("tensorboard|mlflow", resume=True, repeat=False, panel=OUTPUT)] = ()
    """Also send the metrics there, if it is installed; repeatable."""

    report: Annotated[bool, Cli(resume=True, repeat=False, panel=OUTPUT)] = True
    """Write report.html at the end."""

    @model_validator(mode="after")
    def _makes_sense(self) -> "TrainOptions":
        if self.budget is not None and self.epochs is not None:
            raise UsageError("--budget and --epochs", "both say how long to train", "one of them")
        if self.dawn_rule and self.target is None:
            raise UsageError("--dawn-rule", "there is no target to stop at", "--target 0.94 with it")
        if self.dawn_rule and self.keep == "best":
            raise UsageError("--dawn-rule and --keep best", "two rules for when to stop", "one of them")
        return self

    @property
    def every(self) -> Every:
        """How often to save a checkpoint."""
        return Every.parse(self.checkpoint_every)

    def as_json(self) -> dict[str, Any]:
        """All options as plain values: what config.json keeps."""
        values: dict[str, Any] = to_jsonable_python(dataclasses.asdict(self))
        return values

    def command(self) -> list[str]:
        """The command that repeats this training, with what differs from the defaults. (A recipe or a net given as an
        object has only its name in it; config.json holds the recipe whole.)"""
        words = ["daybreak", "train", *([] if self.data is None else [self.data])]
        repeated = [name for name in OPTIONS if name != "data" and cli_of(name).repeat]
        return words + [word for name in repeated for word in self._words(name)]

    def _words(self, name: str) -> Iterator[str]:
        value, flag = getattr(self, name), flag_of(name)
        if value == OPTIONS[name].get_default(call_default_factory=True):
            return
        if isinstance(value, bool):
            yield flag if value else flag.replace("--", "--no-", 1)
        elif isinstance(value, Mapping):
            for key, setting in value.items():
                text = setting if isinstance(setting, str) else json.dumps(to_jsonable_python(setting))
                yield from (flag, f"{key}={text}")
        else:
            for one in value if isinstance(value, tuple) else [value]:
                yield from (flag, str(one))

    def __str__(self) -> str:
        return shlex.join(self.command())


OPTIONS: dict[str, FieldInfo] = TrainOptions.__pydantic_fields__  # type: ignore[attr-defined]


def cli_of(name: str) -> Cli:
    """How the option stands on the command line."""
    return next((part for part in OPTIONS[name].metadata if isinstance(part, Cli)), Cli())


def flag_of(name: str) -> str:
    """The option as it is written there, e.g. `--split-seed`."""
    return f"--{(cli_of(name).flag or name).replace('_', '-')}"


def train_options(**values: Any) -> TrainOptions:
    """Options from what a person gave, as text or as Python values.

    Raises:
        UsageError: one is unknown (the nearest is named), or out of range.
    """
    try:
        return TrainOptions(**values)
    except ValidationError as error:
        raise _refusal(error) from None


def resumed_options(options: TrainOptions, **values: Any) -> TrainOptions:
    """The options of a run that goes on, with what may be given anew.

    Raises:
        UsageError: the run has its own, or a value is out of range.
    """
    for name in values:
        if name in OPTIONS and not cli_of(name).resume:
            flag = flag_of(name)
            raise UsageError(f"{flag} with --resume", "the run has its own", f"without {flag}, or a new run")
    kept = {name: getattr(options, name) for name in OPTIONS}
    return train_options(**kept | values)


def lengthened(options: TrainOptions, epochs: int | None, budget: float | None) -> TrainOptions:
    """The options with another length, whatever they said about it."""
    if epochs is None and budget is None:
        return options
    settings = {key: value for key, value in options.settings.items() if key not in LENGTH}
    return dataclasses.replace(options, epochs=epochs, budget=budget, settings=settings)


def _refusal(error: ValidationError) -> UsageError:
    first = error.errors()[0]
    name = str(first["loc"][0])
    if name not in OPTIONS:
        return UsageError(name, "train has no such option", nearest(name, OPTIONS))
    what = f"{flag_of(name)} {first['input']}"
    if first["type"] == "literal_error":
        return UsageError(what, "not a choice", f"one of {', '.join(_words(OPTIONS[name].annotation))}")
    return UsageError(what, first["msg"].removeprefix("Value error, "), f"see {flag_of(name)} in daybreak train --help")


def _words(annotation: Any) -> list[str]:
    """The words of a Literal, or of a union of them."""
    return [word for part in get_args(annotation) for word in (_words(part) or [str(part)])]


F = TypeVar("F", bound=Callable[..., Any])


def takes_options(function: F) -> F:
    """Give a function whose last parameter is `**options` the signature and the help that it really has."""
    own = inspect.signature(function)
    first = [p for p in own.parameters.values() if p.kind is not p.VAR_KEYWORD]
    more = [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=field.get_default(call_default_factory=True),
            annotation=field.annotation,
        )
        for name, field in OPTIONS.items()
        if name not in own.parameters
    ]  # fmt: skip
    function.__signature__ = own.replace(parameters=[*first, *more])  # type: ignore[attr-defined]
    rows = [f"        {p.name}: {' '.join((OPTIONS[p.name].description or '').split())}" for p in more]
    function.__doc__ = "\n".join([(function.__doc__ or "").rstrip(), "", "    Options:", *rows, ""])
    return function
