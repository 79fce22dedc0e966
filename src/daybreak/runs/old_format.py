"""What 0.1.0 wrote into a run directory, as it is written today.

Its `model` section had the options of all nets, and its options stood flat beside the recipe.
"""

from collections.abc import Mapping
from typing import Any

from daybreak.core.config import Recipe
from daybreak.core.nets import NetConfig, kind_of, net_config
from daybreak.core.options import OPTIONS, TrainOptions, train_options
from daybreak.core.sections import validate

# Options that every net's section had, with the values that say nothing.
NOT_SET: dict[str, Any] = {
    "width": 1.0,
    "activation": "relu",
    "dropout": 0.0,
    "channels": [64, 256, 256],
    "residual_from": "pool",
    "dilation": 1,
}


def net_of(values: Mapping[str, Any]) -> NetConfig:
    """A net's options, as any version wrote them.

    Raises:
        UsageError: they are of a newer version.
    """
    kept = dict(values)
    if kind_of(kept) != "OtherNetConfig" or set(NOT_SET) <= set(kept):
        own = set(type(net_config(str(kept["name"]))).model_fields)
        kept = {key: value for key, value in kept.items() if key in own or NOT_SET.get(key) != _plain(value)}
    return net_config(**kept)


def recipe_of(values: Mapping[str, Any]) -> Recipe:
    """A recipe from its plain values, as any version wrote them, without what it was expected to reach: no setting.

    Raises:
        UsageError: they are of a newer version.
    """
    kept = {key: value for key, value in values.items() if key != "expected"}
    if isinstance(kept.get("model"), Mapping) and "name" in kept["model"]:
        kept["model"] = net_of(kept["model"]).model_dump()
    return validate(Recipe, kept, "config.json")


def options_of(config: Mapping[str, Any]) -> TrainOptions:
    """The options of a run.

    Raises:
        UsageError: they are of a newer version.
    """
    if "options" in config:
        return train_options(**config["options"])
    request = config.get("data", {}).get("request", {})
    found = {**request, **config}
    names = ("budget", "target", "dawn_rule", "on_nonfinite", "deterministic", "seed", "size", "split_seed", "skip_bad")
    given = {name: found[name] for name in names if found.get(name) is not None}
    return train_options(data=request.get("data"), **{name: given[name] for name in given if name in OPTIONS})


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
