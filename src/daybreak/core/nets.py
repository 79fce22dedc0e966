"""The options of every net: which net, and what can be set about it (`model.…` in a recipe).

A net of daybreak's own has its options here and its layers in `daybreak.models`. A net of another library
(`timm:resnet18`) has only its weights. Any other name is a net that comes from outside: the entry point of an installed
package, or `package.module:factory`; its options are handed to the factory as they are.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import ConfigDict, Discriminator, Field, PositiveInt, Tag, TypeAdapter, model_validator

from daybreak.core.sections import Positive, Section, validate

LIBRARIES = ("timm", "torchvision")


class NetConfig(Section):
    """A net by its name."""

    name: str


class OwnNet(NetConfig):
    """What all nets of daybreak's own have: `width` multiplies channel counts, `dropout` stands before the head.
    `weights`: what a net starts from, see models/pretrained.py."""

    weights: str = "none"
    width: Positive = 1.0
    activation: Literal["relu", "gelu", "silu"] = "relu"
    dropout: float = Field(default=0.0, ge=0, lt=1)


class FamilyConfig(OwnNet):
    """The nets without options of their own (models/vgg.py, inception.py, resnet.py)."""

    name: Literal["vgg", "inception", "resnet18", "preact-resnet18", "resnext29"]


class PageConfig(OwnNet):
    """`residual_from`: whether residual branches begin behind the pool or, with a strided convolution, at the layer's
    input; `dilation`: of their filters (models/page.py)."""

    name: Literal["page"] = "page"
    residual_from: Literal["pool", "input"] = "pool"
    dilation: PositiveInt = 1


class SprintConfig(OwnNet):
    """`channels`: of the three groups; `depth`: convolutions in the residual branch of each; `padded`: whether the
    whitening keeps the size of the image, so that maps have sides of 32, 16, 8, 4 instead of 31, 15, 7, 3
    (models/sprint.py)."""

    name: Literal["sprint"] = "sprint"
    channels: tuple[PositiveInt, PositiveInt, PositiveInt] = (64, 256, 256)
    depth: PositiveInt = 1
    padded: bool = False


class LiteConfig(OwnNet):
    """`weights`: by default those of a training on ImageNet, which are of width 1. Its relu is capped at six.
    `folded`: without batch norms, whose effect is in the weights (models/lite.py); where nobody says, a recipe that
    keeps a part of the net as it is decides."""

    name: Literal["lite0", "lite2"]
    weights: str = "imagenet"
    folded: bool | None = None

    @property
    def is_folded(self) -> bool:
        """Whether the net has no batch norms."""
        return bool(self.folded)

    @model_validator(mode="after")
    def weights_fit(self) -> Self:
        if self.activation != "relu":
            raise ValueError(f"{self.name} has no activation but relu")
        if self.weights == "imagenet" and self.width != 1:
            raise ValueError("weights of imagenet are of width 1; weights none for another")
        return self


class LibraryNetConfig(NetConfig):
    """A net of timm or torchvision, `timm:NAME`. `weights`: what it starts from, see models/pretrained.py."""

    weights: str = "none"


class OtherNetConfig(NetConfig):
    """A net from outside. Keys besides the name are keyword arguments of its factory."""

    model_config = ConfigDict(extra="allow")

    @property
    def arguments(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


OWN: tuple[type[OwnNet], ...] = (FamilyConfig, PageConfig, SprintConfig, LiteConfig)


def kind_of(value: Any) -> str:
    """The tag of the section that a net's options belong to; pydantic asks for it."""
    name = value.get("name", "") if isinstance(value, Mapping) else getattr(value, "name", "")
    if is_from_library(str(name)):
        return LibraryNetConfig.__name__
    kinds = (kind.__name__ for kind in OWN if name in get_args(kind.model_fields["name"].annotation))
    return next(kinds, OtherNetConfig.__name__)


def is_from_library(name: str) -> bool:
    """Whether this name is one of another library's."""
    library, colon, _ = name.partition(":")
    return bool(colon) and library in LIBRARIES


AnyNet = Annotated[
    Annotated[FamilyConfig, Tag("FamilyConfig")]
    | Annotated[PageConfig, Tag("PageConfig")]
    | Annotated[SprintConfig, Tag("SprintConfig")]
    | Annotated[LiteConfig, Tag("LiteConfig")]
    | Annotated[LibraryNetConfig, Tag("LibraryNetConfig")]
    | Annotated[OtherNetConfig, Tag("OtherNetConfig")],
    Discriminator(kind_of),
]


class _Holder(Section):
    model: AnyNet


def net_config(name: str, **options: Any) -> NetConfig:
    """A net's options by its name.

    Raises:
        UsageError: the net has no such option, or it is out of range.
    """
    return validate(_Holder, {"model": {"name": name} | options}, f"the options of {name}").model


NET: TypeAdapter[NetConfig] = TypeAdapter(AnyNet)
