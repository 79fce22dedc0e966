"""How good a run is: its test predictions in numbers, runs compared, image files classified, wrong labels.

Stands on runs and knows a training only by its directory. From outside: `evaluate`, `compare`, `predict`.
"""
