"""sprint: the most accuracy for the least time, on CPUs and GPUs.

Target       88.5 % on CIFAR-10 (JPEG q75) with six-view TTA in five epochs; those pixels cost three to four
             points against the published files. Measured: 89.03 % in 258 s on two CPU cores (three seeds).
Command      daybreak train cifar10 --recipe sprint
Origin       the net, Muon and its rates are those of airbench94_muon (Jordan 2024): 64/256/256 channels, a fixed
             whitening layer, alternating flip, no warm-up. Smaller batches with a lower rate, SiLU, less label
             smoothing, brightness and contrast jitter, and training at 20, 24 and then 32 px suit a CPU.
"""

from daybreak.config import Augment, Expected, ModelConfig, Muon, OneCycle, Recipe, Stage

RECIPE = Recipe(
    name="sprint",
    summary="least time to accuracy: whitening, Muon, 20-24-32 px",
    model=ModelConfig(name="sprint", activation="silu"),
    optimizer=Muon(),
    schedule=OneCycle(max_lr=0.14, initial_lr=0.14, final_lr=0.0, warmup=0.0),
    epochs=5,
    batch_size=500,
    augment=Augment(crop=2, flip="alternating", brightness=0.14, contrast=0.13),
    resolution=(Stage(until=0.3, scale=0.625), Stage(until=0.6, scale=0.75), Stage(until=1.0, scale=1.0)),
    label_smoothing=0.1,
    tta="full",
    expected=Expected(
        accuracy=0.8903,
        train_seconds=258,
        dataset="CIFAR-10 (JPEG q75)",
        hardware="two cores, AMD EPYC Zen 5",
        record="benchmarks/records/2026-11-22_sprint",
    ),
)
