"""page: the residual net of David Page's DAWNBench entry, with the one-cycle policy.

Target       90.42 % on CIFAR-10 in under 25 epochs: the claim of the student's write-up this project starts from.
Command      daybreak train cifar10 --recipe page
Measured     three of its 24 epochs only, on two CPU cores: 78.39 % with flip TTA on CIFAR-10 (JPEG q75) in 678 s (one
             seed, a small job of lowest priority beside it, benchmarks/records/2026-11-22_page-3-epochs); the whole
             would take an hour and a half there. The rates are the field's usual ones, not found by a range test yet.
Setting      24 epochs, the peak at epoch 5, no annihilation (the rate ends where it began), batch 512, Adam,
             cross-entropy on logits, crop 32 after padding 4, flip, cutout 8x8.
"""

from daybreak.config import Adam, Augment, ModelConfig, OneCycle, Recipe

EPOCHS = 24
PEAK_EPOCH = 5

RECIPE = Recipe(
    name="page",
    summary="the assignment: Page's residual net, Adam, one cycle",
    model=ModelConfig(name="page"),
    optimizer=Adam(),
    schedule=OneCycle(max_lr=0.01, initial_lr=0.001, final_lr=0.001, warmup=PEAK_EPOCH / EPOCHS, momentum=(0.85, 0.95)),
    epochs=EPOCHS,
    batch_size=512,
    augment=Augment(crop=4, flip="random", cutout=8),
    tta="flip",
)

MISTAKE = RECIPE.model_copy(
    update={
        "name": "page-mistake",
        "summary": "what the write-up did: softmax before the loss, a rate far too low",
        "schedule": OneCycle(
            max_lr=1.34e-4, initial_lr=1.34e-5, final_lr=1.34e-5, warmup=PEAK_EPOCH / EPOCHS, momentum=(0.85, 0.95)
        ),
        "loss": "softmax-twice",
    }
)
