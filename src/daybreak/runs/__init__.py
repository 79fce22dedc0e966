"""The run directory and what it takes to use a trained net: classifier, transforms, predictions, the data of a run.

Stands on core, data and models. From outside: `RunDirectory`, `Classifier`, `run_dataset`.
"""
