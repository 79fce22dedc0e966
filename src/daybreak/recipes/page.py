"""page: the residual net of David Page's DAWNBench entry, with the one-cycle policy.

Target       90.42 % on CIFAR-10 in under 25 epochs: the claim of the student's write-up that daybreak set out to
             improve on (docs/stairs.md).
Command      daybreak train cifar10 --recipe page
Measured     four of its 24 epochs, on two CPU cores: 83.58 % with flip TTA on CIFAR-10 (JPEG q75) in
             683 s (one seed); the whole would take an hour and a quarter there.
Rates        found: `daybreak lr-find cifar10-jpeg --recipe page --seeds 1 --steps 60` says 0.000363 to 0.00363.
Setting      24 epochs, the peak at epoch 5, no annihilation (the rate ends where it began), batch 512, Adam,
             cross-entropy on logits, crop 32 after padding 4, flip, cutout 8x8.
"""

from daybreak.core.config import Adam, Augment, OneCycle, Recipe
from daybreak.core.nets import PageConfig
from daybreak.recipes.measured import measured

EPOCHS = 24
PEAK_EPOCH = 5
RECORD = "2026-11-23_page-mistake"  # both, side by side


def one_cycle(peak: float) -> OneCycle:
    """The write-up's: from a tenth of the peak up in five epochs, and down to where it began."""
    return OneCycle(
        max_lr=peak, initial_lr=peak / 10, final_lr=peak / 10, warmup=PEAK_EPOCH / EPOCHS, momentum=(0.85, 0.95)
    )


RECIPE = Recipe(
    name="page",
    summary="Page's residual net, Adam, one cycle up and down",
    model=PageConfig(),
    optimizer=Adam(),
    schedule=one_cycle(0.0036),
    epochs=EPOCHS,
    batch_size=512,
    augment=Augment(crop=4, flip="random", cutout=8),
    tta="flip",
    expected=measured(0.8358, 683.2, RECORD, epochs=4),
)

MISTAKE = RECIPE.model_copy(
    update={
        "name": "page-mistake",
        "summary": "a mistake to study: softmax before the loss, a rate far too low",
        "schedule": one_cycle(1.34e-4),
        "loss": "softmax-twice",
        "expected": measured(0.5702, 703.7, RECORD, epochs=4),
    }
)
