"""The sprint ladder: the most accuracy for the least time, on CPUs and GPUs, from one minute up.

Target       94 % on CIFAR-10 with six-view TTA for `sprint`. What a rung reached stands in its `expected`; one without
             has not been measured since its net was changed.
Command      daybreak train cifar10 --recipe sprint
Origin       the net, Muon and its rates are those of airbench94_muon (Jordan 2024): a fixed whitening layer,
             alternating flip, no warm-up. What suits a CPU better (benchmarks/LOG.md): narrower groups with a residual
             branch of two convolutions each, smaller batches with a lower rate, SiLU, less label smoothing, brightness
             and contrast jitter, training at 16 and then at 32 px, and maps whose sides are multiples of four, which
             minimal filtering wants. From `sprint-16` on rungs have cutout, from `marathon` on wider nets.
Selection    tuned on 5,000 training images held out.
"""

from functools import partial
from typing import Any

from daybreak.core.config import Augment, Expected, Muon, OneCycle, Recipe, Stage
from daybreak.core.nets import SprintConfig
from daybreak.recipes.measured import measured

# Full size is what teaches most and what costs most: long runs spend more of their steps on it.
# At half size maps have sides of 16, 8, 4 and 2; at three quarters 24, 12, 6 and 3, which costs nearly as much.
SHORT = (Stage(until=0.5, scale=0.5), Stage(until=1.0, scale=1.0))
LONG = (Stage(until=0.3, scale=0.5), Stage(until=1.0, scale=1.0))

LIGHT = Augment(crop=2, flip="alternating", brightness=0.14, contrast=0.13)
CUTOUT = LIGHT.model_copy(update={"cutout": 8})
STRONG = CUTOUT.model_copy(update={"crop": 4})
STRONGEST = STRONG.model_copy(update={"cutout": 12})

# 132, 246 and 393 million multiply-adds an image of 32 px (`daybreak inspect`).
NARROW, MIDDLE, WIDE = (48, 192, 256), (64, 256, 384), (96, 320, 448)

CUDA = partial(measured, record="2026-11-26_cuda", dataset="CIFAR-10", hardware="NVIDIA H200, bfloat16")


def rung(name: str, summary: str, epochs: int, expected: Expected, **changes: Any) -> Recipe:
    """A recipe of the ladder: `sprint` but for its length and what is named here."""
    usual: dict[str, Any] = {"batch_size": 1000, "augment": LIGHT, "resolution": LONG, "label_smoothing": 0.1}
    rate, channels = changes.pop("rate", 0.18), changes.pop("channels", NARROW)
    return Recipe(
        name=name,
        summary=summary,
        epochs=epochs,
        expected=expected,
        model=SprintConfig(activation="silu", channels=channels, depth=2, padded=True),
        optimizer=Muon(),
        schedule=OneCycle(max_lr=rate, initial_lr=rate, final_lr=0.0, warmup=0.0),
        tta="full",
        **usual | changes,
    )


FEW_STEPS: dict[str, Any] = {"batch_size": 500, "rate": 0.14, "resolution": SHORT}

LADDER = (
    rung("sprint-2", "two epochs of sprint", 2, CUDA(0.8873, 0.9, n=3, std=0.0033), **FEW_STEPS),
    rung("sprint-5", "five epochs of sprint", 5, CUDA(0.9241, 1.7, n=3, std=0.0023), **FEW_STEPS),
    rung("sprint", "least time to accuracy: whitening, Muon, 16 and 32 px", 10, CUDA(0.9423, 2.8, n=10, std=0.0017)),
    rung("sprint-16", "sixteen epochs of sprint, with cutout", 16, CUDA(0.9466, 4.4, n=3, std=0.0007), augment=CUTOUT),
    rung(
        "marathon",
        "a wider net for those who can wait",
        16,
        CUDA(0.9502, 5.2, n=3, std=0.0015),
        augment=STRONG,
        channels=MIDDLE,
    ),
    rung(
        "summit",
        "the most accuracy: wider still, for hours",
        36,
        CUDA(0.9572, 15.8),
        augment=STRONGEST,
        channels=WIDE,
        label_smoothing=0.2,
    ),
)
RECIPE = LADDER[2]
