"""The sprint ladder: the most accuracy for the least time, on CPUs and GPUs, from one minute up.

Target       94 % on CIFAR-10 with six-view TTA for `sprint`. What a rung reached stands in its `expected`; one without
             has not been measured since its net was changed.
Command      daybreak train cifar10 --recipe sprint
Origin       the net, Muon and its rates are those of airbench94_muon (Jordan 2024): a fixed whitening layer,
             alternating flip, no warm-up. What suits a CPU better (benchmarks/LOG.md): a narrower first group (48
             channels, not 64), a residual in each group, smaller batches with a lower rate, SiLU, less label
             smoothing, brightness and contrast jitter, training at 16 and then at 32 px, and maps whose sides are
             multiples of four, which minimal filtering wants. A rung differs from the next in its epochs and in how
             many of them are at full size.
Selection    tuned on 5,000 training images held out.
"""

from daybreak.core.config import Augment, Expected, Muon, OneCycle, Recipe, Stage
from daybreak.core.nets import SprintConfig
from daybreak.recipes.measured import measured

XEON = "two cores, Intel Xeon (family 6 model 207), float32"

# Full size is what teaches most and what costs most: long runs spend more of their steps on it.
# At half size maps have sides of 16, 8, 4 and 2; at three quarters 24, 12, 6 and 3, which costs nearly as much.
SHORT = (Stage(until=0.5, scale=0.5), Stage(until=1.0, scale=1.0))
LONG = (Stage(until=0.3, scale=0.5), Stage(until=1.0, scale=1.0))


def rung(
    name: str, summary: str, epochs: int, resolution: tuple[Stage, ...], expected: Expected | None = None
) -> Recipe:
    """The sprint recipe at another length."""
    return Recipe(
        name=name,
        summary=summary,
        epochs=epochs,
        expected=expected,
        model=SprintConfig(activation="silu", channels=(48, 256, 256), padded=True),
        optimizer=Muon(),
        schedule=OneCycle(max_lr=0.14, initial_lr=0.14, final_lr=0.0, warmup=0.0),
        batch_size=500,
        augment=Augment(crop=2, flip="alternating", brightness=0.14, contrast=0.13),
        resolution=resolution,
        label_smoothing=0.1,
        tta="full",
    )


LADDER = (
    rung("sprint-2", "two epochs of sprint", 2, SHORT),
    rung("sprint-5", "five epochs of sprint", 5, SHORT),
    rung(
        "sprint",
        "least time to accuracy: whitening, Muon, 16 and 32 px",
        10,
        LONG,
        measured(0.9402, 844.9, "2026-11-26_sprint", dataset="CIFAR-10", hardware=XEON),
    ),
    rung("sprint-16", "sixteen epochs of sprint", 16, LONG),
    rung("marathon", "sprint for those who can wait", 24, LONG),
)
RECIPE = LADDER[2]
