"""Run a notebook and keep its results in it: python examples/execute.py examples/cifar10.ipynb

It runs in an empty folder, so that its paths are relative. What it printed on stderr is not kept.
"""

import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

LONGEST = 3600  # seconds of a cell


def main(path: str) -> None:
    file = Path(path)
    with tempfile.TemporaryDirectory() as folder:
        done = executed(nbformat.read(file, as_version=4), Path(folder))
    nbformat.write(done, file)
    print(f"{file}: {file.stat().st_size / 1e3:.0f} kB")


def executed(notebook: nbformat.NotebookNode, folder: Path) -> nbformat.NotebookNode:
    """The notebook with the results of all its cells."""
    done = NotebookClient(notebook, timeout=LONGEST, resources={"metadata": {"path": str(folder)}}).execute()
    for cell in done.cells:
        cell.metadata.pop("execution", None)  # when it ran
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    return done


def kinds(notebook: nbformat.NotebookNode) -> list[list[list[str]]]:
    """Of every code cell the results, each by the forms in which it is there."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [[sorted(output.get("data", {"text": ""})) for output in cell.outputs] for cell in cells]


if __name__ == "__main__":
    main(sys.argv[1])
