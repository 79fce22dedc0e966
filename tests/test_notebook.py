"""Objects show themselves, and the notebooks run from the first cell to the last, to the results that they keep."""

import base64
import copy
import importlib
import io
import json
from pathlib import Path

import nbformat
import numpy as np
import pytest
from image_sets import write_part
from PIL import Image

import daybreak as db
from daybreak.data import Dataset
from daybreak.data.picture import enlarged
from daybreak.notebook import Gallery
from daybreak.runs.directory import RunDirectory

EXAMPLES = Path(__file__).parent.parent / "examples"


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


def photos_in(folder: Path, cifar: Dataset) -> Path:
    """Twelve cats and twelve dogs, and four of each to test with, 96 px wide."""
    for part, split, count in (("train", cifar.train, 12), ("test", cifar.test, 4)):
        for name in ("cat", "dog"):
            (folder / part / name).mkdir(parents=True)
            for i in np.flatnonzero(split.labels_N == cifar.classes.index(name))[:count]:
                enlarged(split.images_NHWC[i], 96).save(folder / part / name / f"{i}.png")
    return folder


@pytest.mark.slow
@pytest.mark.cifar
@pytest.mark.parametrize("name", ["cifar10", "photos"])
def test_a_notebook_runs_and_shows_what_is_kept_in_it(
    name: str, cifar: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a few images and for a few seconds. Its own results are of the same kinds, cell by cell."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    execute = importlib.import_module("execute")
    kept = nbformat.read(EXAMPLES / f"{name}.ipynb", as_version=4)
    nbformat.validate(kept)
    notebook = copy.deepcopy(kept)
    parameters = next(cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    if name == "cifar10":
        few = write_part(cifar, tmp_path / "few.npz", 800, 200)
        parameters.source = f"import daybreak as db\nDATA, RECIPE, MINUTES = {str(few)!r}, 'sprint-2', 0.1"
    else:
        photos = photos_in(tmp_path / "photos", cifar)
        parameters.source = f"import daybreak as db\nPHOTOS = {str(photos)!r}"
    done = execute.executed(notebook, tmp_path)
    assert execute.kinds(done) == execute.kinds(kept)
    run = tmp_path / "runs" / ("notebook" if name == "cifar10" else "photos")
    assert (run / "report.html").is_file()
    assert json.loads((run / "summary.json").read_text())["recipe"] == ("sprint-2" if name == "cifar10" else "finetune")


@pytest.mark.parametrize("name", ["cifar10", "photos"])
def test_a_notebook_is_kept_with_results_that_are_small_and_no_error(name: str) -> None:
    path = EXAMPLES / f"{name}.ipynb"
    notebook = nbformat.read(path, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert path.stat().st_size < 1_500_000
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    assert all("site-packages" not in str(output) and "/home/" not in str(output) for output in outputs)
    shown = sum(str(output).count("<img") + ("image/png" in output.get("data", {})) for output in outputs)
    assert shown > 10
    for word in {"cifar10": ("find_lr", ".predict(", "db.compare("), "photos": (".predict(", ".export(")}[name]:
        assert any(word in cell.source for cell in cells), word
