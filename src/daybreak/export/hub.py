"""The folder layout that the Hugging Face hub expects: config.json, model.safetensors and a card; written and asked.

A net that timm has is written as timm writes it, and timm reads it without daybreak. Of other nets config.json holds
what model.json does in a run, from which daybreak builds them. Nothing here uses the network: uploading is up to you.
"""

from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import nn

from daybreak.core.errors import DaybreakError, RunError, one_line
from daybreak.core.files import to_json
from daybreak.core.nets import LibraryNetConfig, NetConfig, OwnNet, net_config
from daybreak.core.plugins import Factory
from daybreak.data.image import DecodeSpec
from daybreak.export.answering import AnsweringNet
from daybreak.export.bundle import CONFIG, Bundle, Facts, read_facts
from daybreak.models.as_timm import as_timm, read_timm, write_timm
from daybreak.models.pretrained import NAMED_WEIGHTS, WEIGHTS
from daybreak.runs.card import ModelCard, card_values, net_of_card, read_card
from daybreak.runs.reading import read_json

LIBRARY = "daybreak"


def write_hub(net: nn.Module, card: ModelCard, classes: tuple[str, ...], folder: Path) -> None:
    """Write config.json and model.safetensors.

    Args:
        net: on the CPU; one of timm gets another `pretrained_cfg`.
        classes: names that are text, where those of the card may be any names of folders.

    Raises:
        UsageError: it is timm's net, or one that timm has too, and timm is not installed.
    """
    theirs = as_timm(net)
    if theirs is not None:
        size = (card.decode.channels, card.size, card.size)
        write_timm(theirs, folder, classes, size, card.mean, card.std, interpolation(card))
        return
    said = {"library_name": LIBRARY, "architecture": card.net.name, "num_classes": len(classes)}
    values = card_values(replace(card, net=without_path(card.net), classes=classes))
    (folder / CONFIG).write_text(to_json(said | values), encoding="utf-8")
    (folder / WEIGHTS).write_bytes(weights_of(net))


def interpolation(card: ModelCard) -> str:
    """By which timm's transform should resize: as training did to what was in files or, where it resized twice, the
    second time. That is all there is to do to an image that has the side of the first already."""
    return "bicubic" if card.size == card.decode.size else "bilinear"


def weights_of(net: nn.Module) -> bytes:
    """A file in the form of safetensors."""
    return save({name: tensor.contiguous() for name, tensor in net.state_dict().items()}, {"format": "pt"})


def without_path(net: NetConfig) -> NetConfig:
    """A net's options without the place on this machine from which it took its first weights."""
    if isinstance(net, OwnNet | LibraryNetConfig) and net.weights not in NAMED_WEIGHTS:
        return net.model_copy(update={"weights": "none"})
    return net


def library_of(folder: Path) -> str:
    """What loads the net of such a folder: timm or daybreak.

    Raises:
        RunError: config.json cannot be read.
    """
    return LIBRARY if read_json(folder / CONFIG).get("library_name") == LIBRARY else "timm"


def read_hub(folder: Path, facts: Facts, factory: Factory | None = None) -> tuple[nn.Module, ModelCard]:
    """The net of such a folder, in training mode, and how to feed it.

    Args:
        factory: makes a net that is neither daybreak's nor an installed package's own.

    Raises:
        RunError: the folder is damaged, or the net needs a factory.
        UsageError: timm is not installed, and it is timm's.
    """
    if library_of(folder) == LIBRARY:
        card = read_card(folder / CONFIG)
        return net_of_card(card, folder / CONFIG, folder / WEIGHTS, factory), card
    net = read_timm(folder)
    said: Any = net.pretrained_cfg
    config, size = net_config(f"timm:{said['architecture']}"), said["input_size"][-1]
    decode = DecodeSpec(facts.decode.size, facts.decode.channels)
    return net, ModelCard(config, facts.classes, size, decode, tuple(said["mean"]), tuple(said["std"]), "float32")


class HubBundle(Bundle):
    """A bundle in the hub's layout: its net is built by timm or daybreak and answers by PyTorch, on the CPU.

    Args:
        net: as `factory` of `read_hub`.
    """

    model = WEIGHTS

    def __init__(self, path: Path, facts: Facts, net: Factory | None = None) -> None:
        super().__init__(path, facts)
        self._factory = net

    @classmethod
    def open(cls, path: Path | str, net: Factory | None = None) -> "HubBundle":
        """
        Raises:
            RunError: it is none, or its files, the card aside, are not those that were written.
        """
        return cls(Path(path), read_facts(Path(path), WEIGHTS, "daybreak export RUN --hub"), net)

    def load(self) -> "HubBundle":
        _ = self._net
        return self

    @torch.no_grad()
    def _ask(self, images_NHWC: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        probability_NK, _, energy_N = self._net(torch.from_numpy(np.array(images_NHWC)))
        return probability_NK.numpy(), energy_N.numpy()

    @cached_property
    def _net(self) -> AnsweringNet:
        try:
            return AnsweringNet(*read_hub(self.path, self.facts, self._factory)).eval()
        except DaybreakError:
            raise
        except Exception as error:  # whatever a stranger's configuration brings about
            raise RunError(self.path / CONFIG, f"cannot be used ({one_line(error)[:200]})", "another bundle") from None
