"""daybreak trains image classifiers in the least time your hardware allows, and shows why they make their mistakes.

    import daybreak as db
    run = db.train("cifar10", recipe="sprint")

Names are imported when they are first used, so that `daybreak --help` and worker processes start at once. For the same
reason no module may have the name of a function in here (hence `training`, `benchmarking`, `sweeping`):
importing it would hide the function.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from daybreak import recipes
    from daybreak.api import Run, compare, find_lr, inspect, load, open_dataset, resume, samples, train
    from daybreak.benchmarking.bench import bench
    from daybreak.core.errors import DaybreakError
    from daybreak.models.groups import ParamGroup
    from daybreak.sweeping.sweep import sweep
    from daybreak.training.callbacks import Callback

__version__ = version("daybreak")
__all__ = [
    "Callback",
    "DaybreakError",
    "ParamGroup",
    "Run",
    "__version__",
    "bench",
    "compare",
    "find_lr",
    "inspect",
    "load",
    "open_dataset",
    "recipes",
    "resume",
    "samples",
    "sweep",
    "train",
]
HOMES = {
    "Callback": "daybreak.training.callbacks",
    "DaybreakError": "daybreak.core.errors",
    "ParamGroup": "daybreak.models.groups",
    "bench": "daybreak.benchmarking.bench",
    "sweep": "daybreak.sweeping.sweep",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'daybreak' has no attribute {name!r}")
    if name == "recipes":
        return import_module("daybreak.recipes")
    return getattr(import_module(HOMES.get(name, "daybreak.api")), name)


def __dir__() -> list[str]:
    return sorted(__all__)
