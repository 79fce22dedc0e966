"""What is alive while a net trains, and how it is put together from a recipe and a data set."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Protocol

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
from daybreak.models.cut import Cut, pixels_of
from daybreak.models.groups import Sample
from daybreak.models.layers import use_convolutions
from daybreak.models.mode import evaluating
from daybreak.models.pretrained import pretrain
from daybreak.models.registry import SMALLEST_SIZE, build_net, check_net, place
from daybreak.models.synced_norm import synchronize_norms
from daybreak.models.winograd.choice import Convolutions
from daybreak.runs.classifier import Classifier, autocast
from daybreak.runs.transforms import Normalizer, scale_pixels
from daybreak.training.balance import class_weights
from daybreak.training.extensions import Extensions, batch_generator
from daybreak.training.features import FeatureLoader, Features, Trunk, on_features
from daybreak.training.images import training_images
from daybreak.training.loader import Batches, Loader, side_at
from daybreak.training.optim import ScheduledOptimizer, build_optimizer
from daybreak.training.probe import MOST, fit_linear
from daybreak.training.progress import Horizon, horizon_of
from daybreak.training.team import Team

NO_EXTENSIONS, ALONE = Extensions(), Team()
FOR_VIEWS = {True: 0.85, False: 0.4}  # of a budget, by whether the head alone learns; the rest is for what learns

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
        forward: the net as training calls it: the net itself, its compiled form, or the part of it that learns.
        sizes: how many steps were taken at each image size.
        skipped: how many steps were left out because they were not finite.
        graphs: of the phases of the run, on CUDA.
        weights_K: what an image of each class counts in the loss; None where all count alike.
        features: of a run that trains on features, in place of images.
        team: the processes that train the net together.
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
    team: Team = ALONE
    step: int = 0
    skipped: int = 0
    sizes: Counter[int] = field(default_factory=Counter)
    graphs: dict[Phase, StepGraph] = field(default_factory=dict)

    @property
    def progress(self) -> float:
        return self.horizon.progress(self.step)

    def batch(self, progress: float, step: int | None = None) -> tuple[Tensor, Tensor]:
        """Images (B, C, H, W) and labels (B,) of a step, augmented: this process's part of the batch.

        Args:
            step: by default the one to come.
        """
        step = self.step if step is None else step
        if self.extensions.augment is None:
            return self.loader.batch(step, progress, self.team.rows(self.loader.batch_size))
        # Somebody's own may mix images, so it gets all of them, in every process.
        whole = self.loader.batch(step, progress)
        images_BCHW, labels_B = self.extensions.augment(*whole, batch_generator(self.seed, step))
        rows = self.team.rows(len(images_BCHW))
        return images_BCHW[rows], labels_B[rows]

    @property
    def stepping_seconds(self) -> float:
        """Seconds of training without those in which features were computed."""
        return self.watch.seconds("train") - self.watch.seconds("features")

    @torch.no_grad()
    def logits(self, name: str, part: Split, index_M: np.ndarray | slice, size: int) -> np.ndarray:
        """What the net as it now is says about images of a part, one view: (M, K), float32. Each process asks it about
        its share of them.

        Args:
            name: of the part, as the curves call it.
            index_M: which images; a slice is that of all.
            size: at which the net sees the images.
        """
        if self.features is None:
            count = len(part.labels_N[index_M])
            rows = self.team.rows(count)
            mine = rows if isinstance(index_M, slice) else index_M[rows]
            return self.team.gathered(replace(self.classifier, size=size).logits(part.images_NHWC[mine]), count)
        net, view = self.classifier.net, self.features.plain(name, part)
        above, index_M = Cut(net, self.recipe.tune).logits, np.arange(len(view))[index_M]
        with evaluating(net), autocast(self.device, self.dtype):
            found = on_features(above, view, index_M, self.device)
        return found.cpu().numpy()


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
    resumes: bool = False,
    team: Team = ALONE,
    memory: int | None = None,
) -> Session:
    """Everything before the first step; on the clock from the moment the training images are read.

    Args:
        budget: seconds of training; without it the recipe's epochs decide. Of a run on features it bounds the number of
            views; where nothing but the head learns, that takes the recipe's epochs, which are seconds.
        watch: a clock that runs already, where part of the budget is spent.
        extensions: a net, loss or augmentation in place of the recipe's.
        convolutions: the choices of a run that goes on; by default they are made anew.
        resumes: as many views as the recipe says, whatever the budget: a run that goes on has had them.
        team: the processes that train the net together.
        memory: bytes that the training images may take, see `training.images`.

    Raises:
        UsageError: the net cannot take the images, does not answer with logits, or cannot be trained by a team.
    """
    if recipe.features and extensions.augment is not None:
        raise UsageError("--augment", "there are no images in a run on features", "leave it out, or --set features=0")
    dtype, size = compute_dtype(recipe.precision, device), _seen_size(recipe, dataset)
    convolutions = convolutions or Convolutions(recipe.convolution)
    net = _ready_net(recipe, dataset, seed, device, size, extensions.net, convolutions, team)
    clock = watch or Stopwatch(synchronizer(device))
    before = clock.seconds("features")
    with clock.timed("train"):
        labels_N = torch.from_numpy(np.array(dataset.train.labels_N)).to(device)
        weights_K = _weights(recipe, dataset, device)
        features: Features | None = None
        forward: Callable[[Tensor], Tensor] = net
        loader: Batches
        if recipe.features:
            parts, has_time = Cut(net, recipe.tune), _has_time(recipe, None if resumes else budget, clock)
            with clock.timed("features"):
                trunk = trunk_of(recipe, net, parts, dataset, size, device, dtype)
                features = Features(trunk, dataset, recipe.features, has_time)
                _fit_head(net, recipe, parts, features, labels_N, weights_K)
            recipe = recipe.model_copy(update={"features": len(features.views)})
            loader = FeatureLoader(recipe, features.views, labels_N, size, seed)
            normalize, forward = trunk.normalize, parts.logits
        else:
            loader = _image_loader(recipe, net, dataset, labels_N, size, seed, dtype, memory)
            normalize = loader.normalize
        optimizer = build_optimizer(net, recipe, loader.batch_size, dtype)
        ema = _moving_average(net, recipe.ema)
        # (A run that goes on may have to compute features again, which its cycle need not pay for.)
        for_features = before if resumes and before else clock.seconds("features")
        horizon = horizon_of(recipe, loader, budget, for_features, clock, team)
        team.align([*net.parameters(), *net.buffers()])  # processors differ in the last bits of what the data decides
    evaluated = ema.module if ema else net
    classifier = Classifier(evaluated, dataset.classes, size, normalize, device, dtype, recipe.mirrors)
    return Session(
        recipe=recipe, dataset=dataset, seed=seed, device=device, dtype=dtype, watch=clock, net=net, forward=forward,
        ema=ema, optimizer=optimizer, loader=loader, horizon=horizon, classifier=classifier, convolutions=convolutions,
        extensions=extensions, weights_K=weights_K, features=features, team=team,
    )  # fmt: skip


def _ready_net(
    recipe: Recipe,
    dataset: Dataset,
    seed: int,
    device: torch.device,
    size: int,
    factory: Factory | None,
    convolutions: Convolutions,
    team: Team,
) -> nn.Module:
    """The net where it will be trained, with its convolutions and, in a team, its norms; one from elsewhere has shown
    that it takes all sizes of the run."""
    net = place(initial_net(recipe, dataset, seed, factory), device)
    use_convolutions(net, convolutions)
    if team.size > 1:
        synchronize_norms(net, team.total)
    if not isinstance(recipe.model, OwnNet):
        stages = () if recipe.features else recipe.resolution
        sizes = {size, *(side_at(stages, stage.until - 1e-9, size) for stage in stages)}
        check_net(net, sizes, dataset.decode.channels, len(dataset.classes))
    return net


def _seen_size(recipe: Recipe, dataset: Dataset) -> int:
    """The full size; of features, which are computed once, the one size there is."""
    size = side_of(recipe, dataset)
    return side_at(recipe.resolution, 0.0, size) if recipe.features else size


def side_of(recipe: Recipe, dataset: Dataset) -> int:
    """The full size in px at which the net of a recipe sees the images of a data set."""
    return max(SMALLEST_SIZE, dataset.request.size or max(dataset.decode.size, recipe.size or 0))


def _image_loader(
    recipe: Recipe,
    net: nn.Module,
    dataset: Dataset,
    labels_N: Tensor,
    size: int,
    seed: int,
    dtype: torch.dtype,
    memory: int | None,
) -> Loader:
    """The training images, which the net may look at before it learns from them."""
    pad = scale_pixels(recipe.augment.crop, size)
    images = training_images(dataset.train, size, pad, labels_N.device, memory)
    own = _own_normalizer(net, images.channels)
    normalize = own or Normalizer.of_blocks(images.blocks())
    fit_data: Callable[[Sample, int], None] | None = getattr(net, "fit_data", None)
    if fit_data is not None and getattr(recipe.model, "weights", "none") == "none":  # else the weights have it already
        fit_data(lambda n: normalize(images.take(spread(len(images), n))), size)
    return Loader(recipe, images, labels_N, normalize, seed, dtype)


def trunk_of(
    recipe: Recipe,
    net: nn.Module,
    parts: Cut,
    dataset: Dataset,
    size: int,
    device: torch.device,
    dtype: torch.dtype,
) -> Trunk:
    """The frozen part of a net; what is left learns.

    Raises:
        UsageError: the net has learnt nothing yet.
    """
    normalize = _own_normalizer(net, dataset.decode.channels)
    if normalize is None:
        why = f"{recipe.model.name} has learnt nothing yet that could be kept"
        raise UsageError(f"features={recipe.features}", why, "--net lite0, or --weights FILE|RUN with it")
    net.requires_grad_(False)
    for module in (*parts.learning, net.head):
        module.requires_grad_(True)
    return Trunk.of(parts.below, size, normalize, device, dtype)


def _has_time(recipe: Recipe, budget: float | None, clock: Stopwatch) -> Callable[[], bool]:
    return lambda: budget is None or clock.seconds("train") < FOR_VIEWS[recipe.is_head_only] * budget


@torch.no_grad()
def _fit_head(
    net: nn.Module, recipe: Recipe, parts: Cut, features: Features, labels_N: Tensor, weights_K: Tensor | None
) -> None:
    """Let the head begin where features are: on their scale and, where more than the head learns, with an answer."""
    if recipe.is_head_only and not hasattr(net, "fit_features"):
        return
    index_M = spread(len(labels_N), MOST)
    with evaluating(net):
        features_MD = on_features(parts.features, features.views[0], index_M, labels_N.device)
    if hasattr(net, "fit_features"):
        features_MD = net.fit_features(features_MD)  # type: ignore[operator]
    if not recipe.is_head_only:
        with torch.enable_grad():
            fit_linear(net.head, features_MD, labels_N[index_M], weights_K)  # type: ignore[arg-type]


def _own_normalizer(net: nn.Module, channels: int) -> Normalizer | None:
    """That with which a net's weights were trained; None for a net that has learnt nothing yet."""
    pixels = pixels_of(net)
    if pixels is None:
        return None
    mean, std = (values if len(values) == channels else (fmean(values),) * channels for values in pixels)
    return Normalizer(mean, std)


def _weights(recipe: Recipe, dataset: Dataset, device: torch.device) -> Tensor | None:
    if recipe.balance != "weights":
        return None
    return torch.from_numpy(class_weights(dataset.train.labels_N, len(dataset.classes))).to(device)


def initial_net(recipe: Recipe, dataset: Dataset, seed: int, factory: Factory | None = None) -> nn.Module:
    """The net before training; depends on the seed alone and leaves the global random state as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = build_net(recipe.model, len(dataset.classes), dataset.decode.channels, factory)
        pretrain(net, recipe.model)
        return net


def curve_split(dataset: Dataset) -> tuple[str, Split]:
    """The part that the curves show, with its name in metrics.jsonl: the validation part, else the test part."""
    return ("test", dataset.test) if dataset.validation is None else ("val", dataset.validation)


def spread(n: int, at_most: int) -> np.ndarray:
    """Indices evenly spread over n samples; the order of a data set by class then does no harm."""
    return np.linspace(0, n - 1, min(n, at_most)).astype(np.int64)


def _moving_average(net: nn.Module, decay: float | None) -> AveragedModel | None:
    return AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True) if decay else None
