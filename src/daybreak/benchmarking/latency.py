"""How long one image takes: DAWNBench's inference, the test images one at a time."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import fmean, median
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from daybreak.core.device import synchronizer
from daybreak.core.errors import one_line
from daybreak.models.anatomy.folding import fold_batch_norms
from daybreak.models.registry import place
from daybreak.runs.classifier import Classifier

FORMS = ("eager", "folded", "compiled")
WARM_UP = 50  # images whose times are thrown away


def form_of(classifier: Classifier, form: str) -> Classifier:
    """The classifier with its net in another form: the same answers, up to rounding.

    `eager` is the net as it was trained. `folded` has its batch norms folded into the convolutions and its weights in
    the compute format, so that nothing is converted on the way. `compiled` is `folded` through torch.compile, which
    needs a C++ compiler and half a minute.
    """
    if form == "eager":
        return classifier
    net = fold_batch_norms(classifier.net).to(classifier.dtype)
    net = place(net, classifier.device)
    call: Callable[[Tensor], Tensor] = net
    if form == "compiled":
        call = torch.compile(net, options={"freezing": True})
    return replace(classifier, net=_Cast(call, classifier.dtype))


def latency(classifier: Classifier, images_NHWC: np.ndarray) -> dict[str, Any]:
    """Milliseconds from a uint8 image in memory to its class, normalisation included: median, mean and 99th percentile.

    Args:
        images_NHWC: classified one at a time.
    """
    wait, seconds = synchronizer(classifier.device), []
    classifier.net.eval()
    with torch.inference_mode():
        for at in [*range(WARM_UP), *range(len(images_NHWC))]:
            image_1HWC = images_NHWC[at % len(images_NHWC)][None]
            begun = time.perf_counter()
            int(classifier.forward(classifier.prepare(image_1HWC)).argmax())
            wait()
            seconds.append(time.perf_counter() - begun)
    ms = [1e3 * s for s in seconds[WARM_UP:]]
    return {"median": median(ms), "mean": fmean(ms), "p99": float(np.percentile(ms, 99)), "images": len(ms)}


def latencies(
    classifier: Classifier, images_NHWC: np.ndarray, forms: Sequence[str] = FORMS
) -> dict[str, dict[str, Any]]:
    """The latency of every form that works here; a form that does not says why under "unavailable"."""
    found = {}
    for form in forms:
        try:
            found[form] = latency(form_of(classifier, form), images_NHWC)
        except Exception as error:  # whatever a compiler of another make may raise
            found[form] = {"unavailable": f"{type(error).__name__}: {one_line(str(error))[:200]}"}
    return found


def fastest(found: dict[str, dict[str, Any]]) -> str:
    """The form with the lowest median."""
    return min((f for f in found if "median" in found[f]), key=lambda form: float(found[form]["median"]))


class _Cast(nn.Module):
    """Runs a net in a number format whatever comes in."""

    def __init__(self, net: Callable[[Tensor], Tensor], dtype: torch.dtype) -> None:
        super().__init__()
        self.net, self.dtype = net, dtype

    def forward(self, images_NCHW: Tensor) -> Tensor:
        return self.net(images_NCHW.to(self.dtype))
