"""What a run tells beforehand about where it will end: a budget too short to finish, a target that nothing but the test
part could show to be reached."""

import math
from statistics import fmean

from daybreak.core.clock import in_words
from daybreak.core.config import Recipe
from daybreak.core.events import Event, OnEvent
from daybreak.core.options import TrainOptions
from daybreak.data.dataset import Dataset
from daybreak.training.schedule import scale_at

ENOUGH_EPOCHS = 5.0  # with fewer a net is not finished, but for recipes that are made for fewer
STEPS, SHARE = 3, 0.04  # of the budget: from when on the speed so far says how many epochs fit
LARGE = 64  # px: from this side on smaller images are worth a try
TYPICAL = 0.1  # share of the training images to hold out


def about_target(options: TrainOptions, dataset: Dataset) -> str | None:
    """What a validation part would change for a run with a target, if it has none."""
    if options.target is None or options.dawn_rule or dataset.validation is not None:
        return None
    held_out = round(TYPICAL * len(dataset.train.labels_N))
    return (
        f"without a validation part training goes on to its end, as the test part never decides when to stop; "
        f"--validate {TYPICAL:g} ends it once {held_out:,} images held out show {options.target:.2%}"
    )


def with_expectation(options: TrainOptions, recipe: Recipe, dataset: Dataset, on_event: OnEvent) -> OnEvent:
    """`on_event`, with a note ahead of the first step event that shows that too few epochs fit into the budget."""
    if options.budget is None or recipe.features:
        return on_event
    budget, told, per_epoch, first = options.budget, False, 0, None

    def send(event: Event) -> None:
        nonlocal told, per_epoch, first
        if event["event"] == "start":
            per_epoch = event["steps_per_epoch"]
        elif event["event"] == "step" and per_epoch and not told:
            first = first or event  # what came before it was not steps alone
            if event["step"] - first["step"] >= STEPS and event["progress"] - first["progress"] >= SHARE:
                told = True
                if why := about_budget(budget, first, event, per_epoch, recipe, dataset.decode.size):
                    on_event({"event": "note", "why": why})
        on_event(event)

    return send


def about_budget(
    budget: float, first: Event, step: Event, steps_per_epoch: int, recipe: Recipe, side: int
) -> str | None:
    """What to expect of a budget, by the speed so far; None where as many epochs fit as the recipe needs.

    Args:
        budget: seconds of training.
        first, step: events of two steps, with step, progress and stepping_seconds.
        side: of the images in px.
    """
    rate = (step["step"] - first["step"]) / (step["stepping_seconds"] - first["stepping_seconds"])
    rate *= _pace_to_come(recipe, step["progress"])
    epochs = (step["step"] + rate * (1 - step["progress"]) * budget) / steps_per_epoch
    needed = min(ENOUGH_EPOCHS, recipe.epochs)
    if epochs >= 0.95 * needed:
        return None
    longer = math.ceil(needed / epochs * budget)
    remedies = [f"--budget {longer}s" if longer < 120 else f"--budget {math.ceil(longer / 60)}m"]
    if side >= LARGE:
        remedies.append(f"--size {side // 2}")
    if width := getattr(recipe.model, "width", None):
        remedies.append(f"--set model.width={width / 2:g}")
    return (
        f"about {epochs:.1f} epochs fit into {in_words(budget)} here: expect much less than a finished net; "
        f"for {needed:g}: {' or '.join(remedies)}"
    )


def _pace_to_come(recipe: Recipe, progress: float) -> float:
    """The mean speed of the rest of a run as a multiple of the present one: a step takes time in proportion to its
    pixels, and images grow."""
    now = scale_at(recipe.resolution, progress) ** 2
    points = [progress + (1 - progress) * (n + 0.5) / 100 for n in range(100)]
    return fmean(now / scale_at(recipe.resolution, point) ** 2 for point in points)
