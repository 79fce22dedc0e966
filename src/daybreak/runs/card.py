"""model.json: how to rebuild a net, and how to feed it."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from daybreak.core.config import Precision
from daybreak.core.errors import RunError, UsageError
from daybreak.core.nets import NetConfig, is_from_library
from daybreak.core.plugins import Factory, is_path
from daybreak.data.image import DecodeSpec
from daybreak.models.registry import build_net
from daybreak.runs.old_format import net_of
from daybreak.runs.reading import COPY
from daybreak.runs.schemas import Card, read_as

FORMAT = 1


@dataclass(frozen=True)
class ModelCard:
    """model.json: how to rebuild the net and how to feed it."""

    net: NetConfig
    classes: tuple[str, ...]
    size: int
    decode: DecodeSpec
    mean: tuple[float, ...]
    std: tuple[float, ...]
    precision: Precision


def card_values(card: ModelCard) -> dict[str, Any]:
    """What model.json says."""
    return asdict(card) | {"net": card.net.model_dump(), "format": FORMAT}


def read_card(path: Path) -> ModelCard:
    """What model.json says, or another file with its keys.

    Raises:
        RunError: it is missing, cannot be read, or is of another version.
    """
    values = read_as(path, Card)
    if values.get("format") != FORMAT:
        raise RunError(path, "written by another version of daybreak", "upgrade daybreak")
    try:
        return ModelCard(
            net=net_of(values["net"]),
            classes=tuple(values["classes"]),
            size=values["size"],
            decode=DecodeSpec(**values["decode"]),
            mean=tuple(values["mean"]),
            std=tuple(values["std"]),
            precision=values["precision"],
        )
    except (KeyError, TypeError, ValueError, AttributeError, UsageError) as error:
        raise RunError(path, f"cannot be read ({error})", COPY) from None


def net_of_card(card: ModelCard, source: Path, weights: Path, factory: Factory | None) -> nn.Module:
    """The net of a card with the weights of a file.

    Args:
        source: the file that the card was read from.
        factory: makes a net that is neither daybreak's nor an installed package's own.

    Raises:
        RunError: the weights are missing, damaged, or of another net, or the net needs a factory.
    """
    name = card.net.name
    if factory is None and is_path(name) and not is_from_library(name):
        why = f"its net {name} is not part of daybreak, and a run directory imports nothing"
        raise RunError(source, why, f"--net {name}, or daybreak.load(RUN, net=…)")
    net = build_net(card.net, len(card.classes), card.decode.channels, factory)
    try:
        net.load_state_dict(load_file(weights))
    except FileNotFoundError:
        raise RunError(weights, "missing", "a run that daybreak train finished") from None
    except (SafetensorError, RuntimeError, OSError) as error:
        raise RunError(weights, f"does not fit {source.name} ({str(error)[:200]})", COPY) from None
    return net
