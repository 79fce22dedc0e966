"""The recipes that ship with daybreak, each in its own short module that states its measured result.

Add one by writing a module with a `RECIPE` and naming it in `_MODULES`.
"""

from daybreak.config import Recipe
from daybreak.errors import UsageError, nearest
from daybreak.recipes import page, small, sprint

_MODULES = (sprint, page, small)
RECIPES: dict[str, Recipe] = {module.RECIPE.name: module.RECIPE for module in _MODULES}

# Below this many training images the sprint recipe's few, large steps do not add up to a trained net.
SMALL_DATA = 10_000


def get_recipe(name: str) -> Recipe:
    """The recipe of this name.

    Raises:
        UsageError: there is none; the nearest name is shown.
    """
    if name in RECIPES:
        return RECIPES[name]
    raise UsageError(name, "no such recipe", nearest(name, RECIPES))


def default_recipe(train_images: int) -> Recipe:
    """What `daybreak train DATA` uses when no recipe is named: by the number of training images."""
    return RECIPES["small" if train_images < SMALL_DATA else "sprint"]
