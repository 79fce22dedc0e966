"""What is alive while a net trains, and how it is put together from a recipe and a data set."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from daybreak.core.clock import Stopwatch
from daybreak.core.config import Recipe
from daybreak.core.device import compute_dtype, synchronizer
from daybreak.data.dataset import Dataset
from daybreak.models.anatomy.trace import count_macs
from daybreak.models.foreign import ForeignNet
from daybreak.models.registry import SMALLEST_SIZE, build_net, place
from daybreak.models.sprint import WHITEN_PATCHES, SprintNet
from daybreak.runs.classifier import Classifier
from daybreak.runs.transforms import Normalizer, resize
from daybreak.training.loader import Loader
from daybreak.training.optim import ScheduledOptimizer, build_optimizer
from daybreak.training.progress import Pace, StepPace, TimePace


@dataclass
class Session:
    """A training run in the making.

    Attributes:
        forward: the net as training calls it: the net itself, or its compiled form.
        sizes: how many steps were taken at each image size.
        skipped: how many steps were left out because they were not finite.
    """

    recipe: Recipe
    dataset: Dataset
    seed: int
    device: torch.device
    dtype: torch.dtype
    watch: Stopwatch
    net: nn.Module
    forward: Callable[[Tensor], Tensor]
    ema: AveragedModel | None
    optimizer: ScheduledOptimizer
    loader: Loader
    pace: Pace
    classifier: Classifier
    step: int = 0
    skipped: int = 0
    sizes: Counter[int] = field(default_factory=Counter)

    @property
    def progress(self) -> float:
        return self.pace.progress(self.step)


def prepare(
    recipe: Recipe,
    dataset: Dataset,
    seed: int,
    device: torch.device,
    *,
    budget: float | None = None,
    watch: Stopwatch | None = None,
) -> Session:
    """Everything before the first step; on the clock from the moment the training images are read.

    Args:
        budget: seconds of training; without it the recipe's epochs decide.
        watch: a clock that runs already, where part of the budget is spent.
    """
    dtype = compute_dtype(recipe.precision, device)
    net = place(initial_net(recipe, dataset, seed), device)
    size = max(SMALLEST_SIZE, dataset.decode.size)  # smaller images are enlarged
    clock = watch or Stopwatch(synchronizer(device))
    with clock.timed("train"):
        images_NHWC = resize(torch.from_numpy(np.array(dataset.train.images_NHWC)).to(device), size)
        labels_N = torch.from_numpy(np.array(dataset.train.labels_N)).to(device)
        normalize = Normalizer.of(images_NHWC)
        if isinstance(net, SprintNet):
            net.fit_whitening(normalize(images_NHWC[spread(len(images_NHWC), WHITEN_PATCHES // size**2)]))
        loader = Loader(recipe, images_NHWC, labels_N, normalize, seed, dtype)
        if isinstance(net, ForeignNet):
            net.check_sizes(
                [size, *(loader.size_at(stage.until - 1e-9) for stage in recipe.resolution)], images_NHWC.shape[3]
            )
        optimizer = build_optimizer(net, recipe, loader.batch_size, dtype)
        ema = _moving_average(net, recipe.ema)
        pace = TimePace(budget, lambda: clock.seconds("train")) if budget else StepPace(loader)
    judged = ema.module if ema else net
    classifier = Classifier(judged, dataset.classes, size, normalize, device, dtype)
    return Session(recipe, dataset, seed, device, dtype, clock, net, net, ema, optimizer, loader, pace, classifier)


def initial_net(recipe: Recipe, dataset: Dataset, seed: int) -> nn.Module:
    """The net before training; depends on the seed alone and leaves the global random state as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_net(recipe.model, len(dataset.classes), dataset.decode.channels)


def train_flops(session: Session) -> int:
    """Floating-point operations of all steps so far: two a multiply-add, the backward pass counted as two forwards."""
    channels = session.dataset.decode.channels
    net = initial_net(session.recipe, session.dataset, session.seed)  # a copy on the CPU: tracing runs the net
    macs = sum(steps * count_macs(net, size, channels) for size, steps in session.sizes.items())
    return 3 * 2 * session.loader.batch_size * macs


def spread(n: int, at_most: int) -> np.ndarray:
    """Indices evenly spread over n samples; the order of a data set by class then does no harm."""
    return np.linspace(0, n - 1, min(n, at_most)).astype(np.int64)


def _moving_average(net: nn.Module, decay: float | None) -> AveragedModel | None:
    return AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True) if decay else None
