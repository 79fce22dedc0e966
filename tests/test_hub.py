"""What `daybreak export --hub` writes is read back offline, by timm or by daybreak, and answers as the run does."""

import json
import re
import shutil
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard as HubCard
from huggingface_hub import ModelCardData
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import daybreak as db
from daybreak.cli import main
from daybreak.core.errors import RunError, UsageError
from daybreak.core.metrics import softmax
from daybreak.core.nets import NetConfig, net_config
from daybreak.data import Dataset
from daybreak.evaluation.predict import predict
from daybreak.export.bundle import Bundle
from daybreak.export.hub import HubBundle
from daybreak.export.write import export
from daybreak.models import as_timm as as_timm_module
from daybreak.models.as_timm import as_timm
from daybreak.models.cut import pixels_of
from daybreak.models.foreign import imported_library
from daybreak.models.lite import LiteNet
from daybreak.models.pretrained import net_beside, pretrain
from daybreak.models.registry import build_net
from daybreak.runs.datasets import run_dataset
from daybreak.runs.directory import RunDirectory
from daybreak.serve.of_bundle import ServedBundle

timm = imported_library("timm")
FILES = ["README.md", "bundle.json", "config.json", "model.safetensors", "parity.json"]


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No address is looked up and no connection is made."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


def test_the_network_is_refused() -> None:
    with pytest.raises(AssertionError, match="the network was asked"):
        socket.create_connection(("127.0.0.1", 9))
    with pytest.raises(Exception, match="cannot find the requested files in the local cache"):
        timm.create_model("hf-hub:timm/test_resnet.r160_in1k", pretrained=True)


@pytest.fixture(scope="module")
def timm_run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """Its net sees images at the side to which they are decoded."""
    settings = {"model.name": "timm:test_resnet", "precision": "float32", "epochs": 2, "min_steps": 0}
    out = tmp_path_factory.mktemp("timm") / "run"
    return db.train("digits", recipe="small", size=16, settings=settings, device="cpu", report=False, out=out).directory


@pytest.fixture(scope="module")
def images(timm_run: RunDirectory) -> np.ndarray:
    """Its test images."""
    return run_dataset(timm_run).test.images_NHWC


@pytest.fixture(scope="module")
def of_timm(timm_run: RunDirectory) -> Path:
    return db.Run(timm_run).export("hub", license="Apache-2.0")


@pytest.fixture(scope="module")
def of_ours(digits_run: RunDirectory, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(digits_run, "hub", out=tmp_path_factory.mktemp("ours") / "hub")


def probabilities(run: RunDirectory, images_NHWC: np.ndarray) -> np.ndarray:
    return softmax(replace(run.classifier("cpu"), dtype=torch.float32).logits(images_NHWC))


def by_timm(folder: Path, images_NHWC: np.ndarray) -> np.ndarray:
    """Probabilities by timm alone, of images as they would be in files."""
    net = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    prepare = timm.data.create_transform(**timm.data.resolve_model_data_config(net))
    pictures = [Image.fromarray(image.squeeze()) for image in images_NHWC]
    with torch.no_grad():
        found: np.ndarray = net(torch.stack([prepare(picture) for picture in pictures])).softmax(1).numpy()
    return found


def with_net(run: RunDirectory, net: nn.Module, config: NetConfig, path: Path, **card: Any) -> RunDirectory:
    """A copy of the run with another net, as if it had been trained. Its measured results stay those of the run."""
    shutil.copytree(run.path, path)
    copy = RunDirectory(path, run.net_factory)
    copy.write_model(net, replace(run.card, net=config, **card))
    return RunDirectory(path, run.net_factory)


# -- timm's nets ------------------------------------------------------------------------------------------------------


def test_timm_reads_its_net_back_and_says_what_the_run_says(
    of_timm: Path, timm_run: RunDirectory, images: np.ndarray
) -> None:
    expected = probabilities(timm_run, images)
    assert expected.std(0).min() > 0.1  # it has learnt something: equal by chance is unlikely
    assert np.abs(by_timm(of_timm, images) - expected).max() < 1e-5
    wanted = timm.create_model("test_resnet", num_classes=10, in_chans=1).state_dict()
    assert set(load_file(of_timm / "model.safetensors")) == set(wanted)


def test_timms_config_is_that_of_the_run_and_not_of_timms_weights(of_timm: Path, timm_run: RunDirectory) -> None:
    config = json.loads((of_timm / "config.json").read_text())
    names = list(timm_run.card.classes)
    assert (config["architecture"], config["num_classes"], config["label_names"]) == ("test_resnet", 10, names)
    assert (config["num_features"], config["global_pool"]) == (96, "avg")
    assert config["pretrained_cfg"] == {
        "input_size": [1, 16, 16], "fixed_input_size": False, "pool_size": None, "first_conv": "conv1.0",
        "classifier": "fc", "interpolation": "bicubic", "crop_pct": 1.0, "crop_mode": "center", "num_classes": 10,
        "mean": list(timm_run.card.mean), "std": list(timm_run.card.std), "custom_load": False,
    }  # fmt: skip
    net = timm.create_model(f"local-dir:{of_timm}", pretrained=True)
    assert net.pretrained_cfg["label_names"] == names


def test_timms_transform_does_to_square_images_what_training_did(
    of_timm: Path, timm_run: RunDirectory, images: np.ndarray, tmp_path: Path
) -> None:
    files = []
    for side in (5, 13, 40):
        small = Image.fromarray(images[side, :, :, 0])
        files.append(tmp_path / f"{side}.png")
        small.resize((side, side), Image.Resampling.BILINEAR).save(files[-1])
    for file, row in zip(files, predict(timm_run, files, top=1, device="cpu"), strict=True):
        found_K = by_timm(of_timm, np.asarray(Image.open(file))[None])[0]
        assert timm_run.card.classes[found_K.argmax()] == row["top"][0]["class"]
        assert found_K.max() == pytest.approx(row["top"][0]["probability"], abs=1e-5)


def test_of_two_resizings_timms_transform_does_the_second(
    timm_run: RunDirectory, images: np.ndarray, tmp_path: Path
) -> None:
    """Files have the side of the first here. Pillow and PyTorch round bytes differently."""
    run = with_net(timm_run, timm_run.classifier("cpu").net, timm_run.card.net, tmp_path / "run", size=20)
    folder = export(run, "hub", out=tmp_path / "hub")
    expected = probabilities(run, images[:50])
    difference = np.abs(by_timm(folder, images[:50]) - expected).max()
    config = json.loads((folder / "config.json").read_text())
    said = config["pretrained_cfg"]
    assert (said["input_size"], said["interpolation"]) == ([1, 20, 20], "bilinear")
    said["interpolation"] = "bicubic"
    (folder / "config.json").write_text(json.dumps(config))
    assert difference < 0.02 < np.abs(by_timm(folder, images[:50]) - expected).max()
    card = (folder / "README.md").read_text()
    assert "Training resized images to 16 px (bicubic) and then to 20 px (bilinear)" in card


def test_the_cards_python_classifies_an_image(
    of_timm: Path,
    timm_run: RunDirectory,
    images: np.ndarray,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = shutil.copytree(of_timm, tmp_path / "copy")
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    Image.fromarray(images[3, :, :, 0]).save(folder / "image.png")
    monkeypatch.chdir(folder)
    exec(code, {})
    (row,) = predict(timm_run, ["image.png"], top=1, device="cpu")
    label, probability = capsys.readouterr().out.split()
    assert label == row["top"][0]["class"]
    assert float(probability) == pytest.approx(row["top"][0]["probability"], abs=1e-5)


@pytest.mark.parametrize(("name", "folded", "channels"), [("lite0", False, 3), ("lite0", True, 1), ("lite2", True, 3)])
def test_lite_nets_are_timms_to_the_logit(name: str, folded: bool, channels: int) -> None:
    torch.manual_seed(0)
    net = build_net(net_config(name, folded=folded), 5, channels).eval()
    assert isinstance(net, LiteNet)
    for module in net.modules():  # as after a training, so that each of them counts
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.running_var):
                tensor.uniform_(0.5, 1.5)  # type: ignore[union-attr]
        if isinstance(module, nn.BatchNorm2d | nn.Conv2d) and module.bias is not None:
            module.bias.data.uniform_(-0.5, 0.5)
    images = torch.randn(2, channels, 40, 40)
    with torch.no_grad():
        below = net.top(_below_top(net, images)).mean((2, 3))
        net.scale.fit(below + torch.randn_like(below))
        theirs = as_timm(net)
        assert theirs is not None
        assert theirs.pretrained_cfg["architecture"] == f"tf_efficientnet_{name}"
        expected = net(images)
        assert expected.std() > 0.1
        torch.testing.assert_close(theirs(images), expected, atol=1e-4, rtol=1e-4)


def _below_top(net: LiteNet, x: Tensor) -> Tensor:
    for name, part in net.parts().items():
        if name == "top":
            break
        x = part(x)
    return x


def test_a_lite_run_is_written_as_timms_where_timm_has_that_width(
    digits_run: RunDirectory, digits: Dataset, tmp_path: Path
) -> None:
    for width, library in ((1.0, "timm"), (0.25, "daybreak")):
        config = net_config("lite0", weights="none", width=width, folded=True)
        torch.manual_seed(0)
        run = with_net(digits_run, build_net(config, 10, 1).eval(), config, tmp_path / library)
        folder = export(run, "hub", out=tmp_path / f"{library}-hub")
        assert HubCard.load(folder / "README.md").data.library_name == library
        images = digits.test.images_NHWC[:20]
        if library == "timm":
            assert np.abs(by_timm(folder, images) - probabilities(run, images)).max() < 1e-5


# -- daybreak's nets --------------------------------------------------------------------------------------------------


def test_daybreak_reads_its_net_back_and_says_what_the_run_says(
    of_ours: Path, digits_run: RunDirectory, digits: Dataset
) -> None:
    config = json.loads((of_ours / "config.json").read_text())
    assert (config["library_name"], config["architecture"], config["num_classes"]) == ("daybreak", "sprint", 10)
    assert config["classes"] == list(digits_run.card.classes)
    found = HubBundle.open(of_ours).probabilities(digits.test.images_NHWC)
    assert np.abs(found - probabilities(digits_run, digits.test.images_NHWC)).max() < 1e-5


@pytest.mark.parametrize("whose", ["timm", "ours"])
def test_the_commands_take_the_folder(
    whose: str, of_timm: Path, of_ours: Path, timm_run: RunDirectory, digits_run: RunDirectory, digits: Dataset,
    tmp_path: Path, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    folder, run = (of_timm, timm_run) if whose == "timm" else (of_ours, digits_run)
    Image.fromarray(digits.test.images_NHWC[3, :, :, 0]).resize((30, 20)).save(tmp_path / "image.png")
    with pytest.raises(SystemExit) as ended:
        main(["predict", str(folder), str(tmp_path / "image.png"), "--json", "--top", "10"])
    assert ended.value.code == 0
    (want,) = predict(run, [tmp_path / "image.png"], top=10, device="cpu")
    row = json.loads(capsys.readouterr().out)
    assert [t["class"] for t in row["top"]] == [t["class"] for t in want["top"]]
    assert [t["probability"] for t in row["top"]] == pytest.approx([t["probability"] for t in want["top"]], abs=1e-5)
    assert row["energy"] == pytest.approx(want["energy"], abs=1e-4)
    served = ServedBundle(HubBundle.open(folder))
    image_HWC = served.decode((tmp_path / "image.png").read_bytes())
    assert served.classify(image_HWC[None])[0].max() == pytest.approx(row["top"][0]["probability"], abs=1e-6)
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", str(folder), "--json"])
    assert ended.value.code == 0
    assert json.loads(capsys.readouterr().out)["test_acc"] == run.summary["test_acc"]


class OwnNet(nn.Module):
    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv2d(in_channels, 6, 3), nn.Linear(6, num_classes)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        logits: Tensor = self.out(self.conv(images_NCHW).relu().mean((2, 3)))
        return logits


def test_somebodys_own_net_is_asked_for_by_name(
    digits_run: RunDirectory, digits: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    made = with_net(digits_run, OwnNet(10, 1), net_config("test_hub:OwnNet"), tmp_path / "run")
    run = RunDirectory(made.path, OwnNet)
    folder = export(run, "hub", out=tmp_path / "hub")
    with pytest.raises(RunError, match="a run directory imports nothing"):
        HubBundle.open(folder).load()
    Image.fromarray(digits.test.images_NHWC[3, :, :, 0]).save(tmp_path / "image.png")
    with pytest.raises(SystemExit) as ended:
        main(["predict", str(folder), str(tmp_path / "image.png"), "--json", "--net", "test_hub:OwnNet"])
    assert ended.value.code == 0
    row = json.loads(capsys.readouterr().out)
    expected = probabilities(run, digits.test.images_NHWC[3:4]).max()
    assert row["top"][0]["probability"] == pytest.approx(expected, abs=1e-5)


def test_a_shared_net_can_be_started_from(
    of_ours: Path, of_timm: Path, digits_run: RunDirectory, timm_run: RunDirectory
) -> None:
    config = net_config("timm:test_resnet", weights=str(of_timm))
    net, trained = build_net(config, 10, 1), timm_run.classifier("cpu").net
    pretrain(net, config)
    assert pixels_of(net) == (timm_run.card.mean, timm_run.card.std)
    assert torch.equal(net.state_dict()["net.conv1.0.weight"], trained.state_dict()["net.conv1.0.weight"])
    assert net_beside(of_ours / "model.safetensors") == net_beside(digits_run.path / "model.safetensors") | {
        "weights": "none"
    }


# -- the card ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("whose", ["timm", "ours"])
def test_the_hub_reads_the_card(whose: str, of_timm: Path, of_ours: Path) -> None:
    folder = of_timm if whose == "timm" else of_ours
    parity = json.loads((folder / "parity.json").read_text())
    card = HubCard.load(folder / "README.md")
    assert isinstance(card.data, ModelCardData)
    assert card.data.license == ("apache-2.0" if whose == "timm" else "unknown")
    assert card.data.library_name == ("timm" if whose == "timm" else "daybreak")
    assert card.data.pipeline_tag == "image-classification"
    assert card.data.tags == ["image-classification", *(["timm"] if whose == "timm" else []), "daybreak"]
    accuracy, f1 = card.data.eval_results
    assert (accuracy.task_type, accuracy.dataset_type, accuracy.dataset_split) == (
        "image-classification", "digits", "test",
    )  # fmt: skip
    assert (accuracy.metric_type, accuracy.metric_value) == ("accuracy", pytest.approx(parity["accuracy"], abs=5e-5))
    facts = json.loads((folder / "bundle.json").read_text())
    assert (f1.metric_type, f1.metric_value) == ("f1", pytest.approx(facts["results"]["macro_f1"], abs=5e-5))
    assert parity["largest_difference"] < 1e-5


def test_the_folder_holds_what_the_hub_expects_and_the_card_may_be_edited(
    of_ours: Path, of_timm: Path, tmp_path: Path
) -> None:
    for folder in (of_ours, of_timm):
        assert sorted(path.name for path in folder.iterdir()) == FILES
        assert len({path.stat().st_mode for path in folder.iterdir()}) == 1  # whoever may read one may read all
    copy = shutil.copytree(of_ours, tmp_path / "copy")
    (copy / "README.md").write_text("# Digits\n")
    (copy / ".gitattributes").write_text("*.safetensors filter=lfs\n")
    assert HubBundle.open(copy).load().classes[:2] == ("0", "1")
    (copy / "config.json").write_text((copy / "config.json").read_text() + " ")
    with pytest.raises(RunError, match=r"config\.json: not what was exported"):
        HubBundle.open(copy)
    with pytest.raises(RunError, match="--format onnx"):
        Bundle.open(of_ours)


@pytest.mark.parametrize("form", ["hub", "safetensors"])
def test_no_file_names_a_place_on_this_machine(form: str, digits_run: RunDirectory, tmp_path: Path) -> None:
    net = digits_run.classifier("cpu").net
    config = digits_run.card.net.model_copy(update={"weights": str(tmp_path / "before" / "model.safetensors")})
    run = with_net(digits_run, net, config, tmp_path / "run")
    assert str(tmp_path) in (run.path / "model.json").read_text()
    folder = export(run, form, out=tmp_path / "bundle")  # type: ignore[arg-type]
    for path in folder.iterdir():
        assert str(tmp_path).encode() not in path.read_bytes(), path
        assert str(Path.home()).encode() not in path.read_bytes(), path


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("whose", ["timm", "ours"])
def test_a_folder_that_answers_otherwise_is_not_written(
    whose: str, timm_run: RunDirectory, digits_run: RunDirectory, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Its weights are changed on the way into the file."""
    from daybreak.export import hub

    def changed(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        last = [name for name, tensor in tensors.items() if tensor.dim() == 2][-1]
        save_file(tensors | {last: tensors[last] * 1.05}, folder / "model.safetensors")

    def write(*arguments: Any) -> None:
        hub_write(*arguments)
        changed(arguments[-1])

    hub_write = hub.write_hub
    monkeypatch.setattr("daybreak.export.write.write_hub", write)
    run = timm_run if whose == "timm" else digits_run
    with pytest.raises(SystemExit) as ended:
        main(["export", str(run.path), "--hub", "--out", str(tmp_path / "hub")])
    assert ended.value.code == 4
    assert "probabilities differ by up to" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--format", "onnx"], "has its own format"),
        (["--format", "pt2"], "has its own format"),
        (["--int8"], "only ONNX has it, not hub"),
    ],
)
def test_options_that_contradict_the_layout_are_one_line(
    options: list[str], why: str, digits_run: RunDirectory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["export", str(digits_run.path), "--hub", *options, "--out", str(tmp_path / "hub")])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert why in said
    assert said.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_what_timm_cannot_write_or_read_is_one_line(
    timm_run: RunDirectory, of_timm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise ValueError("Model argument 'act' is not serializable\n")

    monkeypatch.setattr(timm.models, "save_for_hf", fails)
    with pytest.raises(UsageError, match="timm cannot write this net") as caught:
        export(timm_run, "hub", out=tmp_path / "hub")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    copy = shutil.copytree(of_timm, tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    no_mean = {"pretrained_cfg": config["pretrained_cfg"] | {"mean": "abc"}}
    for change, why in (({"architecture": "no_such_net"}, "cannot be loaded by timm"), (no_mean, "cannot be used")):
        (copy / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(RunError, match=why) as refused:
            HubBundle(copy, HubBundle.open(of_timm).facts).load()
        assert "\n" not in str(refused.value)


def test_without_timm_its_nets_are_refused_and_ours_are_not(
    of_timm: Path, digits_run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> None:
        raise UsageError(f"model.name {name}:…", f"{name} is not installed", f"pip install {name}")

    monkeypatch.setattr(as_timm_module, "imported_library", missing)
    with pytest.raises(UsageError, match="timm is not installed"):
        HubBundle.open(of_timm).load()
    assert HubBundle.open(export(digits_run, "hub", out=tmp_path / "hub")).load().classes == digits_run.card.classes
