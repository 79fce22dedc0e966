"""The recipes that ship with daybreak, each in a short module that states its measured result; and recipes as files.

Add one by writing a module with a `RECIPE` and naming it in `RECIPES`. Stands on core. From outside: `get_recipe`,
`all_recipes`, `RECIPES`, `LADDER`.
"""

import tomllib
from pathlib import Path

import tomli_w

from daybreak.core.config import Recipe
from daybreak.core.errors import UsageError, nearest
from daybreak.core.plugins import RECIPES as GROUP
from daybreak.core.plugins import loaded, plugins
from daybreak.core.sections import validate
from daybreak.recipes import family, finetune, page, small, sprint

LADDER = sprint.LADDER  # one net and one method from a minute up, shortest first
RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (*LADDER, page.RECIPE, page.MISTAKE, *family.FAMILY, small.RECIPE, finetune.RECIPE)
}

SMALL_DATA = 10_000  # training images: below, the sprint recipes' few, large steps do not add up to a trained net


def all_recipes() -> dict[str, Recipe]:
    """The recipes by name: daybreak's own, then those of installed packages (entry points `daybreak.recipes`)."""
    found = {name: loaded(point) for name, point in plugins(GROUP).items() if name not in RECIPES}
    return RECIPES | {name: recipe for name, recipe in found.items() if isinstance(recipe, Recipe)}


def get_recipe(name: str) -> Recipe:
    """The recipe of this name, or the one in this file: a name that ends in `.toml`.

    Raises:
        UsageError: there is none (the nearest name is shown), or the file cannot be read as one.
    """
    if name in RECIPES:
        return RECIPES[name]
    if name.endswith(".toml"):
        return read_toml(Path(name))
    recipes = all_recipes()
    if name in recipes:
        return recipes[name]
    raise UsageError(name, "no such recipe", nearest(name, recipes))


def to_toml(recipe: Recipe) -> str:
    """The recipe as a file that `read_toml` takes. Keys that are None are left out, and so is what it has reached."""
    return tomli_w.dumps(recipe.model_dump(mode="json", exclude={"expected"}, exclude_none=True))


def read_toml(path: Path) -> Recipe:
    """The recipe in a file; keys that it leaves out have their defaults.

    Raises:
        UsageError: the file is missing, not TOML, or has unknown keys or values out of range.
    """
    remedy = "what `daybreak recipes sprint` prints is one"
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"--recipe {path}", "no such file", remedy) from None
    except (OSError, ValueError, RecursionError) as error:  # no TOML, or a number too long, or too many brackets
        raise UsageError(f"--recipe {path}", f"cannot be read ({error})", remedy) from None
    try:
        return validate(Recipe, values, "a recipe")
    except UsageError as error:
        raise UsageError(f"{path}: {error.what}", error.why, error.remedy) from None
