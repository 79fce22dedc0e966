"""How deep a net is fine-tuned in the time there is: the head alone, or stages above a cut as well.

The deeper the cut, the more of the net runs forward and backward in every step, and the less of it only once a view.
Stages that learn need several epochs, and more of them the deeper the cut (benchmarks/LOG.md): it is the deepest above
which enough fit, by a short timing on this machine. Where there is no time even for the top stages, they learn from
smaller photos, or the head alone learns.
"""

import math
import time
from collections.abc import Callable, Collection

import torch
import torch.nn.functional as F
from torch import nn

from daybreak.core.clock import Stopwatch
from daybreak.core.config import Recipe, Stage, override
from daybreak.core.device import compute_dtype, kept_memory, synchronizer
from daybreak.data.dataset import Dataset
from daybreak.models.anatomy.folding import fold_batch_norms
from daybreak.models.anatomy.trace import trace
from daybreak.models.cut import HEAD, Cut, stages_to_tune
from daybreak.models.fused import fuse
from daybreak.models.registry import place
from daybreak.recipes.finetune import HEAD_ONLY
from daybreak.runs.classifier import autocast
from daybreak.training.session import initial_net

# Where to cut, at which scale of the photos, and the epochs that this takes: the first that fits is the best.
CHOICES = (("stage4", 1.0, 12.0), ("stage6", 1.0, 4.0), ("stage6", 5 / 7, 3.0))
PROBE = "stage6"  # the cut that is timed; others follow by their multiply-adds
TIMED, PHOTOS = 2, 16  # rounds, after one that is not timed, and photos in each on a CPU


def for_depth(
    recipe: Recipe,
    dataset: Dataset,
    budget: float,
    seed: int,
    device: torch.device,
    watch: Stopwatch,
    settings: Collection[str] = (),
) -> tuple[Recipe, str]:
    """The recipe with the cut that fits the budget, and a note on why it was taken.

    Args:
        budget: seconds of training. What is timed here is spent from it.
        settings: keys of the recipe that stay as they are.
    """
    with kept_memory():
        seconds = seconds_by_cut(recipe, dataset, seed, device, watch)
    left, photos = budget - watch.seconds("train"), len(dataset.train.labels_N)
    for stage, scale, enough in CHOICES:
        below, above = (scale**2 * each for each in seconds.get(stage, (math.inf, math.inf)))
        epochs = (left / photos - recipe.features * below) / above
        if epochs >= enough:
            side, whole = round(scale * dataset.decode.size), (Stage(until=1.0, scale=scale),)
            why = f"{stage} and all above it learn with the head at {side} px, for about {epochs:.0f} epochs"
            return recipe.model_copy(update={"tune": stage, "resolution": whole}), why
    head_only = {key: value for key, value in HEAD_ONLY.items() if key not in settings}
    return override(recipe, head_only), "the head alone learns: more needs a longer --budget"


def seconds_by_cut(
    recipe: Recipe, dataset: Dataset, seed: int, device: torch.device, watch: Stopwatch
) -> dict[str, tuple[float, float]]:
    """For each cut below the head's, from the top down: seconds a photo of the part below, forward, and of the part
    above, forward and backward."""
    # On CUDA libraries load kernels at the first use of each, which can take as long as the whole budget.
    getting_ready = "train" if device.type == "cpu" else "compile"
    with watch.timed(getting_ready):
        net, size = place(initial_net(recipe, dataset, seed), device), dataset.decode.size
        above = _macs_above(net, size, dataset.decode.channels)
        if PROBE not in above:
            return {}
        photos = PHOTOS if device.type == "cpu" else recipe.batch_size
        forward, step = _works(Cut(net, PROBE), size, photos, recipe, dataset, device)
        forward()
        step()
    with watch.timed("train"):
        a_forward, a_step = (_seconds(work, synchronizer(device)) / photos for work in (forward, step))
    whole = above["all"]
    a_mac_below, a_mac_above = a_forward / (whole - above[PROBE]), a_step / above[PROBE]
    return {
        stage: ((whole - above[stage]) * a_mac_below, above[stage] * a_mac_above) for stage in stages_to_tune(net)[1:]
    }


def _macs_above(net: nn.Module, size: int, channels: int) -> dict[str, int]:
    """Multiply-adds of an image above each cut, and of all."""
    layers, found, names = trace(net, size, channels), dict[str, int](), [HEAD]
    for stage in stages_to_tune(net)[1:]:
        names.append(stage)
        found[stage] = sum(layer.macs for layer in layers if any(layer.is_in(name) for name in names))
    return found | {"all": sum(layer.macs for layer in layers)}


def _works(
    parts: Cut, size: int, photos: int, recipe: Recipe, dataset: Dataset, device: torch.device
) -> tuple[Callable[[], None], Callable[[], None]]:
    """What is timed: the part below, forward, and the part above, forward and backward."""
    dtype = compute_dtype(recipe.precision, device)
    folded = fold_batch_norms(parts.below).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    below = fuse(folded, device, dtype)
    images = torch.zeros(photos, dataset.decode.channels, size, size, device=device)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.zeros(photos, dtype=torch.long, device=device)
    with autocast(device, dtype), torch.no_grad():
        maps = below(images)

    def forward() -> None:
        with autocast(device, dtype), torch.no_grad():
            below(images)

    def step() -> None:
        with autocast(device, dtype):
            logits = parts.logits(maps.float())
        F.cross_entropy(logits.float(), labels).backward()

    return forward, step


def _seconds(work: Callable[[], None], wait: Callable[[], None]) -> float:
    wait()
    begun = time.perf_counter()
    for _ in range(TIMED):
        work()
    wait()
    return (time.perf_counter() - begun) / TIMED
