"""What is alive while a net trains, and how it is put together from a recipe and a data set."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from daybreak.core.clock import Stopwatch
from daybreak.core.config import Recipe
from daybreak.core.device import compute_dtype, synchronizer
from daybreak.core.errors import UsageError
from daybreak.core.nets import OwnNet
from daybreak.core.plugins import Factory
from daybreak.data.dataset import Dataset, Split
from daybreak.models.anatomy.trace import count_macs
from daybreak.models.groups import Sample
from daybreak.models.layers import use_convolutions
from daybreak.models.registry import SMALLEST_SIZE, build_net, check_net, has_trunk, place
from daybreak.models.winograd.choice import Convolutions
from daybreak.runs.classifier import Classifier
from daybreak.runs.transforms import Normalizer, resize
from daybreak.training.balance import class_weights
from daybreak.training.extensions import Extensions, batch_generator
from daybreak.training.features import FeatureLoader, Features, Trunk
from daybreak.training.loader import Batches, Loader
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
        features: of a run that trains the head alone.
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
    loader: Batches
    horizon: Horizon
    classifier: Classifier
    convolutions: Convolutions
    extensions: Extensions = NO_EXTENSIONS
    weights_K: Tensor | None = None
    features: Features | None = None
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

    @property
    def stepping_seconds(self) -> float:
        """Seconds of training without those in which features were computed."""
        return self.watch.seconds("train") - self.watch.seconds("features")

    @torch.no_grad()
    def logits(self, name: str, part: Split, index_M: np.ndarray | slice, size: int) -> np.ndarray:
        """What the net as it now is says about images of a part, one view: (M, K), float32.

        Args:
            name: of the part, as the curves call it.
            size: at which the net sees the images.
        """
        if self.features is None:
            return replace(self.classifier, size=size).logits(part.images_NHWC[index_M])
        net, training = self.classifier.net, self.classifier.net.training
        features_MD = self.features.plain(name, part)[index_M].to(self.device)
        logits: Tensor = net.eval().answer(features_MD.float())  # type: ignore[operator]
        net.train(training)
        return logits.cpu().numpy()


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
        budget: seconds of training; without it the recipe's epochs decide. Of a run on features it bounds the number of
            views, and the head is then trained for the recipe's epochs, which takes seconds.
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
    size = max(SMALLEST_SIZE, dataset.request.size or max(dataset.decode.size, recipe.size or 0))
    clock, features = watch or Stopwatch(synchronizer(device)), None
    with clock.timed("train"):
        labels_N = torch.from_numpy(np.array(dataset.train.labels_N)).to(device)
        loader: Batches
        if recipe.features:
            trunk = _trunk(recipe, net, extensions, size, dataset.decode.channels, device, dtype)
            with clock.timed("features"):
                features = Features(trunk, dataset, recipe.features, _has_time(budget, clock))
            recipe = recipe.model_copy(update={"features": len(features.train_VND)})
            loader = FeatureLoader(recipe, features.train_VND.to(device), labels_N, size, seed)
            normalize = trunk.normalize
            net.fit_features(features.train_VND[0].float())  # type: ignore[operator]
        else:
            loader = _image_loader(recipe, net, dataset, labels_N, size, seed, dtype)
            normalize = loader.normalize
        weights_K = _weights(recipe, dataset, device)
        if not isinstance(recipe.model, OwnNet):
            sizes = {size, *(loader.size_at(stage.until - 1e-9) for stage in recipe.resolution)}
            check_net(net, sizes, dataset.decode.channels, len(dataset.classes))
        optimizer = build_optimizer(net, recipe, loader.batch_size, dtype)
        ema = _moving_average(net, recipe.ema)
        over_time = budget if features is None else None
        horizon = _over_time(over_time, clock, synchronizer(device)) if over_time else StepHorizon(loader)
    evaluated = ema.module if ema else net
    classifier = Classifier(evaluated, dataset.classes, size, normalize, device, dtype)
    return Session(
        recipe=recipe, dataset=dataset, seed=seed, device=device, dtype=dtype, watch=clock, net=net,
        forward=net if features is None else net.answer,  # type: ignore[arg-type]
        ema=ema, optimizer=optimizer, loader=loader, horizon=horizon, classifier=classifier,
        convolutions=convolutions, extensions=extensions, weights_K=weights_K, features=features,
    )  # fmt: skip


def _image_loader(
    recipe: Recipe, net: nn.Module, dataset: Dataset, labels_N: Tensor, size: int, seed: int, dtype: torch.dtype
) -> Loader:
    """All training images on the device, which the net may look at before it learns from them."""
    images_NHWC = resize(torch.from_numpy(np.array(dataset.train.images_NHWC)).to(labels_N.device), size)
    normalize = _fixed_normalizer(net, images_NHWC.shape[3]) or Normalizer.of(images_NHWC)
    fit_data: Callable[[Sample, int], None] | None = getattr(net, "fit_data", None)
    if fit_data is not None:
        fit_data(lambda n: normalize(images_NHWC[spread(len(images_NHWC), n)]), size)
    return Loader(recipe, images_NHWC, labels_N, normalize, seed, dtype)


FOR_FEATURES = 0.85  # of a budget: the rest is for training the head


def _trunk(
    recipe: Recipe,
    net: nn.Module,
    extensions: Extensions,
    size: int,
    channels: int,
    device: torch.device,
    dtype: torch.dtype,
) -> Trunk:
    """The frozen part of a net; what is left learns.

    Raises:
        UsageError: the net has no such part, or somebody's augmentation wants to see images.
    """
    normalize = _fixed_normalizer(net, channels)
    if normalize is None:
        raise UsageError(f"features={recipe.features}", f"{recipe.model.name} has no part to be frozen", "--net lite0")
    if extensions.augment is not None:
        raise UsageError("--augment", "there are no images in a run on features", "leave it out, or --set features=0")
    trunk: nn.Module = net.trunk()  # type: ignore[operator]
    trunk.requires_grad_(False)
    return Trunk.of(trunk, size, normalize, device, dtype)


def _has_time(budget: float | None, clock: Stopwatch) -> Callable[[], bool]:
    return lambda: budget is None or clock.seconds("train") < FOR_FEATURES * budget


def _fixed_normalizer(net: nn.Module, channels: int) -> Normalizer | None:
    """That with which a net's weights were trained; None for a net that says nothing of it."""
    if not has_trunk(net):
        return None
    mean, std = cast(float, net.pixel_mean), cast(float, net.pixel_std)
    return Normalizer((mean,) * channels, (std,) * channels)


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
        net = build_net(recipe.model, len(dataset.classes), dataset.decode.channels, factory)
        if has_trunk(net):
            net.pretrain()  # type: ignore[operator]
        return net


def train_flops(session: Session) -> int | None:
    """Floating-point operations of all steps so far: two a multiply-add, the backward pass counted as two forwards.
    None for a net that cannot be traced."""
    channels = session.dataset.decode.channels
    # A copy on the CPU: tracing runs the net.
    net = initial_net(session.recipe, session.dataset, session.seed, session.extensions.net)
    try:
        if session.features is not None:
            views, images = len(session.features.train_VND), len(session.dataset.train.labels_N)
            return 2 * views * images * count_macs(net, session.classifier.size, channels)  # the head's do not count
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
