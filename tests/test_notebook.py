"""Objects show themselves, and the notebook runs from its first cell to its last."""

import base64
import io
import json
from pathlib import Path

import nbformat
import numpy as np
import pytest
from image_sets import write_part
from nbclient import NotebookClient
from PIL import Image

import daybreak as db
from daybreak.data import Dataset
from daybreak.notebook import Gallery
from daybreak.runs.directory import RunDirectory

NOTEBOOK = Path(__file__).parent.parent / "examples" / "cifar10.ipynb"


def pictures(gallery: Gallery) -> list[np.ndarray]:
    uris = gallery._repr_html_().split('src="')[1:]
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split('"')[0].split(",")[1])))) for uri in uris]


@pytest.fixture(scope="module")
def run(digits_run: RunDirectory) -> db.Run:
    return db.load(digits_run.path)


def test_samples_are_the_training_images() -> None:
    digits = db.open_dataset("digits")
    shown = db.samples(digits)
    assert shown.captions == [name for name in digits.classes for _ in range(3)]
    for k, picture in zip(range(0, 30, 3), pictures(shown)[::3], strict=True):
        first = np.flatnonzero(digits.train.labels_N == k // 3)[0]
        assert np.array_equal(picture, digits.train.images_NHWC[first, :, :, 0])


def test_augmented_samples_are_not() -> None:
    digits = db.open_dataset("digits", size=32)
    plain, augmented = (db.samples(digits, recipe=name, n=8) for name in ("small", "page"))
    assert len(plain) == len(augmented) == 8
    known = {image.tobytes() for image in digits.train.images_NHWC}
    assert not any(picture.tobytes() in known for picture in pictures(augmented))  # a hole in each


def test_mistakes_and_maps_are_pictures(run: db.Run) -> None:
    wrong, test = run.mistakes(5), db.open_dataset("digits").test
    for picture, mistake in zip(pictures(run.gallery(5)), wrong, strict=True):
        assert np.array_equal(picture, test.images_NHWC[mistake.index, :, :, 0])
    maps = run.maps(wrong[0].index, target="true")
    assert [caption.split(": ")[-1] for caption in maps.captions[1:]] == [wrong[0].true] * (len(maps) - 1)
    assert maps.captions[0] == "the image"


def test_captions_are_text() -> None:
    html = Gallery([Image.new("L", (2, 2))], ["<script>alert('x')</script>\n"])._repr_html_()
    assert "<script>" not in html
    assert "&lt;script&gt;" in html


def test_a_net_shows_its_table() -> None:
    html = db.inspect("page")._repr_html_()
    assert html.count("<tr>") == 1 + len(db.inspect("page").layers)
    assert "6,573,120 parameters" in html


@pytest.mark.slow
@pytest.mark.cifar
def test_the_notebook_runs(cifar: Dataset, tmp_path: Path) -> None:
    """On 1,000 images and for a few seconds."""
    few = write_part(cifar, tmp_path / "few.npz", 800, 200)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert not any(cell.get("outputs") for cell in notebook.cells)  # kept without results: those are the reader's own
    parameters = next(cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    parameters.source = f"import daybreak as db\nDATA, RECIPE, MINUTES = {str(few)!r}, 'page', 0.1"
    done = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    html = [
        output["data"]["text/html"]
        for cell in done.cells if cell.cell_type == "code"
        for output in cell.outputs if "text/html" in output.get("data", {})
    ]  # fmt: skip
    assert len(html) == 9
    assert all("<img" in text or "<table" in text or "<svg" in text for text in html)
    assert (tmp_path / "runs" / "notebook" / "report.html").is_file()
    assert json.loads((tmp_path / "runs" / "notebook" / "summary.json").read_text())["recipe"] == "page"
