"""What a training run is made of: frozen, validated, JSON both ways.

A recipe says *how* to train, and nothing about which data. Unknown keys raise and name the nearest known one.
Lengths in pixels (`crop`, `cutout`) are given for a 32 px image and scale with the image.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from daybreak.core.errors import UsageError, nearest
from daybreak.core.nets import AnyNet
from daybreak.core.sections import Fraction, Momentum, Positive, Rate, Section, parse_value, validate

Tta = Literal["none", "flip", "full"]
Precision = Literal["auto", "float32", "bfloat16"]
Convolution = Literal["auto", "direct", "winograd"]
Device = Literal["auto", "cpu", "cuda", "mps"]
OnNonfinite = Literal["stop", "skip"]
Compile = Literal["auto", "always", "never"]
Balance = Literal["none", "weights", "sampling"]

LENGTH = ("epochs", "steps", "min_steps")  # of a recipe: what `--resume` can change
MAX_EPOCHS, MAX_STEPS = 10**6, 10**9  # more is a slip of the finger: years of training


class Adam(Section):
    """Adam (Kingma & Ba 2015); beta1 follows the schedule's momentum where the schedule cycles it.

    `weight_decay` is coupled (added to the gradient), as in torch.optim.Adam.
    """

    name: Literal["adam"] = "adam"
    beta1: Momentum = 0.9
    beta2: Momentum = 0.999
    eps: Positive = 1e-8
    weight_decay: Rate = 0.0


class Sgd(Section):
    """SGD with Nesterov momentum; the decay is coupled, as in torch.optim.SGD."""

    name: Literal["sgd"] = "sgd"
    momentum: Momentum = 0.9
    weight_decay: Rate = 5e-4


class Muon(Section):
    """Muon (Jordan 2024) for hidden convolution filters; what the net itself says for the rest.

    The sprint net has its biases and its head trained by Nesterov SGD. `bias_lr` and `head_lr` are peak rates per
    example of a batch: the gradient is that of the *summed* loss, so the effective rate grows with the batch (linear
    scaling). `weight_decay` is per example too, decoupled, and applies to the SGD groups only: Muon rescales each
    filter bank to a fixed norm instead. Those rates suit a head that is divided by its width. On every other net, what
    is no hidden filter is trained by Adam, with `other_lr` as its peak.
    """

    name: Literal["muon"] = "muon"
    momentum: Momentum = 0.6
    newton_schulz_steps: int = Field(default=3, ge=1)
    bias_lr: Positive = 0.053
    head_lr: Positive = 0.67
    sgd_momentum: Momentum = 0.85
    weight_decay: Rate = 2e-6
    whiten_bias_until: float = Field(default=0.375, gt=0, le=1)
    other_lr: Positive = 0.003


class OneCycle(Section):
    """The one-cycle schedule (Smith 2018): values at the corners, and the shape of the lines between them.

    `warmup` is the fraction of training at which the peak is reached, and `hold` the fraction for which it is kept.
    Two phases end at `final_lr`; three phases mirror the warm-up back to `initial_lr` first and spend the rest
    annihilating to `final_lr`.
    `momentum` is (lowest, highest): highest where the rate is lowest. None leaves the optimizer's own.

    Other schedules are corners of the same shape, to compare with. Warm-up, stable, decay (Hu et al. 2024, MiniCPM):
    a short `warmup` and a long `hold`. Flat, then cosine: no `warmup`, a `hold`, `shape` cosine. Step decay: `shape`
    steps comes down from the peak by a factor of ten at half and again at three quarters of the way (He et al. 2016),
    whatever `final_lr` is.
    """

    max_lr: Positive
    initial_lr: Rate
    final_lr: Rate
    warmup: Fraction
    hold: Fraction = 0.0
    shape: Literal["linear", "cosine", "steps"] = "linear"
    phases: Literal[2, 3] = 2
    momentum: tuple[Momentum, Momentum] | None = None

    @model_validator(mode="after")
    def corners_in_order(self) -> Self:
        if self.max_lr < max(self.initial_lr, self.final_lr):
            raise ValueError(f"max_lr {self.max_lr} is below initial_lr {self.initial_lr} or final_lr {self.final_lr}")
        if self.phases == 3 and self.warmup > 0.5:
            raise ValueError(f"three phases need warmup <= 0.5, not {self.warmup}")
        if self.phases == 3 and self.hold:
            raise ValueError(f"three phases hold no peak: hold must be 0, not {self.hold}")
        if self.warmup + self.hold > 1:
            raise ValueError(f"warmup {self.warmup} and hold {self.hold} are together more than 1")
        if self.shape == "steps" and (self.phases == 3 or self.momentum is not None):
            raise ValueError("shape steps needs two phases and a fixed momentum")
        return self


class Augment(Section):
    """Random changes to a training image: pixels at 32 px, degrees, and relative brightness and contrast."""

    crop: int = Field(default=0, ge=0, le=16)
    flip: Literal["none", "random", "alternating"] = "none"
    cutout: int = Field(default=0, ge=0, le=32)
    rotation: float = Field(default=0.0, ge=0, le=180)
    brightness: Fraction = 0.0
    contrast: Fraction = 0.0


class Stage(Section):
    """Until this progress, train at this fraction of the image size."""

    until: Fraction
    scale: float = Field(gt=0, le=1)


class Expected(Section):
    """What this recipe reached when it was last measured, and the record that proves it.

    One run alone, or one of fewer epochs than the recipe's own, says something but promises nothing.
    """

    accuracy: Fraction  # mean over seeds, with the recipe's test-time augmentation
    std: Annotated[float, Field(ge=0)] | None = None  # of one run, where there were two or more
    n: PositiveInt | None = None  # runs; None where nobody has written it down
    epochs: int | None = Field(default=None, gt=0)  # where they were fewer than the recipe's own
    train_seconds: float = Field(gt=0)
    dataset: str
    hardware: str
    record: str


class Recipe(Section):
    """Everything that decides how a net is trained.

    `epochs` is raised where the data is so small that they would come to fewer than `min_steps` steps; `steps`, where
    it is given, says how long in place of both. `loss` softmax-twice takes the cross-entropy of probabilities as if
    they were logits: a common mistake, kept to show what it costs. `convolution`
    says how 3×3 convolutions are computed: `auto` takes the direct form or, on CPUs, minimal filtering, whatever a
    short timing on this machine finds faster (models/winograd); `winograd` is minimal filtering on any device.
    `balance` evens out classes of unequal size: by the weight of their images in the loss, or by showing each class
    equally often. `features`: of how many views of each training image the frozen part of a net computes features,
    on which the rest is trained (training/features.py); 0: the whole net is trained. `tune`: from which stage on it is
    not frozen; `head`: nothing but the head learns. `size`: side in px at which images of one's own are decoded where
    nobody says. `stretch`: whether a cycle takes all of a budget; where it does not, it ends after its epochs.
    """

    name: str = Field(pattern=r"^\w[\w.+-]*$")  # a part of file names
    summary: str
    model: AnyNet
    optimizer: Annotated[Adam | Sgd | Muon, Field(discriminator="name")]
    schedule: OneCycle
    epochs: int = Field(ge=1, le=MAX_EPOCHS)
    batch_size: int = Field(ge=2)
    min_steps: int = Field(default=0, ge=0, le=MAX_STEPS)
    steps: int | None = Field(default=None, gt=0, le=MAX_STEPS)
    augment: Augment = Augment()
    resolution: tuple[Stage, ...] = (Stage(until=1.0, scale=1.0),)
    loss: Literal["cross-entropy", "softmax-twice"] = "cross-entropy"
    label_smoothing: Fraction = 0.0
    balance: Balance = "none"
    features: int = Field(default=0, ge=0, le=100)
    tune: str = "head"
    size: int | None = Field(default=None, ge=8)
    stretch: bool = True
    ema: Fraction | None = None
    precision: Precision = "auto"
    convolution: Convolution = "auto"
    tta: Tta = "flip"
    expected: Expected | None = None

    @property
    def is_head_only(self) -> bool:
        """Whether the head alone learns, on features, which takes seconds."""
        return bool(self.features) and self.tune == "head"

    @property
    def mirrors(self) -> bool:
        """Whether training shows the net mirrored images. (The second view of which features are computed is one.)"""
        return self.augment.flip != "none" or self.features > 1

    @model_validator(mode="after")
    def stages_cover_training(self) -> Self:
        ends = [stage.until for stage in self.resolution]
        if not ends or ends[-1] != 1.0 or ends != sorted(set(ends)):
            raise ValueError(f"resolution: `until` must increase and end at 1.0, not {ends}")
        return self


def override(recipe: Recipe, settings: Mapping[str, Any]) -> Recipe:
    """The recipe with dotted keys replaced, e.g. ``{"schedule.max_lr": 0.1}``.

    Text values are read as JSON where they are JSON (``0.1``, ``true``, ``[1, 2]``), else taken as they are.
    """
    values = recipe.model_dump()
    for key, value in sorted(settings.items(), key=lambda item: not item[0].endswith(".name")):
        *parents, leaf = key.split(".")
        section = values
        for parent in parents:
            if not isinstance(section.get(parent), dict):
                raise UsageError(key, f"no section {parent!r} in a recipe", nearest(parent, section))
            section = section[parent]
        section[leaf] = parse_value(value)
        names = {"model.name": recipe.model.name, "optimizer.name": recipe.optimizer.name}
        if key in names and section[leaf] != names[key]:
            values[parents[0]] = {"name": section[leaf]}  # the keys of another optimizer or net mean nothing to it
    changed = validate(Recipe, values, f"recipe {recipe.name}")
    return changed if changed == recipe else changed.model_copy(update={"expected": None})


def with_epochs(recipe: Recipe, epochs: int | None, settings: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe with so many epochs, whatever it says about its length, and with other keys replaced."""
    length = {} if epochs is None else {"epochs": epochs, "min_steps": 0, "steps": None}
    for key in length.keys() & (settings or {}).keys():
        raise UsageError(f"--epochs and --set {key}", "both say how long to train", "one of them")
    return override(recipe, dict(settings or {}) | length)


def parse_settings(pairs: list[str]) -> dict[str, str]:
    """`["a.b=1"]` as `{"a.b": "1"}`."""
    for pair in pairs:
        if "=" not in pair:
            raise UsageError(pair, "not of the form key=value", "--set schedule.max_lr=0.1")
    return dict(pair.split("=", 1) for pair in pairs)
