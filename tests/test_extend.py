"""Doors: a stranger's net, loss, augmentation, callbacks and package, without a change to daybreak."""

import io
import json
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from families import with_large_ones_slow
from PIL import Image
from resuming import final_state, rows
from serving import serving
from torch import Tensor, nn

import daybreak as db
from daybreak.core.config import override
from daybreak.core.errors import RunError, UsageError
from daybreak.core.plugins import is_path, loaded, path_of
from daybreak.data import Dataset
from daybreak.models.groups import ParamGroup, default_groups
from daybreak.models.registry import NETS
from daybreak.recipes import RECIPES, all_recipes
from daybreak.runs.directory import RunDirectory
from daybreak.training import loop
from daybreak.training.callbacks import Callback, Epoch, Step
from daybreak.training.extensions import Given, batch_generator
from daybreak.training.optim import MuonOptimizer
from daybreak.training.session import Session, prepare
from daybreak.training.step import train_step

DOCS = Path(__file__).parents[1] / "docs" / "extend.md"
FAST: dict[str, Any] = {"device": "cpu", "report": False, "settings": {"precision": "float32", "batch_size": 71}}
OPEN: dict[str, Any] = {"device": "cpu", "report": False}
CPU = torch.device("cpu")


class OwnNet(nn.Module):
    """With dropout and a group of its own, and without stages or a head."""

    def __init__(self, num_classes: int, in_channels: int, width: int = 6) -> None:
        super().__init__()
        self.a = nn.Sequential(nn.Conv2d(in_channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
        self.b = nn.Sequential(nn.Conv2d(width, width, 3, stride=2), nn.ReLU(), nn.Dropout(0.2))
        self.out = nn.Linear(width, num_classes)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        logits: Tensor = self.out(self.b(self.a(images_NCHW)).mean((2, 3)))
        return logits

    def param_groups(self) -> list[ParamGroup]:
        body = [*self.a.parameters(), *self.b.parameters()]
        return [ParamGroup(body), ParamGroup(self.out.parameters(), lr_factor=0.25, weight_decay=0.01)]


def own_loss(logits_BK: Tensor, labels_B: Tensor) -> Tensor:
    return F.multi_margin_loss(logits_BK, labels_B)


def own_augment(images_BCHW: Tensor, labels_B: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    return images_BCHW + 0.1 * torch.randn(images_BCHW.shape, generator=generator), labels_B


class Counting(Callback):
    """Counts steps and notes the calls."""

    def __init__(self) -> None:
        self.steps, self.calls = 0, list[str]()

    def on_start(self, session: Session) -> None:
        self.calls.append(f"start at {session.step}")

    def after_step(self, step: Step) -> None:
        assert step.loss is not None
        self.steps += 1

    def on_epoch(self, epoch: Epoch) -> None:
        epoch.row["counted"] = self.steps

    def on_end(self, summary: Any) -> None:
        self.calls.append(f"end at {summary['steps']}")

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps}

    def load_state_dict(self, state: Any) -> None:
        self.steps = state["steps"]


def parts() -> dict[str, Any]:
    return {"net": OwnNet, "loss": own_loss, "augment": own_augment, "callbacks": [Counting()]}


def test_own_parts_train_and_resume_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = FAST | {"epochs": 2, "recipe": "page", "checkpoint_every": "7steps"}
    whole = db.train("digits", **parts(), out=tmp_path / "whole", **options)
    original, steps = loop.train_step, []

    def interrupted(*args: Any) -> Any:
        steps.append(1)
        if len(steps) == 13:
            os.kill(os.getpid(), 2)
        return original(*args)

    monkeypatch.setattr(loop, "train_step", interrupted)
    db.train("digits", **parts(), out=tmp_path / "run", **options)
    monkeypatch.setattr(loop, "train_step", original)
    again = parts()
    run = db.resume(tmp_path / "run", **again, report=False)
    assert final_state(run.path) == final_state(whole.path)
    assert rows(run.path) == rows(whole.path)
    assert [row["counted"] for row in run.history] == [
        20,
        40,
    ]  # in the checkpoint, since 13 steps were another object's
    assert again["callbacks"][0].calls == ["start at 13", "end at 40"]


def test_the_generator_of_a_batch_follows_seed_and_step_alone() -> None:
    drawn = {(s, n): torch.rand(2, generator=batch_generator(s, n)).tolist() for s in (0, 1, 7) for n in (0, 1, 500)}
    assert len({tuple(numbers) for numbers in drawn.values()}) == 9
    assert torch.rand(2, generator=batch_generator(7, 500)).tolist() == drawn[7, 500]


def test_a_run_names_its_parts_and_wants_them_back(tmp_path: Path) -> None:
    run = db.train("digits", **parts(), epochs=1, out=tmp_path / "run", **FAST)
    options = run.directory.options
    assert (options.net, options.loss) == (path_of(OwnNet), path_of(own_loss))
    assert "--net" in run.directory.config["command"]
    assert json.loads((run.path / "model.json").read_text())["net"] == {"name": "test_extend:OwnNet"}
    for given in ({}, {"net": OwnNet}, {"net": OwnNet, "loss": own_loss}):
        with pytest.raises(RunError, match=r"was trained with a (loss|augment|callbacks) of its own"):
            db.resume(run.path, epochs=2, report=False, **given)
    with pytest.raises(RunError, match="a run directory imports nothing; try: --net test_extend:OwnNet"):
        db.load(run.path).cam(0, layer="b")
    assert db.load(run.path, net=OwnNet).evaluate(tta="flip").accuracy >= 0
    longer = db.resume(run, loss=own_loss, augment=own_augment, callbacks=[Counting()], epochs=2, report=False)
    assert longer.summary.epochs == 2  # a run of this process knows its net


@pytest.mark.parametrize("other", ["page", OwnNet])
def test_a_run_keeps_its_net(other: Any, digits_run: RunDirectory) -> None:
    with pytest.raises(UsageError, match="with --resume: the run has its own net"):
        db.resume(digits_run.path, net=other, epochs=9)


def test_a_run_directory_imports_nothing(tmp_path: Path) -> None:
    """What it names is not even looked for: it may come from anyone."""
    run = db.train("digits", net=OwnNet, epochs=1, out=tmp_path / "run", **FAST)
    sys.modules.pop("antigravity", None)
    for name in ("model.json", "config.json"):
        path = run.path / name
        path.write_text(path.read_text().replace("test_extend:OwnNet", "antigravity:fly_to"))
    (run.path / "predictions.npz").unlink()
    with pytest.raises(RunError, match="imports nothing"):
        db.load(run.path).evaluate()
    with pytest.raises(RunError, match="--net antigravity:fly_to"):
        db.resume(run.path, epochs=2)
    assert "antigravity" not in sys.modules


def test_a_strangers_net_explains_itself_and_is_served(tmp_path: Path) -> None:
    run = db.train("digits", net=OwnNet, epochs=2, out=tmp_path / "run", **FAST | {"report": True})
    assert run.cam(3, layer="a").shape == (16, 16)
    html = (run.path / "report.html").read_text()
    assert 'alt="' in html
    assert "OwnNet" in html
    assert {row["layer"] for row in run.explain(n=1)} == {"a", "b"}
    buffer = io.BytesIO()
    Image.new("L", (8, 8), 200).save(buffer, "PNG")
    (tmp_path / "image.png").write_bytes(buffer.getvalue())
    with serving(run.directory) as served:
        status, found = served.explained(buffer.getvalue())
    assert status == 200
    (expected,) = run.predict(tmp_path / "image.png", top=5)
    assert found["top"] == expected["top"]
    assert [drawn["layer"] for drawn in found["maps"]] == ["a", "b"]


def test_a_module_is_trained_as_a_copy_with_its_weights() -> None:
    own = OwnNet(10, 1)
    before = {name: value.clone() for name, value in own.state_dict().items()}
    seen: list[float] = []

    class First(Callback):
        def on_start(self, session: Session) -> None:
            seen.append(float(session.net.out.weight.detach().sum()))  # type: ignore[union-attr, operator]

    run = db.train("digits", net=own, callbacks=[First()], epochs=1, **FAST)
    assert seen == [float(own.out.weight.detach().sum())]
    assert all(torch.equal(value, before[name]) for name, value in own.state_dict().items())
    trained = run.directory.classifier("cpu").net.state_dict()
    assert not torch.equal(trained["out.weight"].cpu(), before["out.weight"])


def test_callbacks_change_rate_images_and_labels(tmp_path: Path) -> None:
    """A rate of zero and images of noise leave the weights alone; half the rate moves them half as far."""

    class Factor(Callback):
        def __init__(self, factor: float) -> None:
            self.factor = factor

        def before_step(self, step: Step) -> None:
            step.lr *= self.factor
            step.images_BCHW = torch.zeros_like(step.images_BCHW)
            step.labels_B = torch.zeros_like(step.labels_B)

    def change(factor: float) -> float:
        settings = {"precision": "float32", "optimizer.name": "sgd", "optimizer.momentum": 0.0, "steps": 1}
        settings |= {"optimizer.weight_decay": 0.0, "schedule.momentum": None}
        out = tmp_path / str(factor)
        options = {"recipe": "vgg", "settings": settings | {"model.width": 0.1}, "device": "cpu", "report": False}
        starts: list[Tensor] = []

        class Start(Callback):
            def on_start(self, session: Session) -> None:
                starts.append(session.net.head.bias.detach().clone())  # type: ignore[union-attr, operator]

        run = db.train("digits", callbacks=[Start(), Factor(factor)], out=out, **options)
        moved = run.directory.classifier("cpu").net.head.bias - starts[0]  # type: ignore[union-attr, operator]
        assert factor == 0 or moved[0] > 0  # towards the class that all labels were set to
        return float(moved.norm())

    assert change(0.0) == 0
    assert change(0.5) == pytest.approx(change(1.0) / 2, rel=1e-4)


def test_a_callback_ends_training_and_adds_a_column(tmp_path: Path) -> None:
    class Stop(Callback):
        def on_epoch(self, epoch: Epoch) -> None:
            epoch.row["why"] = "enough"
            epoch.stop = epoch.row["epoch"] == 2

    run = db.train("digits", callbacks=[Stop()], epochs=5, out=tmp_path / "run", **FAST)
    assert [row["why"] for row in run.history] == ["enough", "enough"]
    assert run.summary.interrupted is None
    assert (run.path / "metrics.csv").read_text().splitlines()[0].endswith("why")


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("net", "nowhere:Net", "--net nowhere:Net: No module named 'nowhere'"),
        ("net", "torch.nn:Liner", "no 'Liner' in there; try: 'Linear'"),
        ("net", nn.Linear, "model.name torch.nn.modules.linear:Linear: cannot be made"),
        ("net", nn.Flatten(), "maps two images to"),
        ("net", lambda num_classes, in_channels: 3, "made a int, not an nn.Module"),
        ("net", "resnet19", "model.name resnet19: no such net; try: 'resnet18'"),
        ("loss", "not a path", "--loss not a path: not an import path"),
        ("callbacks", [nn.ReLU], "ReLU is no daybreak.Callback"),
    ],
)
def test_what_is_no_part_is_refused_in_one_line(option: str, value: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        db.train("digits", out=tmp_path / "run", **{option: value})
    assert message in str(caught.value)
    assert not (tmp_path / "run").exists()


# -- Muon for any net


FAMILY = [*NETS, "timm:test_resnet", "timm:mobilenetv3_small_050"]


@pytest.mark.parametrize("name", with_large_ones_slow(FAMILY))
def test_muon_trains_any_net(name: str, digits: Dataset) -> None:
    settings: dict[str, Any] = {"model.name": name, "precision": "float32", "batch_size": 64}
    settings |= {} if ":" in name or name.startswith("lite") else {"model.width": 0.1 if name == "resnext29" else 0.2}
    session = prepare(override(RECIPES["small"], settings), digits, 0, CPU)
    losses = []
    for step in range(24):
        session.optimizer.set_progress(step / 48)
        losses.append(float(train_step(session, *session.loader.batch(step, 1.0))))
    assert np.mean(losses[-4:]) < 0.8 * np.mean(losses[:2])


def test_muon_takes_hidden_filters_and_nothing_else(digits: Dataset) -> None:
    settings = {"model.name": "resnext29", "model.width": 0.1, "precision": "float32"}
    session = prepare(override(RECIPES["sprint"], settings), digits, 0, CPU)
    muon, adam = session.optimizer.optimizers
    assert isinstance(muon, MuonOptimizer)
    names = {id(p): name for name, p in session.net.named_parameters()}
    by_muon = {names[id(p)] for p in muon.param_groups[0]["params"]}
    rest = {names[id(p)] for group in adam.param_groups for p in group["params"]}
    assert by_muon | rest == set(names.values())
    assert "prep.conv.weight" in rest  # the first convolution sees pixels
    assert "layer1.block1.branch.conv2.weight" in rest  # in groups
    assert "layer1.block1.branch.conv1.weight" in by_muon
    assert all(p.ndim == 4 for p in muon.param_groups[0]["params"])
    assert {group["peak"] for group in adam.param_groups} == {0.003}


def test_a_nets_groups_keep_their_rates_and_decays(digits: Dataset) -> None:
    for recipe, peak in (("page", 0.0036), ("vgg", 0.03)):
        own = override(RECIPES[recipe], {"model.name": path_of(OwnNet)})
        session = prepare(own, digits, 0, CPU, extensions=Given(net=OwnNet).extensions())
        groups = session.optimizer.optimizers[0].param_groups
        assert [g["peak"] for g in groups] == [pytest.approx(peak), pytest.approx(peak / 4)]
        assert groups[1]["weight_decay"] == 0.01
        assert groups[0]["weight_decay"] != 0.01


def test_default_groups_hold_every_parameter_once() -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3, groups=4))
    filters, other = default_groups(net)
    assert list(filters.params) == [net[2].weight]
    assert len({*map(id, filters.params), *map(id, other.params)}) == len(list(net.parameters()))


# -- an installed package, and the documents


def test_an_installed_package_adds_a_net_and_a_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its metadata on the path is what pip leaves behind when it installs one."""
    package = tmp_path / "site"
    info = package / "tiny_nets-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-nets\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[daybreak.nets]\ntiny = tiny_nets:Tiny\n[daybreak.recipes]\ntiny-small = tiny_nets:RECIPE\n"
    )
    (package / "tiny_nets.py").write_text(
        "from torch import nn\nfrom daybreak.core.config import override\nfrom daybreak.recipes import RECIPES\n"
        "class Tiny(nn.Module):\n"
        "    def __init__(self, num_classes, in_channels, depth=1):\n"
        "        super().__init__()\n"
        "        self.body = nn.Sequential(nn.Conv2d(in_channels, 8 * depth, 3), nn.ReLU())\n"
        "        self.head = nn.Linear(8 * depth, num_classes)\n"
        "    def forward(self, x):\n        return self.head(self.body(x).amax((2, 3)))\n"
        "RECIPE = override(RECIPES['small'], {'model.name': 'tiny'}).model_copy(update={'name': 'tiny-small'})\n"
    )
    monkeypatch.syspath_prepend(str(package))
    monkeypatch.chdir(tmp_path)
    assert "tiny-small" in all_recipes()
    run = db.train("digits", recipe="tiny-small", epochs=1, out="run", **OPEN | {"settings": {"model.depth": 2}})
    assert (run.summary.recipe, run.summary.params) == ("tiny-small", 9 * 16 + 16 + 16 * 10 + 10)
    again = db.resume("run", epochs=2, report=False)  # without naming the net: it is installed
    assert [row["epoch"] for row in again.history] == [1, 2]
    assert db.load("run").evaluate(tta="flip").accuracy >= 0
    assert {row["layer"] for row in run.explain(n=1)} == {"body.0", "body.1"}
    assert db.inspect("tiny").params == 9 * 3 * 8 + 8 + 8 * 10 + 10


def files_of_docs() -> dict[str, str]:
    found = re.findall(r"<!-- file: (\S+) -->\n```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    return dict(found)


@pytest.mark.parametrize("name", ["my_net.py", "grouped_net.py", "my_loss.py", "my_augment.py", "my_callback.py"])
def test_the_examples_of_the_docs_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = files_of_docs()
    assert files[name].count("\n") < 20
    for file, text in files.items():
        (tmp_path / file).write_text(text)
    use = DOCS.read_text().split("```python\n")[2].split("```")[0]  # the one below my_net.py
    assert use.startswith("import daybreak as db\nfrom my_net import MyNet\n")
    (tmp_path / "use.py").write_text(use)
    for path in tmp_path.iterdir():
        path.write_text(re.sub(r"epochs=\d", "epochs=1, report=False", path.read_text()))
    monkeypatch.chdir(tmp_path)
    with own_modules(tmp_path):
        runpy.run_path("use.py" if name == "my_net.py" else name, run_name="__main__")
    (run,) = (tmp_path / "runs").iterdir()
    assert RunDirectory.open(run).summary["test_acc"] > 0.1


@contextmanager
def own_modules(folder: Path) -> Iterator[None]:
    """As in a process that was started in this folder."""
    known = set(sys.modules)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name in set(sys.modules) - known:
            if (folder / f"{name}.py").exists():
                del sys.modules[name]


@pytest.mark.slow
def test_the_command_line_takes_modules_of_the_current_directory(tmp_path: Path) -> None:
    for file, text in files_of_docs().items():
        (tmp_path / file).write_text(text)
    code = "import sys; sys.path = [p for p in sys.path if p]; from daybreak.cli import main; main()"
    words = ["train", "digits", "--net", "my_net:MyNet", "--set", "model.width=8", "--epochs", "1", "--out", "run"]
    words += ["--loss", "my_loss:focal_loss", "--callback", "my_callback:StopWhenGood", "--no-report", "--json"]
    command = [sys.executable, "-P", "-c", code, *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["params"] == 9 * 8 + 8 + 16 + 9 * 8 * 16 + 16 + 32 + 16 * 10 + 10
    words = ["predict", "run", "image.png"]
    Image.new("L", (8, 8)).save(tmp_path / "image.png")
    failed = subprocess.run([*command[:4], *words], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert failed.returncode == 4
    assert "--net my_net:MyNet" in failed.stderr
    done = subprocess.run(
        [*command[:4], *words, "--net", "my_net:MyNet"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_broken_package_is_named_with_its_error() -> None:
    with pytest.raises(UsageError) as caught:
        loaded(EntryPoint("tiny", "no_such_package.nets:Tiny", "daybreak.nets"))
    assert str(caught.value) == (
        "tiny of no_such_package.nets:Tiny: No module named 'no_such_package'; try: mend or remove that package"
    )


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a:b", True), ("a.b:c.d", True), ("a", False), ("a:", False), (":a", False), ("a-b:c", False), ("a:b c", False)],
)
def test_the_form_of_an_import_path(name: str, expected: bool) -> None:
    assert is_path(name) == expected
