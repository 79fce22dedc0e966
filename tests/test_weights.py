"""What a net starts from: a run's weights, a file, or what timm has, and nothing that is not what it should be."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import daybreak
from daybreak.core.config import override
from daybreak.core.errors import RunError, UsageError
from daybreak.core.nets import net_config
from daybreak.data import Dataset
from daybreak.models.cut import Cut, pixels_of
from daybreak.models.foreign import imported_library
from daybreak.models.pretrained import pretrain
from daybreak.models.registry import build_net
from daybreak.recipes import RECIPES
from daybreak.runs.datasets import run_dataset
from daybreak.training import features
from daybreak.training.session import initial_net, prepare

timm = imported_library("timm")
CPU = torch.device("cpu")
SMALL: dict[str, Any] = {"epochs": 1, "min_steps": 0, "precision": "float32"}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "cache_dir", lambda: tmp_path / "cache")


def is_taken(name: str) -> bool:
    return not name.startswith("head.") and not name.endswith("num_batches_tracked")


@pytest.fixture
def run(tmp_path: Path) -> daybreak.Run:
    settings = {**SMALL, "epochs": 4, "model.width": 0.25}
    return daybreak.train(
        "digits", recipe="small", settings=settings, net="sprint", device="cpu", out=tmp_path / "run", report=False
    )


def test_a_head_is_trained_on_what_a_run_has_learnt(run: daybreak.Run, tmp_path: Path) -> None:
    found = daybreak.train(
        "digits", recipe="finetune", weights=run.path, device="cpu", out=tmp_path / "head", report=False, size=16,
        settings=SMALL | {"features": 1, "epochs": 10, "schedule.max_lr": 0.02}, seed=3,
    )  # fmt: skip
    before, after = (r.directory.classifier("cpu") for r in (run, found))
    assert found.directory.recipe.model.name == "sprint"
    assert after.normalize == before.normalize
    theirs, ours = before.net.state_dict(), after.net.state_dict()
    assert all(torch.equal(theirs[name], ours[name]) for name in theirs if is_taken(name))
    assert not torch.equal(theirs["head.linear.weight"], ours["head.linear.weight"])
    assert found.summary.test_acc > 0.5
    assert f"--weights {run.path}" in " ".join(found.directory.config["command"])


def test_a_whole_net_is_trained_on_from_there(run: daybreak.Run, digits: Dataset) -> None:
    """The whitening is the run's too, and is not made anew from this data."""
    recipe = override(run.directory.recipe, {"model.weights": str(run.path)})
    made, theirs = prepare(recipe, digits, 7, CPU), run.directory.classifier("cpu")
    state = theirs.net.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in made.net.state_dict().items() if is_taken(name))
    assert not torch.equal(made.net.state_dict()["head.linear.weight"], state["head.linear.weight"])
    assert made.classifier.normalize == theirs.normalize
    fixed = {name for name, p in made.net.named_parameters() if not p.requires_grad}
    assert fixed == {name for name, p in theirs.net.named_parameters() if "norm" in name and "weight" in name} | {
        "whiten.weight"
    }


def test_a_file_alone_keeps_its_whitening_too(run: daybreak.Run, digits: Dataset, tmp_path: Path) -> None:
    """Without the run's card beside it nothing says how images were normalised, but the filters are not made anew."""
    file = tmp_path / "weights.safetensors"
    file.write_bytes((run.path / "model.safetensors").read_bytes())
    made = prepare(override(run.directory.recipe, {"model.weights": str(file)}), digits, 7, CPU)
    whitening = run.directory.classifier("cpu").net.state_dict()["whiten.weight"]
    assert torch.equal(made.net.state_dict()["whiten.weight"], whitening)


def test_a_file_that_is_none_or_of_another_net_is_refused(run: daybreak.Run, tmp_path: Path) -> None:
    net = build_net(net_config("sprint"), 10, 1)
    with pytest.raises(RunError, match=r"whiten.weight is of shape|layer1.conv.weight is of shape"):
        pretrain(net, net_config("sprint", weights=str(run.path)))
    with pytest.raises(RunError, match=r"not the weights of this net: .* is missing; try: the net that they are of"):
        pretrain(build_net(net_config("page"), 10, 1), net_config("page", weights=str(run.path)))
    other = tmp_path / "other.safetensors"
    other.write_bytes(b"no tensors")
    with pytest.raises(RunError, match=r"other.safetensors: cannot be read as safetensors"):
        pretrain(net, net_config("sprint", weights=str(other)))
    with pytest.raises(UsageError, match=r"no such file or run; try: a .safetensors, or a finished run directory"):
        daybreak.train("digits", recipe="small", weights=tmp_path / "nothing", out=tmp_path / "out")


def test_weights_of_a_resumed_run_must_be_the_same(run: daybreak.Run, tmp_path: Path) -> None:
    options: dict[str, Any] = {"recipe": "finetune", "weights": run.path, "device": "cpu", "report": False, "size": 16}
    head = daybreak.train("digits", out=tmp_path / "head", settings=SMALL | {"features": 1}, **options)
    file = run.path / "model.safetensors"
    tensors = run.directory.classifier("cpu").net.state_dict()
    save_file({name: (value * 1.01).to(value.dtype).contiguous() for name, value in tensors.items()}, file)
    with pytest.raises(RunError, match=r"weights is .*, and the run was trained with"):
        daybreak.resume(head.path, epochs=3, report=False)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("source", ["hub", "file"])
def test_trained_weights_of_timm_are_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, channels: int, source: str
) -> None:
    """From a file, or by timm's own code, which fits them to other classes and to grey images: the same file then
    stands for what its hub has."""
    torch.manual_seed(1)
    theirs, create, path = timm.create_model("resnet10t").eval(), timm.create_model, tmp_path / "weights.safetensors"
    save_file(theirs.state_dict(), path)

    def from_file(name: str, **options: Any) -> Any:
        overlay = {"pretrained_cfg_overlay": {"file": str(path)}} if options.get("pretrained") else {}
        return create(name, **options, **overlay)

    monkeypatch.setattr(timm, "create_model", from_file)
    config = net_config("timm:resnet10t", weights="pretrained" if source == "hub" else str(path))
    ours = build_net(config, 10, channels)
    pretrain(ours, config)
    images = torch.randn(2, channels, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = theirs.forward_head(theirs.forward_features(images.expand(-1, 3, -1, -1)), pre_logits=True)
        torch.testing.assert_close(Cut(ours.eval()).below(images), expected, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(Cut(ours).logits(expected), ours(images), atol=1e-4, rtol=1e-4)
    assert pixels_of(ours) == (theirs.pretrained_cfg["mean"], theirs.pretrained_cfg["std"])


def test_a_head_on_a_net_of_timm(tmp_path: Path) -> None:
    torch.manual_seed(1)
    save_file(timm.create_model("resnet10t").state_dict(), tmp_path / "weights.safetensors")
    run = daybreak.train(
        "digits", recipe="finetune", net="timm:resnet10t", weights=tmp_path / "weights.safetensors", device="cpu",
        out=tmp_path / "run", settings=SMALL | {"features": 1}, size=32,
    )  # fmt: skip
    classifier = run.directory.classifier("cpu")
    predictions = run.directory.predictions()
    assert predictions is not None
    found = classifier.logits(run_dataset(run.directory).test.images_NHWC[:20])
    np.testing.assert_allclose(found, predictions.logits[:20], atol=1e-3, rtol=1e-3)
    assert (run.path / "report.html").exists()


def test_weights_that_cannot_be_had_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(name: str, **options: Any) -> Any:
        if options.get("pretrained"):
            raise ConnectionError("no route to host")
        return create(name, **options)

    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", offline)
    config = net_config("timm:resnet10t", weights="pretrained")
    expected = (
        r"cannot be had for timm:resnet10t \(ConnectionError: no route to host\); try: --weights FILE, or --net lite0"
    )
    with pytest.raises(UsageError, match=expected):
        pretrain(build_net(config, 10, 3), config)
    for name, weights in (("sprint", "imagenet"), ("sprint", "pretrained"), ("lite0", "pretrained")):
        config = net_config(name, weights=weights)
        with pytest.raises(UsageError, match=f"there are none for {name}; try: imagenet is of lite0 and lite2, pre"):
            pretrain(build_net(config, 10, 3), config)
    config = net_config("torchvision:resnet18", weights="pretrained")
    with pytest.raises(UsageError, match="not for torchvision:resnet18; try: the same net as timm:NAME"):
        pretrain(build_net(config, 10, 3), config)


def test_a_net_without_weights_is_left_as_it_is(digits: Dataset) -> None:
    plain = initial_net(RECIPES["small"], digits, 0).state_dict()
    torch.manual_seed(0)
    expected = build_net(RECIPES["small"].model, 10, 1).state_dict()
    assert all(torch.equal(plain[name], expected[name]) for name in expected)
