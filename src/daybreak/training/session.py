"""What is alive while a net trains, and how it is put together from a recipe and a data set."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from daybreak.core.clock import Stopwatch
from daybreak.core.config import Recipe
from daybreak.core.device import compute_dtype, synchronizer
from daybreak.core.nets import OwnNet
from daybreak.core.plugins import Factory
from daybreak.data.dataset import Dataset, Split
from daybreak.models.anatomy.trace import count_macs
from daybreak.models.groups import Sample
from daybreak.models.layers import use_convolutions
from daybreak.models.registry import SMALLEST_SIZE, build_net, check_net, place
from daybreak.models.winograd.choice import Convolutions
from daybreak.runs.classifier import Classifier
from daybreak.runs.transforms import Normalizer, resize
from daybreak.training.balance import class_weights
from daybreak.training.extensions import Extensions, batch_generator
from daybreak.training.loader import Loader
from daybreak.training.optim import ScheduledOptimizer, build_optimizer
from daybreak.training.progress import Horizon, StepHorizon, TimeHorizon

NO_EXTENSIONS = Extensions()

Phase = tuple[torch.Size, torch.dtype, torch.Size, torch.dtype, int]  # see `step.phase_of`


class StepGraph(Protocol):
    """A training step that the device knows by heart (training/graphs.py)."""

    def replay(self, images_BCHW: Tensor, labels_B: Tensor) -> Tensor:
        """Take the step; returns the loss."""
        ...


@dataclass
class Session:
    """A training run in the making.

    Attributes:
        forward: the net as training calls it: the net itself, or its compiled form.
        sizes: how many steps were taken at each image size.
        skipped: how many steps were left out because they were not finite.
        graphs: of the phases of the run, on CUDA.
        weights_K: what an image of each class counts in the loss; None where all count alike.
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
    horizon: Horizon
    classifier: Classifier
    convolutions: Convolutions
    extensions: Extensions = NO_EXTENSIONS
    weights_K: Tensor | None = None
    step: int = 0
    skipped: int = 0
    sizes: Counter[int] = field(default_factory=Counter)
    graphs: dict[Phase, StepGraph] = field(default_factory=dict)

    @property
    def progress(self) -> float:
        return self.horizon.progress(self.step)

    def batch(self, progress: float) -> tuple[Tensor, Tensor]:
        """Images (B, C, H, W) and labels (B,) of the step to come, augmented."""
        images_BCHW, labels_B = self.loader.batch(self.step, progress)
        if self.extensions.augment is None:
            return images_BCHW, labels_B
        return self.extensions.augment(images_BCHW, labels_B, batch_generator(self.seed, self.step))


def prepare(
    recipe: Recipe,
    dataset: Dataset,
    seed: int,
    device: torch.device,
    *,
    budget: float | None = None,
    watch: Stopwatch | None = None,
    extensions: Extensions = Extensions(),
    convolutions: Convolutions | None = None,
) -> Session:
    """Everything before the first step; on the clock from the moment the training images are read.

    Args:
        budget: seconds of training; without it the recipe's epochs decide.
        watch: a clock that runs already, where part of the budget is spent.
        extensions: a net, loss or augmentation in place of the recipe's.
        convolutions: the choices of a run that goes on; by default they are made anew.

    Raises:
        UsageError: the net cannot take the images, or does not answer with logits.
    """
    dtype = compute_dtype(recipe.precision, device)
    net = place(initial_net(recipe, dataset, seed, extensions.net), device)
    convolutions = convolutions or Convolutions(recipe.convolution)
    use_convolutions(net, convolutions)
    size = max(SMALLEST_SIZE, dataset.decode.size)  # smaller images are enlarged
    clock = watch or Stopwatch(synchronizer(device))
    with clock.timed("train"):
        images_NHWC = resize(torch.from_numpy(np.array(dataset.train.images_NHWC)).to(device), size)
        labels_N = torch.from_numpy(np.array(dataset.train.labels_N)).to(device)
        normalize = Normalizer.of(images_NHWC)
        fit_data: Callable[[Sample, int], None] | None = getattr(net, "fit_data", None)
        if fit_data is not None:
            fit_data(lambda n: normalize(images_NHWC[spread(len(images_NHWC), n)]), size)
        loader = Loader(recipe, images_NHWC, labels_N, normalize, seed, dtype)
        weights_K = _weights(recipe, dataset, device)
        if not isinstance(recipe.model, OwnNet):
            sizes = {size, *(loader.size_at(stage.until - 1e-9) for stage in recipe.resolution)}
            check_net(net, sizes, images_NHWC.shape[3], len(dataset.classes))
        optimizer = build_optimizer(net, recipe, loader.batch_size, dtype)
        ema = _moving_average(net, recipe.ema)
        horizon = _over_time(budget, clock, synchronizer(device)) if budget else StepHorizon(loader)
    evaluated = ema.module if ema else net
    classifier = Classifier(evaluated, dataset.classes, size, normalize, device, dtype)
    return Session(
        recipe=recipe, dataset=dataset, seed=seed, device=device, dtype=dtype, watch=clock, net=net, forward=net,
        ema=ema, optimizer=optimizer, loader=loader, horizon=horizon, classifier=classifier,
        convolutions=convolutions, extensions=extensions, weights_K=weights_K,
    )  # fmt: skip


def _weights(recipe: Recipe, dataset: Dataset, device: torch.device) -> Tensor | None:
    if recipe.balance != "weights":
        return None
    return torch.from_numpy(class_weights(dataset.train.labels_N, len(dataset.classes))).to(device)


def _over_time(budget: float, clock: Stopwatch, wait: Callable[[], None]) -> TimeHorizon:
    """What is left off its clock is counted as paused. A step is over when the device says so: the host would queue
    seconds of steps ahead, and then find one of them very long."""

    def elapsed() -> float:
        wait()
        return clock.seconds("train")

    return TimeHorizon(budget, elapsed, lambda gap: clock.move(gap, "train", "paused"))


def initial_net(recipe: Recipe, dataset: Dataset, seed: int, factory: Factory | None = None) -> nn.Module:
    """The net before training; depends on the seed alone and leaves the global random state as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_net(recipe.model, len(dataset.classes), dataset.decode.channels, factory)


def train_flops(session: Session) -> int | None:
    """Floating-point operations of all steps so far: two a multiply-add, the backward pass counted as two forwards.
    None for a net that cannot be traced."""
    channels = session.dataset.decode.channels
    # A copy on the CPU: tracing runs the net.
    net = initial_net(session.recipe, session.dataset, session.seed, session.extensions.net)
    try:
        macs = sum(steps * count_macs(net, size, channels) for size, steps in session.sizes.items())
    except Exception:  # whatever torch.fx does not like about a net of somebody's own
        if isinstance(session.recipe.model, OwnNet):
            raise
        return None
    return 3 * 2 * session.loader.batch_size * macs


def curve_split(dataset: Dataset) -> tuple[str, Split]:
    """The part that the curves show, with its name in metrics.jsonl: the validation part, else the test part."""
    return ("test", dataset.test) if dataset.validation is None else ("val", dataset.validation)


def spread(n: int, at_most: int) -> np.ndarray:
    """Indices evenly spread over n samples; the order of a data set by class then does no harm."""
    return np.linspace(0, n - 1, min(n, at_most)).astype(np.int64)


def _moving_average(net: nn.Module, decay: float | None) -> AveragedModel | None:
    return AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True) if decay else None
