"""The command line as its users and their scripts meet it: output, exit codes, one-line errors."""

import io
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import daybreak as db
from daybreak import cli
from daybreak.core import signals
from daybreak.core.locks import locked

COMMANDS = (
    "train",
    "evaluate",
    "explain",
    "report",
    "predict",
    "inspect",
    "recipes",
    "data",
    "doctor",
    "bench",
    "lr-find",
    "serve",
    "sweep",
)


def call(*arguments: object) -> int:
    return cli._run([str(a) for a in arguments])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    assert call("train", "digits", "--epochs", 4, "--set", "model.width=0.2", "--out", out, "--quiet") == 0
    return out


@pytest.fixture
def shapes(tmp_path: Path) -> Path:
    """A folder of two classes, red and blue, with a test part; small enough to train in a second."""
    rng = np.random.default_rng(0)
    for part, n in (("train", 12), ("test", 4)):
        for name, channel in (("red", 0), ("blue", 2)):
            folder = tmp_path / "data" / part / name
            folder.mkdir(parents=True)
            for i in range(n):
                pixels = rng.integers(0, 60, (16, 16, 3), dtype=np.uint8)
                pixels[..., channel] += 150
                Image.fromarray(pixels).save(folder / f"{i}.png")
    return tmp_path / "data"


# A whole run


def test_train_prints_one_json_object_and_nothing_else(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "daybreak", "train", "digits", "--epochs", "1", "--set", "model.width=0.1"]
    done = subprocess.run([*command, "--out", tmp_path / "run", "--json"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    contract = {
        "test_acc", "test_acc_tta", "train_seconds", "wall_seconds", "epochs", "steps", "images_per_second", "params",
        "train_flops", "peak_rss_bytes", "device", "dataset", "recipe", "seed", "target", "target_met", "run",
    }  # fmt: skip
    assert contract <= summary.keys()
    assert Path(summary["run"], "report.html").is_file()
    stored = json.loads(Path(summary["run"], "summary.json").read_text())
    assert stored | {"run": summary["run"]} == summary
    assert re.search(r"epoch\s+1\s+train", done.stderr)  # progress goes to stderr, as plain lines
    assert "\x1b" not in done.stderr


def test_the_last_line_says_accuracy_seconds_and_where(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("train", "digits", "--epochs", 1, "--set", "model.width=0.1", "--out", tmp_path / "r", "-q") == 0
    out = capsys.readouterr()
    assert re.fullmatch(
        rf"\d+\.\d\d% on digits in \d+\.\d s: {tmp_path}/r \(report: {tmp_path}/r/report.html\)\n", out.out
    )
    assert out.err == ""


def test_training_a_folder_of_ones_own(shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("train", shapes, "--set", "model.width=0.1", "--out", tmp_path / "run", "--json", "-q") == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["test_acc"] == 1.0
    assert (summary["recipe"], summary["steps"], summary["epochs"]) == ("small", 300, 300)  # 24 images are one step
    assert call("predict", tmp_path / "run", shapes / "test", "--top", 1, "--json") == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(rows) == 8
    assert all(row["top"][0]["class"] == Path(row["file"]).parent.name for row in rows)


@pytest.mark.slow
def test_names_that_are_no_text_do_no_harm(shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    odd = os.fsdecode(b"\xff\n[bold].png")
    for part in ("train", "test"):
        (shapes / part / "red").rename(shapes / part / os.fsdecode(b"r\xe9d[x]"))
        for image in sorted((shapes / part / "blue").iterdir())[:1]:
            image.rename(image.with_name(odd))
    assert call("train", shapes, "--epochs", 1, "--out", tmp_path / "run", "-q") == 0
    for command in ("evaluate", "report", "explain"):
        assert call(command, tmp_path / "run") == 0
    assert call("data", shapes, "--sheet", tmp_path / "sheet.png") == 0
    assert call("predict", tmp_path / "run", shapes / "test" / "blue" / odd) == 0
    assert capsys.readouterr().out.endswith("%\n")


def test_target(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = ("--epochs", 1, "--set", "model.width=0.1", "--json", "-q", "--no-report")
    assert call("train", "digits", *settings, "--out", tmp_path / "a", "--target", 0.9999) == 8
    assert json.loads(capsys.readouterr().out)["target_met"] is False
    assert call("train", "digits", *settings, "--out", tmp_path / "b", "--target", 0.1) == 0
    assert json.loads(capsys.readouterr().out)["target_met"] is True
    assert not (tmp_path / "b" / "report.html").exists()


def test_the_command_that_repeats_a_run(tmp_path: Path) -> None:
    settings = {"model.width": 0.1, "augment.flip": "random"}
    run = db.train("digits", epochs=1, seed=4, size=20, settings=settings, out=tmp_path / "run", report=False)
    assert run.directory.config["command"] == [
        "daybreak", "train", "digits", "--epochs", "1", "--seed", "4", "--size", "20",
        "--set", "model.width=0.1", "--set", "augment.flip=random",
    ]  # fmt: skip
    again = db.train("digits", epochs=1, seed=4, size=20, settings=settings, out=tmp_path / "again", report=False)
    assert again.summary.test_loss == run.summary.test_loss


@pytest.mark.parametrize("settings", [["--seed", -1], ["--split-seed", -1], ["--set", "model.name=foo"]])
def test_a_call_that_cannot_work_leaves_no_run(
    settings: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call("train", "digits", *settings) == 2
    assert list(tmp_path.iterdir()) == []


def test_a_missed_target_says_what_it_would_take(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = ["--recipe", "small", "--epochs", 1, "--set", "model.width=0.1", "--no-report"]
    assert call("train", "digits", *settings, "--out", tmp_path / "a", "--target", 0.99) == 8
    assert "to reach 99.00%: --recipe small reached 99.55%" in capsys.readouterr().err
    assert call("train", "digits", *settings, "--out", tmp_path / "b", "--target", 0.9999) == 8
    assert "no recipe has a record of 99.99% on digits" in capsys.readouterr().err


def test_the_dawn_rule_stops_at_the_first_epoch_that_is_good_enough(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ["--epochs", 12, "--set", "model.width=0.2", "--no-report", "--json", "-q"]
    assert call("train", "digits", *settings, "--out", tmp_path / "a", "--target", 0.8, "--dawn-rule") == 0
    summary = json.loads(capsys.readouterr().out)
    accuracies = [row["test_acc"] for row in db.load(tmp_path / "a").history]
    assert accuracies[-1] >= 0.8 > max([*accuracies[:-1], 0.0])
    assert summary["epochs"] == len(accuracies) < 12
    assert summary["dawn_rule"] is True


def test_a_budget_chooses_a_recipe_says_so_and_keeps_to_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--budget", "2s", "--set", "model.width=0.1", "--no-report", "--out", tmp_path / "a"]
    assert call("train", "digits", *options) == 0
    assert "recipe small" in capsys.readouterr().err
    config = json.loads((tmp_path / "a" / "config.json").read_text())
    assert config["options"]["budget"] == 2.0
    assert "--budget 2.0" in " ".join(config["command"])


def test_bench_prints_a_table_or_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--budget", "1s", "--runs", 2, "--out", tmp_path / "b", "--target", 0.01, "--latency", "none"]
    assert call("bench", "digits", *options) == 0
    out = capsys.readouterr()
    assert "budget-1s, seed 1" in out.err
    assert "(2 of 2 runs)" in out.out
    assert call("bench", "digits", *options, "--json") == 0  # nothing is run again
    out = capsys.readouterr()
    assert "seed" not in out.err
    row = json.loads(out.out)["recipes"][0]
    assert {
        "recipe",
        "n",
        "failed",
        "test_acc",
        "train_seconds",
        "time_to_target",
        "latency_ms",
        "cost_train_usd",
    } <= set(row)
    assert (row["n"], row["failed"], len(row["train_seconds"]["values"])) == (2, 0, 2)


@pytest.mark.slow
def test_digits_reach_their_target_with_a_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("train", "digits", "--out", tmp_path / "run", "--json", "-q", "--target", 0.985) == 0
    assert json.loads(capsys.readouterr().out)["test_acc"] >= 0.985
    assert (tmp_path / "run" / "report.html").is_file()


def test_the_split_is_stated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = ("--epochs", 1, "--set", "model.width=0.1", "--split-seed", 7)
    call("train", "digits", *settings, "--out", tmp_path / "run", "--json")
    out = capsys.readouterr()
    assert "stratified 80/20 split by seed 7" in out.err
    assert "stratified 80/20 split by seed 7" in " ".join(json.loads(out.out)["notes"])


# What comes after


def test_evaluate(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("evaluate", trained, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    counts = np.array(found["confusion"])
    assert counts.sum() == 359
    assert counts.trace() / 359 == found["test_acc"]
    assert found["classes"] == [str(k) for k in range(10)]
    assert counts.sum(1).tolist() == [row["images"] for row in found["per_class"]]
    assert 0 <= found["ece"] <= 1
    assert call("evaluate", trained, "--tta", "flip", "--json") == 0
    assert json.loads(capsys.readouterr().out)["test_acc_tta"] != found["test_acc"]  # mirrored digits mislead


def test_full_augmentation_follows_the_recipe(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`small` does not mirror, as a mirrored 2 is no 2: three views are left. The accuracy of one stands beside."""
    assert call("evaluate", trained, "--tta", "full", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["views"] == 3
    assert "no mirrored views: the recipe does not mirror images in training" in found["notes"]
    assert call("evaluate", trained, "--tta", "flip", "--json") == 0
    mirrored = json.loads(capsys.readouterr().out)
    assert mirrored["views"] == 2
    assert mirrored["test_acc_tta"] < found["test_acc_tta"]  # mirrored digits mislead
    assert any("mirrored views can mislead the net" in note for note in mirrored["notes"])
    assert call("evaluate", trained, "--tta", "full") == 0
    line = capsys.readouterr().out.splitlines()[0]
    one_view = f"{found['test_acc']:.2%}"
    assert line == f"{found['test_acc_tta']:.2%} of 359 test images of digits (3 views; one view: {one_view})"


def test_evaluate_on_other_data(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    digits = db.open_dataset("digits")
    x, y = digits.test.images_NHWC[:, :, :, 0], digits.test.labels_N
    np.savez(tmp_path / "same.npz", x_train=x[:50], y_train=y[:50], x_test=x, y_test=y)
    assert call("evaluate", trained, "--data", tmp_path / "same.npz", "--json") == 0
    other = json.loads(capsys.readouterr().out)
    call("evaluate", trained, "--tta", "none", "--json")
    own = json.loads(capsys.readouterr().out)
    assert other["confusion"] == own["confusion"]
    assert (other["dataset"], own["dataset"]) == ("same", "digits")


def test_other_data_is_matched_by_class_name(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    digits = db.open_dataset("digits")
    x, y = digits.test.images_NHWC[:, :, :, 0][:100], digits.test.labels_N[:100]
    backwards = {"x_train": x, "y_train": 9 - y, "x_test": x, "y_test": 9 - y}
    np.savez(tmp_path / "backwards.npz", **backwards, classes=[str(9 - k) for k in range(10)])
    assert call("evaluate", trained, "--data", tmp_path / "backwards.npz", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    right = (db.load(trained).directory.classifier().logits(x[..., None]).argmax(1) == y).mean()
    assert found["test_acc"] == pytest.approx(right)
    assert found["test_acc"] > 0.8
    stored = json.loads((trained / "summary.json").read_text())
    assert found["test_loss"] != stored["test_loss"]  # one evaluation, not two
    assert found["recall"] == {score["name"]: score["recall"] for score in found["per_class"]} != stored["recall"]
    assert found["val_acc"] is None


def test_other_data_with_other_classes_is_refused(
    trained: Path, shapes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("evaluate", trained, "--data", shapes) == 3
    assert "red" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_can_be_evaluated_from_elsewhere_and_after_its_data_moved(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call("train", "data", "--epochs", 1, "--out", "run", "-q", "--no-report") == 0
    assert capsys.readouterr().out.endswith(": run\n")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert call("report", "../run") == 0
    shapes.rename(tmp_path / "moved")
    assert call("report", "../run") == 3
    assert "--data" in capsys.readouterr().err
    assert call("report", "../run", "--data", "../moved") == 0
    damaged = next((tmp_path / "moved" / "test" / "red").iterdir())
    Image.new("RGB", (16, 16)).save(damaged)
    assert call("report", "../run", "--data", "../moved") == 3
    assert "content" in capsys.readouterr().err


def test_explain_mistakes(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("explain", trained, "--n", 2, "--layers", "layer2,prep", "--json") == 0
    maps = json.loads(capsys.readouterr().out)["maps"]
    assert [m["layer"] for m in maps] == ["prep", "layer2"] * 4
    assert len({m["index"] for m in maps}) == 2
    mistakes = db.load(trained).mistakes(2)
    assert {m["class"] for m in maps} == {c for m in mistakes for c in (m.true, m.predicted)}
    assert all(Image.open(m["path"]).size == (256, 256) for m in maps)


def test_explain_one_class_against_another(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--n", 1, "--layers", "layer2", "--json")
    assert call("explain", trained, *words, "--class", "true", "--method", "hires-cam") == 0
    (alone,) = json.loads(capsys.readouterr().out)["maps"]
    assert call("explain", trained, *words, "--class", "true", "--method", "hires-cam", "--against", "predicted") == 0
    (against,) = json.loads(capsys.readouterr().out)["maps"]
    mistake = db.load(trained).mistakes(1)[0]
    assert (alone["class"], alone["method"], against["class"]) == (mistake.true, "hires-cam", mistake.true)
    assert Path(alone["path"]).read_bytes() != Path(against["path"]).read_bytes()
    assert call("explain", trained, "--class", "zebra") == 2
    assert "predicted, true" in capsys.readouterr().err
    assert call("explain", trained, "--method", "cam") == 2
    assert "grad-cam" in capsys.readouterr().err


def test_explain_the_mistakes_of_one_pair(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Either class may have been taken for the other; the most confident come first."""
    every = db.load(trained).mistakes(1000)
    first, second = every[0].true, every[0].predicted
    expected = [m.index for m in every if {m.true, m.predicted} == {first, second}]
    assert 0 < len(expected) < len(every)
    words = ("--n", 1000, "--layers", "layer2", "--class", "true", "--json")
    assert call("explain", trained, *words, "--between", second, first) == 0
    assert [m["index"] for m in json.loads(capsys.readouterr().out)["maps"]] == expected
    for pair, words in (
        ((first, "zebra"), "class zebra: the run has no such class"),
        ((first, first), "not two classes"),
    ):
        assert call("explain", trained, "--between", *pair) == 2
        assert words in capsys.readouterr().err


def test_explain_given_images(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(db.open_dataset("digits").test.images_NHWC[0, :, :, 0]).save(tmp_path / "mine.png")
    assert call("explain", trained, "--image", tmp_path / "mine.png", "--json") == 0
    maps = json.loads(capsys.readouterr().out)["maps"]
    assert [(m["file"], m["layer"]) for m in maps] == [
        (str(tmp_path / "mine.png"), layer) for layer in ("prep", "layer1", "layer2", "layer3")
    ]


def test_predict_from_standard_input(
    trained: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    digits, buffer = db.open_dataset("digits"), io.BytesIO()
    Image.fromarray(digits.train.images_NHWC[0, :, :, 0]).save(buffer, "PNG")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(buffer.getvalue())))
    assert call("predict", trained, "-", "--json", "--top", 10) == 0
    row = json.loads(capsys.readouterr().out)
    assert row["file"] == "-"
    assert row["top"][0]["class"] == digits.classes[digits.train.labels_N[0]]
    assert sum(t["probability"] for t in row["top"]) == pytest.approx(1)


def test_report_again(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (trained / "report.html").unlink()
    assert call("report", trained, "--json") == 0
    assert Path(json.loads(capsys.readouterr().out)["report"]).is_file()


@pytest.mark.parametrize("what", ["page", "sprint", "vgg", "timm:resnet18"])
def test_inspect(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("inspect", what, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    keys = {"name", "image_size", "params", "macs", "activation_bytes", "layers", "stages", "warnings"}
    assert set(found) == keys
    row = {"name", "kind", "output_shape", "params", "macs", "receptive_field", "effective_stride", "first_centre"}
    row |= {"activation_bytes", "kernel", "stride", "dilation"}
    assert all(set(layer) == row for layer in found["layers"])
    assert call("inspect", what) == 0
    text = capsys.readouterr().out
    assert f"{found['params']:,} parameters" in text
    assert all(layer["name"] in text for layer in found["layers"])
    assert all(warning in text for warning in found["warnings"])


def test_inspect_draws_the_net(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "there" / "page.png"
    options = ("--set", "model.residual_from=input", "--size", 64, "--picture", picture, "--json")
    assert call("inspect", "page", *options) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["picture"] == str(picture)
    assert "layer1.branch.conv1" in [layer["name"] for layer in found["layers"]]
    assert Image.open(picture).size[0] > 800


def test_a_net_that_is_not_known_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("inspect", "vggg") == 2
    assert "no such recipe, net or run; try: 'vgg'" in capsys.readouterr().err


def test_inspect_a_run(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("inspect", trained, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["image_size"], found["layers"][-1]["output_shape"]) == (16, [10])


def test_data(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert call("data", "digits", "--json", "--sheet", tmp_path / "sheet.png") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["splits"]["train"]["images"] + found["splits"]["test"]["images"] == 1797
    keys = {"name", "fingerprint", "classes", "splits", "image_size", "mean", "std", "duplicates"}
    assert keys <= found.keys()
    assert Image.open(found["sheet"]).size[0] > 600


def test_recipes(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("recipes", "--json") == 0
    listed = json.loads(capsys.readouterr().out)["recipes"]
    assert [r["name"] for r in listed] == list(db.recipes.RECIPES)
    command, environment = [sys.executable, "-m", "daybreak", "recipes"], os.environ | {"COLUMNS": "80"}
    shown = subprocess.run(command, capture_output=True, text=True, env=environment).stdout
    assert max(map(len, shown.splitlines())) <= 80
    expected = [recipe.expected for recipe in db.recipes.RECIPES.values() if recipe.expected]
    measured = {f"measured on {e.dataset}, {e.hardware}" for e in expected}
    assert all(shown.count(where) == 1 for where in measured)
    assert len(measured) >= 3
    assert call("recipes", "page") == 0
    assert tomllib.loads(capsys.readouterr().out)["epochs"] == 24


def test_a_recipe_that_was_printed_trains_and_benches(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("recipes", "small") == 0
    file = tmp_path / "mine.toml"
    file.write_text(capsys.readouterr().out.replace('name = "small"', 'name = "mine"').replace("0.5", "0.1"))
    assert (
        call("train", "digits", "--recipe", file, "--epochs", 1, "--no-report", "--json", "--out", tmp_path / "run")
        == 0
    )
    assert json.loads(capsys.readouterr().out)["recipe"] == "mine"
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["recipe"]["model"]["width"], config["recipe"]["epochs"]) == (0.1, 1)
    bench = ("bench", "digits", "--recipe", file, "--epochs", 2, "--runs", 1, "--latency", "none", "--json")
    assert call(*bench, "--out", tmp_path / "record") == 0
    (row,) = json.loads(capsys.readouterr().out)["recipes"]
    assert (row["recipe"], row["n"], row["config"]["epochs"]) == ("mine", 1, 2)


# Errors: one line, the right code, nothing lost, no run


def spoil_image(data: Path) -> None:
    path = data / "train" / "red" / "0.png"
    path.write_bytes(path.read_bytes()[:100])


def empty_class(data: Path) -> None:
    (data / "train" / "green").mkdir()
    (data / "test" / "green").mkdir()


def one_class(data: Path) -> None:
    for part in ("train", "test"):
        shutil.rmtree(data / part / "blue")


def class_missing_from_test(data: Path) -> None:
    shutil.rmtree(data / "test" / "blue")


@pytest.mark.parametrize(
    ("harm", "named"),
    [(spoil_image, "0.png"), (empty_class, "green"), (one_class, "red"), (class_missing_from_test, "blue")],
)
def test_bad_folders_give_one_line_and_write_no_run(
    harm: object, named: str, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    harm(shapes)  # type: ignore[operator]
    before = sorted(shapes.rglob("*"))
    monkeypatch.chdir(tmp_path)
    assert call("train", shapes, "--json") == 3
    out = capsys.readouterr()
    assert re.fullmatch(r"error: [^\n]+: [^\n]+; try: [^\n]+\n", out.err)
    assert named in out.err
    assert json.loads(out.out)["error"]["code"] == "data"
    assert not (tmp_path / "runs").exists()
    assert sorted(shapes.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["train", "digits", "--recipe", "sprnit"], 2, "sprint"),
        (["train", "digits", "--set", "schedule.max_lrr=1"], 2, "schedule.max_lr"),
        (["train", "digits", "--set", "epochs"], 2, "key=value"),
        (["train", "digits", "--epochs", "0"], 2, "--epochs"),
        (["train", "digits", "--device", "tpu"], 2, "auto, cpu, cuda, mps"),
        (["train", "digits", "--target", "94"], 2, "0.94"),
        (["train", "digits", "--budget", "5 min"], 2, "5m"),
        (["train", "digits", "--budget", "0s"], 2, "5m"),
        (["train", "digits", "--budget", "5m", "--epochs", "3"], 2, "one of them"),
        (["train", "digits", "--dawn-rule"], 2, "--target"),
        (["bench", "digits"], 2, "--recipe"),
        (["bench", "digits", "--recipe", "smal"], 2, "small"),
        (["train", "digits", "--recpe", "page"], 2, "--recipe"),
        (["train"], 2, "DATA"),
        (["trian", "digits"], 2, "train"),
        (["train", "digtis"], 3, "digits"),
        (["evaluate", "."], 4, "config.json"),
        (["predict", ".", "x.png"], 4, "config.json"),
        (["inspect", "pgae"], 2, "page"),
        (["recipes", "pgae"], 2, "page"),
        (["data", "nowhere/at/all"], 3, "nowhere/at/all"),
    ],
)
def test_errors_are_one_line_with_their_code(
    arguments: list[str], code: int, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert call(*arguments) == code
    out = capsys.readouterr()
    assert re.fullmatch(r"error: [^\n]+: [^\n]+; try: [^\n]+\n", out.err)
    assert words in out.err
    assert out.out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["explain", "--layers", "layer9"], 2, "prep, layer1, layer2, layer3"),
        (["evaluate", "--tta", "many"], 2, "none, flip, full"),
        (["predict", "missing.png"], 3, "missing.png"),
    ],
)
def test_errors_about_a_run(
    arguments: list[str], code: int, words: str, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(arguments[0], trained, *arguments[1:]) == code
    assert words in capsys.readouterr().err


def test_downloads_report_to_stderr_unless_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    log = logging.getLogger("daybreak.data.download")
    for quiet, expected in ((["-q"], ""), ([], "downloading\n"), (["--quiet"], "")):
        assert call("recipes", *quiet, "--json") == 0
        log.info("downloading")
        assert capsys.readouterr().err == expected


def test_debug_shows_the_traceback_and_json_the_parts(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("train", "digits", "--recipe", "x", "--debug", "--json") == 2
    out = capsys.readouterr()
    assert "Traceback" in out.err
    assert json.loads(out.out)["error"].keys() == {"code", "what", "why", "try"}


def test_an_unexpected_failure_is_one_line_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("daybreak.recipes.get_recipe", lambda name: 1 / 0)
    assert call("recipes", "page") == 1
    assert (
        capsys.readouterr().err
        == "error: ZeroDivisionError: division by zero; try: --debug, and report what it shows\n"
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example_and_the_common_options(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(command, "--help") == 0
    text = capsys.readouterr().out
    assert f"Example: daybreak {command}" in text
    assert all(option in text for option in ("--json", "--quiet", "--debug"))


def test_no_command_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert call() == 2
    text = capsys.readouterr().out
    assert all(command in text for command in COMMANDS)


# The Python face


def test_run_object(trained: Path) -> None:
    run = db.load(trained)
    assert run.summary.test_acc == json.loads((trained / "summary.json").read_text())["test_acc"]
    assert [row["epoch"] for row in run.history] == [1, 2, 3, 4]
    assert run.confusion().sum() == 359
    worst = run.mistakes(3)
    assert worst[0].confidence >= worst[-1].confidence
    assert worst[0].true != worst[0].predicted
    assert run.cam(17, layer="layer2").shape == (3, 3)
    assert not np.array_equal(run.cam(17, "layer1", target="1"), run.cam(17, "layer1", target="8"))
    with pytest.raises(db.DaybreakError, match="359 images"):
        run.cam(359, "layer1")
    with pytest.raises(db.DaybreakError, match="0, 1, 2"):
        run.cam(0, "layer1", target="cat")
    assert "small on digits" in repr(run)
    assert run._repr_html_().count("<svg") == 2  # curves and confusion matrix


def test_what_import_daybreak_offers() -> None:
    assert set(db.__all__) <= set(dir(db))
    functions = ["load", "train", "inspect", "open_dataset", "bench", "compare", "samples"]
    code = f"""
import pkgutil, daybreak
modules = [__import__(m.name) for m in pkgutil.walk_packages(daybreak.__path__, "daybreak.")]
assert all(callable(getattr(daybreak, name)) for name in {functions}), "a module hides a function"
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        db.trian  # noqa: B018


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
@pytest.mark.parametrize("seconds", [0.7, *(pytest.param(s, marks=pytest.mark.slow) for s in (0.3, 1.2))])
def test_a_signal_while_it_starts_ends_it(number: signal.Signals, seconds: float, tmp_path: Path) -> None:
    """In the imports, before there is a run. (A shell shows a process that a signal ended as 128 and its number.)"""
    command = [sys.executable, "-m", "daybreak", "train", "digits", "--epochs", "500", "--no-report", "--out", "run"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(seconds)
    process.send_signal(number)
    try:
        process.communicate(timeout=60)
    finally:
        process.kill()  # one that did not end must not go on training
    assert process.returncode in (128 + number, -number)


@pytest.mark.parametrize("command", [["-m", "daybreak"], ["-c", "from daybreak.__main__ import main; main()"]])
def test_a_package_that_swallows_ctrl_c_keeps_nobody_waiting(command: list[str], tmp_path: Path) -> None:
    """Imported before daybreak hears signals itself; a stand-in for one that is imported first."""
    swallows = "import signal\ntry:\n    signal.raise_signal(2)\nexcept BaseException:\n    pass\nprint('goes on')\n"
    (tmp_path / "typer.py").write_text(swallows)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    words = [sys.executable, *command, "--help"]
    found = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (-signal.SIGINT, "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("depth", [1, 3])
def test_no_import_swallows_a_signal(number: signal.Signals, depth: int, tmp_path: Path) -> None:
    """Torch would even end with SIGABRT, because its C++ cannot pass on an exception."""
    swallows = f"import signal\ntry:\n    signal.raise_signal({int(number)})\nexcept BaseException:\n    pass\n"
    (tmp_path / "module1.py").write_text(swallows)
    for n in range(2, depth + 1):
        (tmp_path / f"module{n}.py").write_text(f"import module{n - 1}")
    code = "from daybreak.core.signals import obey_signals\nobey_signals()\n"
    code += f"def later():\n    import module{depth}\nlater()\nprint('goes on')"
    found = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout, found.stderr) == (-number, "", "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    "then", ["pass", "raise ImportError('numpy')", "raise DaybreakError('a', 'b', 'c')", "sys.exit(0)", "raise"]
)
def test_a_signal_decides_the_exit_code_whatever_became_of_it(then: str, number: signal.Signals) -> None:
    """What C code calls back may swallow the exception of a signal, or another may take its place."""
    code = f"""
import signal, sys
from daybreak import cli
from daybreak.core.errors import DaybreakError
def app(**_):
    try:
        signal.raise_signal({int(number)})
    except BaseException:
        {then}
cli.app = app
cli.main(["data", "digits"])
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout, found.stderr) == (128 + number, "", "interrupted\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_the_process_at_once(number: signal.Signals) -> None:
    code = f"""
import signal
from daybreak.core.signals import obey_signals
obey_signals()
try:
    signal.raise_signal(signal.SIGTERM)
except SystemExit as leaving:
    print(leaving.code, flush=True)
try:
    signal.raise_signal({int(number)})
finally:
    print("goes on")
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout, found.stderr) == (-number, "143\n", "")


@pytest.mark.parametrize("work", ["import swallows", "import becomes_an_error"])
def test_work_that_can_be_done_again_ends_with_a_signal_in_an_import(work: str, tmp_path: Path) -> None:
    """A report's first import of pandas, for one: it may swallow the signal, or make an ImportError of it."""
    for name, then in (("swallows", "pass"), ("becomes_an_error", "raise ImportError('numpy')")):
        lines = (
            f"import signal\ntry:\n    signal.raise_signal({int(signal.SIGTERM)})\nexcept BaseException:\n    {then}\n"
        )
        (tmp_path / f"{name}.py").write_text(lines)
    code = f"""
from daybreak.core.signals import StopRequest
def work():
    {work}
    return 1
with StopRequest() as stop:
    found = stop.unless_stopped(work)
print(found, stop.signal)
"""
    found = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (found.stdout.split()[1], found.stderr) == ("15", "")


def test_a_signal_that_was_swallowed_still_ends_the_process() -> None:
    code = """
import signal
from daybreak.core.signals import StopRequest, obey_signals
obey_signals()
try:
    signal.raise_signal(signal.SIGTERM)
except BaseException:
    pass
with StopRequest():
    print("trains")
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (143, "")


def test_evaluate_draws_no_test_part_from_what_may_have_been_trained_on(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Data without a test part: the run's own is evaluated on the run's own part, any other is refused."""
    digits = db.open_dataset("digits")
    x, y = digits.train.images_NHWC[:200, :, :, 0], digits.train.labels_N[:200]
    np.savez(tmp_path / "whole.npz", x_train=x, y_train=y)
    assert call("evaluate", trained, "--data", tmp_path / "whole.npz") == 3
    assert "has no test part" in capsys.readouterr().err
    assert call("evaluate", trained, "--data", "digits", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    call("evaluate", trained, "--tta", "none", "--json")
    assert found["confusion"] == json.loads(capsys.readouterr().out)["confusion"]


def test_numbers_out_of_range_are_refused(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("data", "digits", "--split-seed", "-1") == 2
    assert call("train", "digits", "--budget", "") == 2
    assert call("suspects", trained, "--folds", "2", "--seed", str(2**32)) == 2
    assert call("suspects", trained, "--folds", "2", "--budget", "0") == 2
    assert capsys.readouterr().err.count("error: ") == 4


def test_the_true_class_of_a_file_is_known_to_nobody(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "image.png")
    assert call("explain", trained, "--image", tmp_path / "image.png", "--against", "true") == 2
    line = capsys.readouterr().err
    assert "the true class of a file is not known; try: predicted, 0, 1," in line


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (["trian", "cifar10"], "error: daybreak trian: no such command; try: daybreak train\n"),
        (["lrfind"], "error: daybreak lrfind: no such command; try: daybreak lr-find\n"),
        (["xyzzy"], "error: daybreak xyzzy: no such command; try: daybreak --help\n"),
        (["--versoin"], "error: daybreak: No such option: --versoin"),
        (["train", "digits", "--epoch", "1"], "error: daybreak train: No such option: --epoch"),
    ],
)
def test_the_remedy_names_the_nearest_command(line: list[str], error: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(*line) == 2
    assert capsys.readouterr().err.startswith(error)


def test_a_run_in_use_is_busy_before_it_is_in_the_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text("{}")
    with locked(tmp_path):
        assert call("train", "digits", "--out", tmp_path, "-q") == 7
    assert f"in use by process {os.getpid()} on " in capsys.readouterr().err


def test_a_clash_is_found_before_data_is_opened(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    monkeypatch.setattr("daybreak.api.open_dataset", lambda *_, **__: pytest.fail("data was opened"))
    assert call("train", "digits", "--out", tmp_path, "-q") == 2
    assert capsys.readouterr().err.startswith(f"error: --out {tmp_path}: exists and is not empty; try: ")
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_the_first_process_of_a_container_ends_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel does not end it by a signal of its own."""
    left: list[int] = []
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(signal, "raise_signal", lambda _: None)
    monkeypatch.setattr(os, "_exit", left.append)
    signals._end_the_process(signal.SIGTERM)
    assert left == [143]
