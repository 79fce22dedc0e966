"""The recipes that ship with daybreak, each in its own short module that states its measured result.

Add one by writing a module with a `RECIPE` and naming it in `RECIPES`.
"""

from daybreak.config import Recipe
from daybreak.errors import UsageError, nearest
from daybreak.recipes import page, small, sprint

LADDER = sprint.LADDER  # one net and one method from a minute up, shortest first
RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in (*LADDER, page.RECIPE, small.RECIPE)}

SMALL_DATA = 10_000  # training images: below, the sprint recipes' few, large steps do not add up to a trained net


def get_recipe(name: str) -> Recipe:
    """The recipe of this name.

    Raises:
        UsageError: there is none; the nearest name is shown.
    """
    if name in RECIPES:
        return RECIPES[name]
    raise UsageError(name, "no such recipe", nearest(name, RECIPES))
