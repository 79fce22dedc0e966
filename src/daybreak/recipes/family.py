"""The nets that a student meets before and after `page`, one recipe for all: SGD, one cycle, 16 epochs.

Target       what each reaches in two epochs on two CPU cores stands in docs/nets.md, with its record; nobody has run
             all sixteen for this project.
Command      daybreak train cifar10 --recipe vgg          (or inception, resnet18, preact-resnet18, resnext29)
Setting      batch 128, Nesterov momentum cycled against the rate, label smoothing 0.1, crop and flip, half of
             training at 20 px and a quarter at 24: small images come first because they are cheap. resnext29 is a
             quarter as wide as the published one, which would take an hour an epoch on two cores.
"""

from daybreak.core.config import Augment, OneCycle, Recipe, Sgd, Stage
from daybreak.core.nets import net_config
from daybreak.recipes.measured import measured

PEAK = 0.03  # the best of a grid for resnet18, docs/one-cycle.md


def member(net: str, summary: str, accuracy: float, train_seconds: float, width: float = 1.0) -> Recipe:
    """The family's recipe for one net, with what two of its epochs reach."""
    return Recipe(
        name=net,
        summary=summary,
        model=net_config(net, width=width),
        optimizer=Sgd(),
        schedule=OneCycle(max_lr=PEAK, initial_lr=PEAK / 10, final_lr=PEAK / 1000, warmup=0.3, momentum=(0.85, 0.95)),
        epochs=16,
        batch_size=128,
        augment=Augment(crop=4, flip="random"),
        resolution=(Stage(until=0.5, scale=0.625), Stage(until=0.75, scale=0.75), Stage(until=1.0, scale=1.0)),
        label_smoothing=0.1,
        tta="flip",
        expected=measured(accuracy, train_seconds, "2026-11-22_nets", epochs=2),
    )


FAMILY = (
    member("vgg", "plain convolutions, eleven layers deep", 0.7676, 144.4),
    member("inception", "several windows side by side", 0.7763, 179.3),
    member("resnet18", "residual net, first version", 0.7700, 348.5),
    member("preact-resnet18", "second version: norm and activation first", 0.7832, 347.8),
    member("resnext29", "third version: grouped convolutions", 0.7041, 345.8, width=0.25),
)
