"""The files of a run or a bundle that can be had by their names."""

from pathlib import Path, PurePosixPath

from daybreak.core.errors import one_line
from daybreak.core.files import is_leftover
from daybreak.serve.guard import RefusedError


def file_of_run(folder: Path, name: str) -> Path:
    """A file of a run by its name below it.

    Raises:
        RefusedError: the name leads out, is no name of a file, or there is no such file.
    """
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or any(c in name for c in "\0\\:"):
        raise RefusedError(400, f"/run/{name}", "not the name of a file of the run", "a link of the page")
    path = folder / name
    try:
        inside, there = path.resolve().is_relative_to(folder.resolve()), path.is_file()
    except (OSError, RuntimeError, ValueError):  # too long a name, a loop of links, a folder that may not be read
        inside, there = True, False
    if not inside:
        raise RefusedError(403, f"/run/{name}", "leads out of the run", "a link of the page")
    if not there:
        raise RefusedError(404, f"/run/{name}", "not there", "a link of the page")
    return path


def files_of_run(folder: Path) -> list[str]:
    """All files of a run that a person may want to look at and that can be had, the report first."""
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if not is_leftover(path)]
    shown = [name for name in names if not name.startswith((".", "checkpoints/")) and not name.endswith(".safetensors")]
    return sorted(filter(lambda n: _can_be_had(folder, n), shown), key=lambda n: (n != "report.html", n.count("/"), n))


def _can_be_had(folder: Path, name: str) -> bool:
    try:
        return one_line(name) == name and file_of_run(folder, name).is_file()
    except RefusedError:
        return False
