"""Class probabilities of files: as they come, the same in any batches, and never more than a batch in memory."""

import json
import weakref
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import daybreak as db
from daybreak import cli
from daybreak.core.count import Count
from daybreak.core.errors import DataError
from daybreak.core.metrics import softmax
from daybreak.data.decode import decode_image
from daybreak.evaluation import predict as module
from daybreak.runs.classifier import Classifier
from daybreak.runs.directory import RunDirectory

FILES, BATCH = 8, 3


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    out = tmp_path_factory.mktemp("runs") / "run"
    settings = {"model.width": 0.1, "precision": "float32"}
    return db.train("digits", epochs=1, settings=settings, out=out, device="cpu", report=False).directory


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Eight digits, classified three at a time."""
    monkeypatch.setattr(module, "images_a_forward", lambda *_: BATCH)
    images_NHWC = db.open_dataset("digits").test.images_NHWC
    paths = [tmp_path / f"{n}.png" for n in range(FILES)]
    for n, path in enumerate(paths):
        Image.fromarray(images_NHWC[n, :, :, 0]).save(path)
    return paths


def test_every_file_gets_the_probabilities_of_its_image(run: RunDirectory, files: list[Path]) -> None:
    rows = db.load(run.path).predict(*files, top=10)
    assert isinstance(rows, list)
    assert [row["file"] for row in rows] == [str(path) for path in files]
    images_NHWC = db.open_dataset("digits").test.images_NHWC[:FILES]
    expected_NK = softmax(run.classifier("cpu").logits(images_NHWC))
    for row, expected_K in zip(rows, expected_NK, strict=True):
        found = {each["class"]: each["probability"] for each in row["top"]}
        assert [found[name] for name in run.card.classes] == pytest.approx(expected_K.tolist(), abs=1e-5)
        assert [each["probability"] for each in row["top"]] == sorted(found.values(), reverse=True)


def test_no_more_than_a_batch_is_in_memory(
    run: RunDirectory, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decoded and not yet classified are three at most, and the batch before is gone by then."""
    decoded, classified, forward = 0, 0, Classifier.logits
    batches: list[weakref.ref[np.ndarray]] = []

    def decode(*args: object) -> np.ndarray:
        nonlocal decoded
        assert all(batch() is None for batch in batches)
        decoded += 1
        assert decoded - classified <= BATCH
        return decode_image(*args)  # type: ignore[arg-type]

    def logits(self: Classifier, images_NHWC: np.ndarray, *args: object) -> np.ndarray:
        nonlocal classified
        classified += len(images_NHWC)
        batches.append(weakref.ref(images_NHWC))
        return forward(self, images_NHWC, *args)  # type: ignore[arg-type]

    monkeypatch.setattr("daybreak.evaluation.files.decode_image", decode)
    monkeypatch.setattr(Classifier, "logits", logits)
    rows = module.predict(run, files, device="cpu")
    assert next(rows)["file"] == str(files[0])
    assert (decoded, classified) == (BATCH, BATCH)  # the first row is there before the other files are opened
    assert len(list(rows)) == FILES - 1
    assert (decoded, classified) == (FILES, FILES)


def test_it_says_now_and_then_how_far_it_is(
    run: RunDirectory, files: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On stderr, where rows are on stdout; nothing with --quiet, and nothing where it is soon over."""
    words = ["predict", str(run.path), *map(str, files), "--json"]
    assert cli._run(words) == 0
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("daybreak.core.count.SECONDS_BETWEEN_LINES", -1.0)
    assert cli._run(words) == 0
    told = capsys.readouterr()
    assert [line for line in told.err.splitlines() if "predicted" in line] == [
        f"predicted {done} of {FILES} images" for done in range(BATCH, FILES, BATCH)
    ]
    assert told.out.count('"file"') == FILES
    assert cli._run([*words, "--quiet"]) == 0
    assert capsys.readouterr().err == ""


def test_a_broken_file_is_named_after_the_rows_before_it(
    run: RunDirectory, files: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    files[7].write_bytes(files[7].read_bytes()[:60])
    rows = module.predict(run, files, device="cpu")
    assert [next(rows)["file"] for _ in range(6)] == [str(path) for path in files[:6]]
    with pytest.raises(DataError, match=r"7\.png"):
        next(rows)
    assert cli._run(["predict", str(run.path), *map(str, files), "--json"]) == 3
    out = capsys.readouterr()
    assert [json.loads(line)["file"] for line in out.out.splitlines()[:6]] == [str(path) for path in files[:6]]
    assert out.out.count('"file"') == 6
    assert f"error: {files[7]}: " in out.err + out.out


def test_a_list_is_given_for_a_whole_answer_or_none(run: RunDirectory, files: list[Path]) -> None:
    files[7].write_bytes(b"no image")
    with pytest.raises(DataError, match=r"7\.png"):
        db.load(run.path).predict(*files)


def test_a_count_tells_after_five_seconds_and_never_at_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    now, lines = [100.0], list[str]()
    monkeypatch.setattr("daybreak.core.count.time", SimpleNamespace(monotonic=lambda: now[0]))
    log = SimpleNamespace(info=lambda text, *words: lines.append(text % words))
    count = Count(log, "decoded", 5000)  # type: ignore[arg-type]
    for seconds in (105.0, 105.5, 110.5, 110.6, 200.0):
        now[0] = seconds
        count.add(1000)
    assert lines == ["decoded 2,000 of 5,000 images", "decoded 4,000 of 5,000 images"]
