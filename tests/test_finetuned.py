"""A net from ImageNet, fine-tuned on photos: everything that works for other runs works for it, with its own stages."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_sets import photographs
from playwright.sync_api import Browser
from serving import serving

import daybreak
from daybreak.core.config import override
from daybreak.explain.gallery import maps_for
from daybreak.explain.maps import MapOptions
from daybreak.models.registry import stages_of
from daybreak.recipes import get_recipe, to_toml
from daybreak.report.report import SECTIONS
from daybreak.runs.datasets import run_dataset

STAGES = ["stem", *(f"stage{number}" for number in range(1, 8)), "top"]
SETTINGS: dict[str, Any] = {"features": 2, "epochs": 8, "min_steps": 0, "batch_size": 8, "precision": "float32"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photographs(tmp_path_factory.mktemp("photos") / "photos", per_class=20)


@pytest.fixture(scope="module", params=["head", "stage7"])
def run(request: pytest.FixtureRequest, data: Path, tmp_path_factory: pytest.TempPathFactory) -> daybreak.Run:
    settings = SETTINGS | {"tune": request.param}
    out = tmp_path_factory.mktemp("runs") / "run"
    return daybreak.train(data, recipe="finetune", settings=settings, size=96, validate=0.2, device="cpu", out=out)


def test_it_tells_temples_from_flowers(run: daybreak.Run) -> None:
    assert run.summary.test_acc == 1.0
    assert run.directory.card.size == 96


def test_predict_and_serve_say_what_the_test_said(run: daybreak.Run, data: Path) -> None:
    """One photo alone, from its file, through a net in its own process's words: the logits of the test, by bits but for
    the batch they were in."""
    predictions = run.directory.predictions()
    assert predictions is not None
    name = str(predictions.names[0])
    (row,) = run.predict(data / name, top=2, tta="none")
    odds = np.exp(predictions.logits[0].astype(np.float64) - predictions.logits[0].max())
    expected = odds / odds.sum()
    assert row["top"][0]["class"] == run.directory.card.classes[expected.argmax()]
    assert row["top"][0]["probability"] == pytest.approx(expected.max(), abs=1e-4)
    with serving(run.directory) as served:
        status, found = served.explained((data / name).read_bytes())
    assert status == 200
    assert found["top"][0]["probability"] == pytest.approx(row["top"][0]["probability"], abs=1e-6)
    assert [m["layer"] for m in found["maps"]] == STAGES


def test_every_stage_has_a_map(run: daybreak.Run) -> None:
    classifier = run.directory.classifier("cpu")
    assert list(stages_of(classifier.net)) == STAGES
    images_NHWC = np.asarray(run_dataset(run.directory).test.images_NHWC)
    maps = maps_for(classifier, images_NHWC[:1], MapOptions(), ["predicted"])
    assert [m.values_HW.shape[0] for m in maps] == [48, 48, 24, 12, 6, 6, 3, 3, 3]
    assert all(m.values_HW.shape[0] == m.values_HW.shape[1] for m in maps)
    assert all(np.isfinite(m.values_HW).all() for m in maps)
    assert run.cam(0, layer="top").shape == (3, 3)


def test_the_report_opens_without_a_complaint(run: daybreak.Run, browser: Browser) -> None:
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    page, complaints, requests = context.new_page(), list[str](), list[str]()
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto((run.path / "report.html").as_uri())
    page.wait_for_selector("#gallery", state="attached")
    for name, _ in SECTIONS:
        assert page.locator(f"h2#{name}").is_visible(), name
    assert complaints == []
    assert len([url for url in requests if not url.startswith("data:")]) == 1
    context.close()


def test_it_can_be_compared(run: daybreak.Run, data: Path, tmp_path: Path) -> None:
    other = daybreak.train(
        data, recipe="finetune", settings=SETTINGS, size=96, seed=1, device="cpu", out=tmp_path / "other", report=False,
        validate=0.2,
    )  # fmt: skip
    found = daybreak.compare(run, other, out=tmp_path / "comparison")
    assert json.dumps(found.as_json())
    assert (tmp_path / "comparison").exists()


def test_it_can_be_benched(tmp_path: Path) -> None:
    """Seeds after the first find its features; latencies are those of the whole net."""
    data, own = photographs(tmp_path / "others", per_class=12), tmp_path / "mine.toml"
    own.write_text(to_toml(override(get_recipe("finetune"), SETTINGS | {"tune": "stage7", "size": 96, "name": "mine"})))
    record = daybreak.bench(data, recipes=[str(own)], runs=2, device="cpu", out=tmp_path / "record")
    (row,) = record["recipes"]
    assert (row["recipe"], row["n"], row["failed"]) == ("mine", 2, 0)
    assert row["test_acc"]["mean"] == 1.0
    found = [json.loads(path.read_text())["features"] for path in sorted(tmp_path.glob("record/mine/*/summary.json"))]
    assert [summary["computed"] for summary in found] == [2, 0]
    assert {(timed["form"], timed["batch"]) for timed in row["latency"]} >= {("eager", 1), ("folded", 1)}
