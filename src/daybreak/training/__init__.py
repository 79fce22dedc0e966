"""From a recipe and a data set to a run directory: one visible loop, its schedule, optimizers, state and checkpoints.

Stands on runs; nothing that evaluates or explains imports it. From outside: `train.train`, `train.resume`, `lr_finder`.
"""
