"""How much of a net is fine-tuned in the time there is: the head alone, or stages above a cut as well.

Stages that learn need several epochs, and how many fit is known by a short timing on this machine. Where there is no
time for them, they learn from smaller photos, or the head alone learns; where there is more, they learn at a lower
rate, up to a number of epochs. A deeper cut, more views and more epochs pay for none of their time, however much there
is (benchmarks/LOG.md).
"""

import math
import time
from collections.abc import Callable, Collection

import torch
import torch.nn.functional as F
from torch import nn

from daybreak.core.clock import Stopwatch
from daybreak.core.config import LENGTH, Recipe, Stage, override
from daybreak.core.device import compute_dtype, kept_memory, synchronizer
from daybreak.data.dataset import Dataset
from daybreak.models.cut import Cut
from daybreak.models.registry import place
from daybreak.recipes.finetune import HEAD_ONLY
from daybreak.runs.classifier import autocast
from daybreak.training.features import Store, Trunk
from daybreak.training.loader import side_at
from daybreak.training.lr_finder import with_rate
from daybreak.training.session import initial_net, side_of, trunk_of

# At which scale of the photos, at which part of the recipe's rate, and the epochs that this takes: the first that fits
# is the best.
CHOICES = ((1.0, 1 / 3, 7.0), (1.0, 1.0, 4.0), (5 / 7, 1.0, 3.0))
MOST, MOST_STEPS = 24, 1000  # epochs and steps, whichever is longer; fewer steps were not tried
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
    """The recipe with what fits the budget, and a note on why it was taken.

    Args:
        budget: seconds of training. What is timed here is spent from it; features that are there need no time.
        settings: keys of the recipe that stay as they are.
    """
    # On CUDA libraries load kernels at the first use of each, which can take as long as the whole budget.
    getting_ready = "train" if device.type == "cpu" else "compile"
    with kept_memory():
        with watch.timed(getting_ready):
            net = place(initial_net(recipe, dataset, seed), device)
            parts = Cut(net, recipe.tune)
            scales = {scale for scale, _, _ in CHOICES}
            trunks = {scale: _trunk_at(scale, recipe, net, parts, dataset, device) for scale in scales}
        photos = PHOTOS if device.type == "cpu" else recipe.batch_size
        below, above = seconds_a_photo(parts, trunks[1.0], photos, watch, getting_ready)
    count = len(dataset.train.labels_N)
    left = (budget - watch.seconds("train")) / count
    most = max(MOST, math.ceil(MOST_STEPS / max(1, count // recipe.batch_size)))
    for scale, rate, enough in CHOICES:
        views = Store(trunks[scale], dataset.train, dataset.fingerprint, recipe.features).missing()
        epochs = (left / scale**2 - views * below) / above
        if epochs >= enough:
            is_ample = epochs > most and not {*LENGTH, "stretch"} & set(settings)
            length = {"epochs": most, "min_steps": 0, "steps": None, "stretch": False} if is_ample else {}
            found = recipe.model_copy(update={"resolution": _whole(scale)} | length)
            is_set = any(key.startswith("schedule.") for key in settings)
            learns = f"{recipe.tune} and all above it learn with the head at {trunks[scale].size} px, for "
            how_long = f"{most} epochs: more gain nothing" if is_ample else f"about {epochs:.0f} epochs"
            return found if is_set else with_rate(found, rate * found.schedule.max_lr), learns + how_long
    head_only = {key: value for key, value in HEAD_ONLY.items() if key not in settings}
    return override(recipe, head_only), "the head alone learns: more needs a longer --budget"


def _whole(scale: float) -> tuple[Stage, ...]:
    return (Stage(until=1.0, scale=scale),)


def _trunk_at(
    scale: float, recipe: Recipe, net: nn.Module, parts: Cut, dataset: Dataset, device: torch.device
) -> Trunk:
    size = side_at(_whole(scale), 0.0, side_of(recipe, dataset))
    return trunk_of(recipe, net, parts, dataset, size, device, compute_dtype(recipe.precision, device))


def seconds_a_photo(
    parts: Cut, trunk: Trunk, photos: int, watch: Stopwatch, getting_ready: str = "train"
) -> tuple[float, float]:
    """What the part below the cut takes, forward, and the part above, forward and backward.

    Args:
        photos: so many at a time.
        getting_ready: as what the first round of both is timed.
    """
    with watch.timed(getting_ready):
        forward, step = _works(parts, trunk, photos)
        forward()
        step()
    with watch.timed("train"):
        wait = synchronizer(trunk.device)
        return _seconds(forward, wait) / photos, _seconds(step, wait) / photos


def _works(parts: Cut, trunk: Trunk, photos: int) -> tuple[Callable[[], None], Callable[[], None]]:
    """What is timed: the part below, forward, and the part above, forward and backward."""
    images = torch.zeros(photos, len(trunk.normalize.mean), trunk.size, trunk.size, device=trunk.device)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.zeros(photos, dtype=torch.long, device=trunk.device)
    with autocast(trunk.device, trunk.dtype), torch.no_grad():
        maps = trunk.net(images)

    def forward() -> None:
        with autocast(trunk.device, trunk.dtype), torch.no_grad():
            trunk.net(images)

    def step() -> None:
        with autocast(trunk.device, trunk.dtype):
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
