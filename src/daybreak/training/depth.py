"""How much of a net is fine-tuned in the time there is: the head alone, or stages above a cut as well.

Stages that learn need several epochs, and how many fit is known by a short timing on this machine. Where there is no
time for them, they learn from smaller photos, or the head alone learns; where there is more, they learn at a lower
rate. A deeper cut, and more views, pay for none of their time, however much there is (benchmarks/LOG.md).
"""

import time
from collections.abc import Callable, Collection

import torch
import torch.nn.functional as F

from daybreak.core.clock import Stopwatch
from daybreak.core.config import Recipe, Stage, override
from daybreak.core.device import compute_dtype, kept_memory, synchronizer
from daybreak.data.dataset import Dataset
from daybreak.models.anatomy.folding import fold_batch_norms
from daybreak.models.cut import Cut
from daybreak.models.fused import fuse
from daybreak.models.registry import place
from daybreak.recipes.finetune import HEAD_ONLY
from daybreak.runs.classifier import autocast
from daybreak.training.lr_finder import with_rate
from daybreak.training.session import initial_net

# At which scale of the photos, at which part of the recipe's rate, and the epochs that this takes: the first that fits
# is the best.
CHOICES = ((1.0, 1 / 3, 7.0), (1.0, 1.0, 4.0), (5 / 7, 1.0, 3.0))
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
        budget: seconds of training. What is timed here is spent from it.
        settings: keys of the recipe that stay as they are.
    """
    with kept_memory():
        below, above = seconds_a_photo(recipe, dataset, seed, device, watch)
    left, photos = budget - watch.seconds("train"), len(dataset.train.labels_N)
    for scale, rate, enough in CHOICES:
        epochs = (left / photos / scale**2 - recipe.features * below) / above
        if epochs >= enough:
            side, whole = round(scale * dataset.decode.size), (Stage(until=1.0, scale=scale),)
            why = f"{recipe.tune} and all above it learn with the head at {side} px, for about {epochs:.0f} epochs"
            found = recipe.model_copy(update={"resolution": whole})
            is_set = any(key.startswith("schedule.") for key in settings)
            return found if is_set else with_rate(found, rate * found.schedule.max_lr), why
    head_only = {key: value for key, value in HEAD_ONLY.items() if key not in settings}
    return override(recipe, head_only), "the head alone learns: more needs a longer --budget"


def seconds_a_photo(
    recipe: Recipe, dataset: Dataset, seed: int, device: torch.device, watch: Stopwatch
) -> tuple[float, float]:
    """What the part below the cut takes, forward, and the part above, forward and backward."""
    # On CUDA libraries load kernels at the first use of each, which can take as long as the whole budget.
    getting_ready = "train" if device.type == "cpu" else "compile"
    with watch.timed(getting_ready):
        net, size = place(initial_net(recipe, dataset, seed), device), dataset.decode.size
        photos = PHOTOS if device.type == "cpu" else recipe.batch_size
        forward, step = _works(Cut(net, recipe.tune), size, photos, recipe, dataset, device)
        forward()
        step()
    with watch.timed("train"):
        wait = synchronizer(device)
        return _seconds(forward, wait) / photos, _seconds(step, wait) / photos


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
