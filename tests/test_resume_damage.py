"""A resume that cannot go on changes nothing; one that can does not mind a damaged log; edits by hand are found."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from resuming import begin, final_state, go_on, rows

from daybreak.core.errors import RunError
from daybreak.core.locks import LOCK
from daybreak.runs.directory import RunDirectory
from daybreak.runs.old_format import NOT_SET
from daybreak.runs.reading import parse_object
from daybreak.runs.schemas import Card, Config, Summary, fault_in
from daybreak.training import checkpoint
from daybreak.training.checkpoint import FACTS
from daybreak.training.state import check_decided


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("finished") / "run"
    begin(str(out), every=10)
    return out


@pytest.fixture(scope="module")
def stopped(finished: Path) -> Path:
    """The same after its thirtieth step, as a kill leaves it."""
    out = shutil.copytree(finished, finished.parent / "stopped")
    shutil.rmtree(out / "checkpoints" / "step-00000040")
    for name in ("summary.json", "predictions.npz"):
        (out / name).unlink()
    return out


@pytest.fixture
def run(stopped: Path, tmp_path: Path) -> Path:
    return shutil.copytree(stopped, tmp_path / "run")


def content(path: Path) -> dict[str, bytes]:
    files = [file for file in path.rglob("*") if file.is_file() and file.name != LOCK]
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in files}


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    config = json.loads((path / "config.json").read_text())
    change(config)
    (path / "config.json").write_text(json.dumps(config))


def zeros(path: Path) -> None:
    text = (path / "metrics.jsonl").read_bytes()
    (path / "metrics.jsonl").write_bytes(text[:700] + bytes(200) + text[900:])


def empty(path: Path) -> None:
    (path / "metrics.jsonl").write_bytes(b"")


def missing(path: Path) -> None:
    (path / "metrics.jsonl").unlink()


def of_a_list(path: Path) -> None:
    (path / "metrics.jsonl").write_text("[1, 2]\n" * 50)


@pytest.mark.parametrize("damage", [zeros, empty, missing, of_a_list])
def test_a_damaged_log_does_not_cost_the_run(damage: Callable[[Path], None], run: Path, finished: Path) -> None:
    damage(run)
    go_on(str(run))
    assert final_state(run) == final_state(finished)
    (note,) = (note for note in RunDirectory.open(run).config["resumed"][-1]["notes"] if "metrics.jsonl" in note)
    assert "missing" in note if damage is missing else "damaged" in note
    epochs = [row for row in rows(run) if row["event"] == "epoch"]
    assert epochs == [row for row in rows(finished) if row["event"] == "epoch"]  # the first from the table
    assert (run / "damaged-metrics.jsonl").exists() == (damage is not missing)


def test_a_sound_log_is_continued_without_a_word(run: Path, finished: Path) -> None:
    go_on(str(run))
    assert rows(run) == rows(finished)
    assert not [note for note in RunDirectory.open(run).config["resumed"][-1]["notes"] if "metrics" in note]


def test_a_log_that_may_not_be_read_changes_nothing(run: Path) -> None:
    (run / "metrics.jsonl").unlink()
    (run / "metrics.jsonl").mkdir()
    before = content(run)
    with pytest.raises(RunError, match=r"metrics\.jsonl: cannot be read"):
        go_on(str(run), epochs=9)
    assert content(run) == before


EDITS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "seed": (lambda c: c["options"].update(seed=7), "seed is 7, and the run was trained with 0"),
    "rate": (lambda c: c["recipe"]["schedule"].update(max_lr=0.5), "recipe.schedule.max_lr is 0.5"),
    "batch": (lambda c: c["recipe"].update(batch_size=72), "recipe.batch_size is 72, and the run was trained with 71"),
    "augment": (lambda c: c["recipe"]["augment"].update(cutout=0), "recipe.augment.cutout is 0"),
    "keep": (lambda c: c["options"].update(split_seed=3), "options.split_seed is 3"),
    "on_nonfinite": (lambda c: c["options"].update(on_nonfinite="explode"), "--on-nonfinite explode: not a choice"),
}


@pytest.mark.parametrize("edited", EDITS)
def test_an_edit_by_hand_is_found_before_anything_is_written(edited: str, run: Path) -> None:
    change, why = EDITS[edited]
    edit(run, change)
    before = content(run)
    with pytest.raises(RunError, match=why) as caught:
        go_on(str(run))
    assert caught.value.exit_code == 4
    assert "config.json" in caught.value.what
    assert content(run) == before


def test_keys_of_another_version_are_no_edits() -> None:
    then, now = {"a": 1, "gone": 2}, {"a": 1, "new": 3}
    check_decided(Path("config.json"), then, now)
    with pytest.raises(RunError, match="a is 2, and the run was trained with 1"):
        check_decided(Path("config.json"), then, now | {"a": 2})


def test_what_resume_offers_may_differ(run: Path) -> None:
    go_on(str(run), epochs=3)
    assert RunDirectory.open(run).summary["steps"] == 60


def test_a_checkpoint_without_a_word_about_it_is_believed(run: Path) -> None:
    """As 0.1.0 wrote them."""
    saved, _ = checkpoint.newest(run / "checkpoints")
    assert saved is not None
    path = run / "checkpoints" / f"step-{saved.facts['step']:08d}"
    shutil.rmtree(path)
    facts = {key: value for key, value in saved.facts.items() if key != "decided_by"}
    checkpoint.write(run / "checkpoints", checkpoint.Checkpoint(saved.tensors, facts))
    assert "decided_by" not in json.loads((path / FACTS).read_text())
    edit(run, lambda c: c["options"].update(split_seed=3))
    go_on(str(run))


FAULTS: dict[str, tuple[str, Callable[[dict[str, Any]], object], str]] = {
    "no seed": ("config.json", lambda c: c.pop("seed"), "seed: Field required"),
    "a seed of text": ("config.json", lambda c: c.update(seed="1"), "seed: "),
    "a negative seed": ("config.json", lambda c: c.update(seed=-1), "seed: "),
    "a huge seed": ("config.json", lambda c: c.update(seed=10**30), "seed: "),
    "a recipe of text": ("config.json", lambda c: c.update(recipe="sprint"), "recipe: "),
    "no hardware": ("config.json", lambda c: c.pop("hardware"), "hardware: Field required"),
    "no command": ("config.json", lambda c: c.pop("command"), "command: Field required"),
    "a command of numbers": ("config.json", lambda c: c.update(command=[1]), "command.0: not a text"),
    "no request": ("config.json", lambda c: c["data"].pop("request"), "data.request: Field required"),
    "a request of a list": ("config.json", lambda c: c["data"].update(request=[]), "data.request: "),
    "data of text": ("config.json", lambda c: c.update(data="digits"), "data: "),
    "no fingerprint": ("config.json", lambda c: c["data"].update(fingerprint=None), "data.fingerprint: "),
    "convolutions": ("config.json", lambda c: c.update(convolutions={"wanted": "fast"}), "convolutions.wanted: "),
    "no steps": ("summary.json", lambda c: c.pop("steps"), "steps: Field required"),
    "an accuracy of 2": ("summary.json", lambda c: c.update(test_acc=2.0), "test_acc: "),
    "no classes": ("model.json", lambda c: c.update(classes=[]), "classes: "),
    "a deviation of 0": ("model.json", lambda c: c.update(std=[0.0]), "std.0: "),
    "two channels": ("model.json", lambda c: c["decode"].update(channels=2), "decode.channels: "),
    "an older card": ("model.json", lambda c: c.update(format=0), "written by another version"),
    "an empty net": ("model.json", lambda c: c.update(net={}), "cannot be read"),
    "a net without a name": ("model.json", lambda c: c.update(net=dict(NOT_SET)), "cannot be read .'name'"),
    "a width below 0": ("model.json", lambda c: c["net"].update(width=-1), r"cannot be read \(model\.width"),
    "an unknown key of decode": ("model.json", lambda c: c["decode"].update(depth=8), "cannot be read"),
}


def read_all(path: Path) -> None:
    run = RunDirectory.open(path)
    assert run.config
    assert run.summary
    assert run.card


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_key_is_named(fault: str, finished: Path, tmp_path: Path) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    read_all(run)  # the control
    name, change, why = FAULTS[fault]
    values = json.loads((run / name).read_text())
    change(values)
    (run / name).write_text(json.dumps(values))
    with pytest.raises(RunError, match=why) as caught:
        read_all(run)
    assert caught.value.what == str(run / name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["[" * 10**5, '{"seed": ' + "9" * 6000 + "}", "[]", "", "\0", '{"seed": NaN}'])
@pytest.mark.parametrize("name", ["config.json", "summary.json", "model.json"])
def test_what_is_no_object_is_one_line(name: str, text: str, finished: Path, tmp_path: Path) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    (run / name).write_text(text)
    with pytest.raises(RunError) as caught:
        read_all(run)
    assert len(str(caught.value)) < 600


# -- the limits of what is read ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind", "key", "good", "bad"),
    [
        ("config.json", Config, "seed", 0, -1),
        ("config.json", Config, "seed", 2**63 - 1, 2**63),
        ("summary.json", Summary, "steps", 1, True),
        ("summary.json", Summary, "test_loss", 1.0, float("nan")),
        ("model.json", Card, "classes", ["a"], []),
        ("model.json", Card, "mean", [0.0], []),
        ("model.json", Card, "mean", [0.0] * 3, [0.0] * 4),
        ("model.json", Card, "std", [0.5], []),
        ("model.json", Card, "std", [0.5] * 3, [0.5] * 4),
        ("model.json", Card, "size", 8, 7),
    ],
)
def test_the_last_value_that_is_read(name: str, kind: Any, key: str, good: Any, bad: Any, finished: Path) -> None:
    values = json.loads((finished / name).read_text())
    assert fault_in(values | {key: good}, kind) is None
    assert str(fault_in(values | {key: bad}, kind)).startswith(key)


@pytest.mark.parametrize("name", ["summary.json", "model.json"])
def test_what_is_no_text_is_one_line(name: str, finished: Path, tmp_path: Path) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    (run / name).write_bytes(b"\xff{}")
    with pytest.raises(RunError, match=rf"{name}: cannot be read \('utf-8'"):
        read_all(run)
    (run / name).unlink()
    (run / name).mkdir()
    with pytest.raises(RunError, match=rf"{name}: cannot be read \(.*Is a directory"):
        read_all(run)


def test_a_long_complaint_is_cut() -> None:
    """Python's own about a number of 6,000 digits is longer than 120 characters."""
    with pytest.raises(RunError) as caught:
        parse_object(Path("x"), "9" * 6000)
    assert len(caught.value.why) == len("not JSON ()") + 120
