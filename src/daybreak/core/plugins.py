"""What other people bring along: objects by import path, and entry points of installed packages.

    [project.entry-points."daybreak.nets"]
    tiny = "my_package.nets:TinyNet"

An import path is followed only where a user has written it down for this very call. A run directory may come from
anyone, so the names in one import nothing.
"""

import sys
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from daybreak.core.errors import UsageError, nearest, one_line

NETS, RECIPES = "daybreak.nets", "daybreak.recipes"


def is_path(name: str) -> bool:
    """Whether a name has the form `package.module:object`."""
    module, colon, thing = name.partition(":")
    return bool(colon) and all(part.isidentifier() for part in [*module.split("."), *thing.split(".")])


def path_of(thing: Any) -> str:
    """The import path of a class or function; of other objects that of their class."""
    named = thing if hasattr(thing, "__qualname__") else type(thing)
    return f"{named.__module__}:{named.__qualname__}".replace(".<locals>", "")


def imported(path: str, option: str) -> Any:
    """The object at an import path that a user has written; modules of the current directory count.

    Raises:
        UsageError: naming the option and what is missing.
    """
    if not is_path(path):
        raise UsageError(f"{option} {path}", "not an import path", "package.module:name")
    module_name, _, name = path.partition(":")
    try:
        found: Any = _module(module_name)
        for part in name.split("."):
            found = getattr(found, part)
    except ModuleNotFoundError as error:
        raise UsageError(f"{option} {path}", one_line(error), "check the path, or install its package") from None
    except AttributeError:
        known = [public for public in vars(found) if not public.startswith("_")]
        raise UsageError(f"{option} {path}", f"no {name!r} in there", nearest(name, known)) from None
    return found


def _module(name: str) -> Any:
    here = str(Path.cwd())
    added = here not in sys.path
    if added:
        sys.path.append(here)  # behind everything that is installed
    try:
        return import_module(name)
    finally:
        if added:
            sys.path.remove(here)


def plugins(group: str) -> dict[str, EntryPoint]:
    """The entry points of a group by name."""
    return {point.name: point for point in entry_points(group=group)}


def loaded(point: EntryPoint) -> Any:
    """What an entry point names.

    Raises:
        UsageError: its package is broken.
    """
    try:
        return point.load()
    except Exception as error:  # whatever another package raises when it is imported
        package = point.dist.name if point.dist else point.value
        raise UsageError(f"{point.name} of {package}", one_line(error)[:200], "mend or remove that package") from None


Factory = Callable[..., Any]
