"""The forms in which a run's net can answer, each with the same work: decoded uint8 images in, probabilities out."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from daybreak.core.errors import DaybreakError, one_line
from daybreak.data import Dataset
from daybreak.export.bundle import Bundle
from daybreak.export.parity import Answer
from daybreak.export.write import graph_alone, graph_in_eight_bits
from daybreak.models.anatomy.folding import fold_batch_norms
from daybreak.models.registry import place
from daybreak.runs.classifier import Classifier
from daybreak.runs.directory import RunDirectory

EAGER, FOLDED, COMPILED, ONNX, INT8 = "eager", "folded", "compiled", "onnx", "onnx-int8"


@dataclass(frozen=True)
class Form:
    """A net that is ready to answer.

    Attributes:
        device: cpu, cuda or mps.
        dtype: of its convolutions: float32, bfloat16 or int8.
        answer: what it answers is on the host when it returns, so the device has nothing left to do.
    """

    name: str
    device: str
    dtype: str
    answer: Answer


Maker = Callable[[], Form]


def answer(classifier: Classifier, images_NHWC: np.ndarray) -> np.ndarray:
    """Probabilities (N, K), float32, of uint8 images (N, H, W, C), all in one forward pass."""
    with torch.inference_mode():
        found: np.ndarray = classifier.forward(classifier.prepare(images_NHWC)).softmax(1).cpu().numpy()
    return found


def folded(classifier: Classifier) -> Classifier:
    """The classifier with its batch norms folded into the convolutions and its weights in the compute format, so that
    nothing is converted on the way: the same answers, up to rounding."""
    net = place(fold_batch_norms(classifier.net).to(classifier.dtype), classifier.device)
    return replace(classifier, net=Cast(net, classifier.dtype))


class Cast(nn.Module):
    """Runs a net in a number format whatever comes in."""

    def __init__(self, net: Callable[[Tensor], Tensor], dtype: torch.dtype) -> None:
        super().__init__()
        self.net, self.dtype = net, dtype

    def forward(self, images_NCHW: Tensor) -> Tensor:
        return self.net(images_NCHW.to(self.dtype))


def of_torch(name: str, make: Callable[[], Classifier]) -> Form:
    classifier = make()
    classifier.net.eval()
    dtype = str(classifier.dtype).removeprefix("torch.")
    return Form(name, classifier.device.type, dtype, partial(answer, classifier))


def of_bundle(name: str, make: Callable[[], Bundle]) -> Form:
    """On the CPU, wherever the run was trained."""
    bundle = make().load()
    dtype = "int8" if bundle.facts.int8 else "float32"
    return Form(name, "cpu", dtype, lambda images_NHWC: bundle.at_once(np.ascontiguousarray(images_NHWC))[0])


def onnx_makers(run: RunDirectory, dataset: Dataset, folder: Path) -> dict[str, Maker]:
    """Makers of the two forms that ONNX Runtime runs; their graphs go into the folder."""

    @cache
    def graph() -> Bundle:
        return graph_alone(run, dataset, _made(folder / ONNX))

    def in_eight_bits() -> Bundle:
        return graph_in_eight_bits(graph(), dataset, _made(folder / INT8))

    return {ONNX: partial(of_bundle, ONNX, graph), INT8: partial(of_bundle, INT8, in_eight_bits)}


def _made(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return folder


def reason(error: Exception) -> str:
    """Why there is no such form, in a line that names no place on this machine."""
    if isinstance(error, DaybreakError):
        return error.why  # the remedy may name the folder from which daybreak was installed
    return f"{type(error).__name__}: {one_line(error)[:200]}"
