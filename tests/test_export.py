"""Bundles: what was exported answers as the run does, without daybreak, without torch, and for images of any size."""

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from families import with_large_ones_slow
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import daybreak as db
from daybreak.cli import main
from daybreak.core.config import override
from daybreak.core.errors import DataError, RunError, UsageError
from daybreak.core.metrics import softmax
from daybreak.core.options import TrainOptions
from daybreak.data import Dataset, open_dataset
from daybreak.data.image import DecodeSpec, fit
from daybreak.evaluation.predict import predict
from daybreak.export import write
from daybreak.export.answering import answering
from daybreak.export.bundle import Bundle
from daybreak.export.card import cell, quoted
from daybreak.export.formats import read_pt2, write_onnx, write_pt2
from daybreak.export.parity import LOSS, TOLERANCE, Parity
from daybreak.export.resampling import cubic, in_sixteen_bits, resample, triangle, weights
from daybreak.export.write import export
from daybreak.models.registry import NETS, build_net
from daybreak.recipes import RECIPES
from daybreak.runs.card import ModelCard
from daybreak.runs.classifier import Classifier
from daybreak.runs.directory import RunDirectory
from daybreak.runs.transforms import Normalizer, resize
from daybreak.training.train import train

CPU = torch.device("cpu")
NET_SETTINGS: dict[str, dict[str, Any]] = {name: {"model.weights": "none"} for name in ("lite0", "lite2")}
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def bundle(digits_run: RunDirectory, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(digits_run, out=tmp_path_factory.mktemp("export") / "bundle", license="mit")


@pytest.fixture(scope="module")
def pictures(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A few test images as files, among them larger ones, oblong, turned, transparent, and in colour."""
    folder, files = tmp_path_factory.mktemp("pictures"), []
    for n in range(6):
        image = Image.fromarray(digits.test.images_NHWC[n, :, :, 0])
        changed = [
            image,
            image.resize((40, 40)),
            image.resize((60, 35)),
            image.rotate(90),
            image.convert("RGBA"),
            image.convert("RGB").resize((11, 30)),
        ][n]
        files.append(folder / f"{n}.png")
        changed.save(files[-1])
    return files


# -- one graph --------------------------------------------------------------------------------------------------------


def card_for(classes: int, size: int = 32, decoded: int = 32, channels: int = 3) -> ModelCard:
    names = tuple(f"class {k}" for k in range(classes))
    recipe = RECIPES["small"]
    return ModelCard(
        recipe.model, names, size, DecodeSpec(decoded, channels), (0.4,) * channels, (0.3,) * channels, "float32"
    )


def noise(count: int, side: int, channels: int = 3) -> np.ndarray:
    """Images of large and small patterns, uint8 (N, side, side, C)."""
    coarse = RNG.integers(0, 200, (count, 4, 4, channels)).repeat(-(-side // 4), 1).repeat(-(-side // 4), 2)
    return (coarse[:, :side, :side] + RNG.integers(0, 56, (count, side, side, channels))).astype(np.uint8)


def expected(net: torch.nn.Module, card: ModelCard, images_NHWC: np.ndarray) -> np.ndarray:
    """By the way of every other command."""
    normalize = Normalizer(card.mean, card.std)
    return softmax(Classifier(net, card.classes, card.size, normalize, CPU, torch.float32).logits(images_NHWC))


@pytest.fixture(scope="module")
def large_digits() -> Dataset:
    return open_dataset("digits", size=16)


@pytest.mark.parametrize("name", with_large_ones_slow(NETS))
def test_every_net_of_the_family_answers_the_same_as_a_graph(name: str, large_digits: Dataset, tmp_path: Path) -> None:
    """After some steps of training: norms that do nothing would hide what folding does wrong."""
    length = {"steps": 8, "batch_size": 32, "precision": "float32", "schedule.max_lr": 0.01}
    made = override(RECIPES["page"], {"model.name": name, **NET_SETTINGS.get(name, {}), "model.width": 0.25, **length})
    options = TrainOptions(device="cpu", report=False, checkpoint_every="never")
    run = train(made, large_digits, tmp_path / "run", options)
    bundle = export(run, out=tmp_path / "bundle")
    parity = json.loads((bundle / "parity.json").read_text())
    spread = Bundle.open(bundle).probabilities(large_digits.test.images_NHWC[:50]).std(0).max()
    assert 1e-8 < parity["largest_difference"] < min(TOLERANCE / 3, spread / 50)  # so that it is that of every image


@pytest.mark.parametrize("form", ["onnx", "pt2"])
def test_one_graph_takes_images_of_any_size_and_number(form: str, digits_run: RunDirectory, tmp_path: Path) -> None:
    """Resized inside the graph they are nearly what Pillow makes of them, which predict.py uses."""
    net = answering(digits_run.classifier("cpu").net, digits_run.card)
    ask: Callable[[np.ndarray], np.ndarray]
    if form == "onnx":
        write_onnx(net, 1, {}, tmp_path / "net")
        session = onnxruntime.InferenceSession(tmp_path / "net")
        ask = lambda images: session.run(["probabilities"], {"images": images})[0]  # noqa: E731
    else:
        write_pt2(net, 1, tmp_path / "net")
        program = read_pt2(tmp_path / "net")
        ask = lambda images: program(torch.from_numpy(images))[0].numpy()  # noqa: E731
    spec = digits_run.card.decode
    for count, height, width in ((1, 8, 8), (3, 8, 8), (1, 40, 40), (2, 64, 31), (5, 9, 200), (1, 3, 5)):
        small = RNG.integers(0, 256, (count, 6, 6), dtype=np.uint8)
        images = np.stack([np.asarray(Image.fromarray(one).resize((width, height))) for one in small])
        fitted = np.stack([fit(Image.fromarray(one), spec) for one in images])
        wanted = expected(digits_run.classifier("cpu").net, digits_run.card, fitted)
        found = ask(images[..., None])
        assert np.abs(found - wanted).max() < (1e-5 if height == width == spec.size else 0.05)


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 40), st.integers(2, 40), st.sampled_from([8, 13]), st.integers(0, 2**32 - 1))
def test_resizing_in_the_graph_is_that_of_pillow(height: int, width: int, side: int, seed: int) -> None:
    """To the last level but for ties. Pillow may take tall images across first, if that is cheaper: then it rounds
    other values in between."""
    image = np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)
    square = min(height, width)
    rows = weights(cubic, height, (height - square) // 2, square, side)
    columns = weights(cubic, width, (width - square) // 2, square, side)
    found = resample(torch.from_numpy(image)[None, None].float(), rows, columns)[0, 0].numpy()
    difference = np.abs(found - fit(Image.fromarray(image), DecodeSpec(side, 1))[:, :, 0])
    assert difference.max() <= (1 if height <= width else 40)
    assert difference.mean() <= (0.05 if height <= width else 4)  # three ties of 64 pixels
    if height == width == side:
        assert not difference.any()


@settings(max_examples=40, deadline=None)
@given(st.integers(8, 90), st.integers(8, 90), st.integers(0, 2**32 - 1))
def test_the_second_resizing_is_that_of_training_to_the_bit(before: int, after: int, seed: int) -> None:
    images = torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (2, before, before, 3), dtype=np.uint8))
    between = in_sixteen_bits(weights(triangle, before, 0, before, after))
    found = resample(images.permute(0, 3, 1, 2).float(), between, between)
    assert torch.equal(found, resize(images, after).permute(0, 3, 1, 2).float())


def test_a_net_that_sees_smaller_images_than_were_decoded_answers_the_same(tmp_path: Path) -> None:
    """Two roundings after each other; one level more or less in one pixel is within the tolerance."""
    torch.manual_seed(0)
    net = build_net(override(RECIPES["sprint"], {"model.width": 0.25}).model, 5, 3).eval()
    card = card_for(5, size=20, decoded=28)
    images = noise(20, 28)
    write_onnx(answering(net, card), 3, {}, tmp_path / "net.onnx")
    found = onnxruntime.InferenceSession(tmp_path / "net.onnx").run(["probabilities"], {"images": images})[0]
    assert np.abs(found - expected(net, card, images)).max() < TOLERANCE


# -- the bundle -------------------------------------------------------------------------------------------------------


def test_a_bundle_says_what_the_run_says(bundle: Path, digits_run: RunDirectory, pictures: list[Path]) -> None:
    rows = list(Bundle.open(bundle).predict(pictures, top=10, reject=0.5))
    wanted = list(predict(digits_run, pictures, top=10, reject=0.5, device="cpu"))
    for row, want in zip(rows, wanted, strict=True):
        assert (row["file"], row["unknown"]) == (want["file"], want["unknown"])
        assert [t["class"] for t in row["top"]] == [t["class"] for t in want["top"]]
        assert [t["probability"] for t in row["top"]] == pytest.approx(
            [t["probability"] for t in want["top"]], abs=1e-5
        )
        assert row["energy"] == pytest.approx(want["energy"], abs=1e-4)


def test_a_bundle_is_evaluated_as_the_run_is(bundle: Path, digits_run: RunDirectory) -> None:
    found, run = Bundle.open(bundle).evaluate(), db.Run(digits_run).evaluate(tta="none")
    assert found.accuracy == run.accuracy
    assert found.confusion.tolist() == run.confusion.tolist()
    assert found.loss == pytest.approx(run.loss, abs=1e-4)
    assert found.ece == pytest.approx(run.ece, abs=1e-4)


def test_a_call_takes_as_many_threads_as_it_is_told(bundle: Path) -> None:
    facts = Bundle.open(bundle).facts
    found = [Bundle(bundle, facts, n).load()._session.get_session_options().intra_op_num_threads for n in (1, 2, None)]
    assert found == [1, 2, 0]  # 0: what the library takes


def test_a_bundle_describes_itself(bundle: Path, digits_run: RunDirectory) -> None:
    facts = json.loads((bundle / "bundle.json").read_text())
    parity = json.loads((bundle / "parity.json").read_text())
    card = (bundle / "README.md").read_text()
    assert sorted(facts["files"]) == ["README.md", "image.py", "model.onnx", "parity.json", "predict.py"]
    assert facts["classes"] == list(digits_run.card.classes)
    assert parity["images"] == len(db.Run(digits_run).evaluate().labels_N)
    assert parity["changed"] == 0
    assert parity["largest_difference"] < 1e-5
    assert parity["accuracy"] == parity["run_accuracy"] == digits_run.summary["test_acc"]
    assert set(parity["milliseconds"]) == {"1", "64"}
    assert f"| accuracy | {100 * parity['accuracy']:.2f} % |" in card
    assert 'license: "mit"' in card
    for score in db.Run(digits_run).evaluate(tta="none").per_class:
        assert (
            f"| {score.name} | {score.images} | {score.precision:.3f} | {score.recall:.3f} | {score.f1:.3f} |" in card
        )
    assert str(Path.home()) not in json.dumps(facts) + card  # nor any other place on this machine
    assert str(digits_run.path) not in json.dumps(facts) + card
    model = onnx.load(bundle / "model.onnx")
    said = json.loads(next(p.value for p in model.metadata_props if p.key == "daybreak"))
    assert said["classes"] == facts["classes"]
    assert model.opset_import[0].version == 20


def test_names_of_classes_mean_nothing_to_markdown_or_yaml() -> None:
    assert cell("a|b [x](y)") == r"a\|b \[x\]\(y\)"
    assert "\n" not in cell("a\nb")
    assert quoted('a"b\\c') == r'"a\"b\\c"'


def test_classes_whose_names_are_no_text_go_out_as_a_line(digits_run: RunDirectory, tmp_path: Path) -> None:
    run = shutil.copytree(digits_run.path, tmp_path / "run")
    card = json.loads((run / "model.json").read_text())
    card["classes"][:2] = ["caf\udce9", "a\nb|c"]
    (run / "model.json").write_text(json.dumps(card))
    bundle = Bundle.open(export(RunDirectory.open(run), out=tmp_path / "bundle"))
    assert bundle.classes[:3] == ("caf\\xe9", "a\\nb|c", "2")
    assert "a\\\\nb\\|c" in (tmp_path / "bundle" / "README.md").read_text()


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python with numpy, Pillow and onnxruntime, and nothing else."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, with_pip=False)
    here = Path(np.__file__).parent.parent
    there = next(folder.glob("lib/python*/site-packages"))
    for name in ("numpy", "numpy.libs", "PIL", "pillow.libs", "onnxruntime"):
        if (here / name).exists():
            (there / name).symlink_to(here / name)
    return folder / "bin" / "python"


def test_a_stranger_needs_no_daybreak_and_no_torch(
    bundle: Path, bare_python: Path, digits_run: RunDirectory, pictures: list[Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(bundle, tmp_path / "elsewhere")
    hidden = subprocess.run([bare_python, "-c", "import torch"], capture_output=True, check=False)
    assert hidden.returncode == 1
    text = tmp_path / "notes.png"
    text.write_text("no image")
    done = subprocess.run(
        [bare_python, folder / "predict.py", *pictures, text], capture_output=True, text=True, check=False
    )
    assert done.returncode == 3
    assert f"error: {text}: not an image" in done.stderr
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    for row, want in zip(rows, predict(digits_run, pictures, top=1, device="cpu"), strict=True):
        assert row[:2] == [want["file"], want["top"][0]["class"]]
        assert float(row[2]) == pytest.approx(want["top"][0]["probability"], abs=1e-5)
    assert subprocess.run([bare_python, folder / "predict.py"], capture_output=True, check=False).returncode == 2


@pytest.mark.parametrize("verb", [["predict"], ["evaluate"]])
def test_the_commands_import_no_torch_for_a_bundle(verb: list[str], bundle: Path, pictures: list[Path]) -> None:
    code = (
        "import sys\n"
        "class Refuse:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('torch', 'matplotlib'): raise ImportError('REFUSED ' + name)\n"
        "sys.meta_path.insert(0, Refuse())\n"
        "from daybreak.cli import main\n"
        "main(sys.argv[1:])\n"
    )
    files = [str(file) for file in pictures] if verb == ["predict"] else []
    line = [sys.executable, "-c", code, *verb, str(bundle), *files]
    done = subprocess.run(line, capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") >= len(files)
    refused = subprocess.run([*line[:3], "inspect", "page"], capture_output=True, text=True, check=False)
    assert "REFUSED torch" in refused.stderr  # the refusal works


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["onnx", "pt2", "safetensors"])
def test_a_model_that_answers_otherwise_leaves_nothing(
    form: str, digits_run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(answer: Callable[[np.ndarray], np.ndarray], images: np.ndarray, block: int) -> np.ndarray:
        found = real(answer, images, block)
        found[5] = np.roll(found[5], 1)
        return found

    real = write.in_blocks
    monkeypatch.setattr(write, "in_blocks", wrong)
    with pytest.raises(RunError, match="1 answers changed"):
        export(digits_run, form, out=tmp_path / "bundle")  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(write, "in_blocks", real)
    assert export(digits_run, form, out=tmp_path / "bundle").is_dir()  # type: ignore[arg-type]


def test_parity_counts_what_changed_and_forgives_ties() -> None:
    labels = np.array([0, 1, 1, 0])
    run = np.array([[0.9, 0.1], [0.2, 0.8], [0.50002, 0.49998], [0.6, 0.4]])
    tie = run + np.array([[0, 0], [0, 0], [-4e-5, 4e-5], [0, 0]])
    found = Parity.of(run, tie, labels)
    assert (found.changed, found.changed_apart) == (1, 0)
    assert (found.run_accuracy, found.accuracy) == (0.75, 1.0)
    assert found.largest_difference == pytest.approx(4e-5)
    found.check("x", is_int8=False)
    for broken in (run + np.array([[2e-4, 0], [0, 0], [0, 0], [0, 0]]), np.full((4, 2), np.nan)):
        with pytest.raises(RunError, match="differ by up to"):
            Parity.of(run, broken, labels).check("x", is_int8=False)


def test_eight_bits_may_cost_half_a_point() -> None:
    Parity(1000, 0.3, 50, 50, 0.9, 0.9 - LOSS + 1e-9).check("x", is_int8=True)
    with pytest.raises(RunError, match=r"cost 0\.60 points"):
        Parity(1000, 0.3, 50, 50, 0.9, 0.894).check("x", is_int8=True)


def test_eight_bits_are_eight_bits(digits_run: RunDirectory, bundle: Path, tmp_path: Path) -> None:
    small = export(digits_run, int8=True, out=tmp_path / "int8")
    model = onnx.load(small / "model.onnx")
    kinds = [node.op_type for node in model.graph.node]
    assert "DequantizeLinear" in kinds
    weights = [t for t in model.graph.initializer if t.data_type == onnx.TensorProto.INT8 and len(t.dims) == 4]
    convolutions = kinds.count("Conv")
    assert len(weights) == convolutions - 1  # all but the first
    assert max(np.abs(onnx.numpy_helper.to_array(t)).max() for t in weights) <= 64  # seven bits: no overflow anywhere
    parity = json.loads((small / "parity.json").read_text())
    assert parity["run_accuracy"] - parity["accuracy"] <= LOSS
    assert parity["largest_difference"] > 1e-5  # it is another net
    assert (small / "model.onnx").stat().st_size < 0.5 * (bundle / "model.onnx").stat().st_size
    with pytest.raises(UsageError, match="--int8"):
        export(digits_run, "pt2", int8=True, out=tmp_path / "pt2")


def test_what_is_there_is_left_alone(digits_run: RunDirectory, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(UsageError, match="exists"):
        export(digits_run, out=tmp_path / "there")
    with pytest.raises(UsageError, match="onnx, pt2, safetensors"):
        export(digits_run, "tflite")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["model.onnx", "predict.py", "image.py", "README.md"])
def test_an_edited_bundle_is_refused(name: str, bundle: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(bundle, tmp_path / "copy")
    assert Bundle.open(copy).classes
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(RunError, match=f"{name}: not what was exported"):
        Bundle.open(copy)


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_hostile_facts_are_refused_in_a_line(bundle: Path, data: st.DataObject) -> None:
    facts = json.loads((bundle / "bundle.json").read_text())
    key = data.draw(st.sampled_from(sorted(facts)))
    values = st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=3),
        lambda s: st.lists(s) | st.dictionaries(st.text(), s),
    )
    facts[key] = data.draw(values)
    folder = bundle.parent / "hostile"
    folder.mkdir(exist_ok=True)
    for file in bundle.iterdir():
        if not (folder / file.name).exists():
            (folder / file.name).symlink_to(file)
    (folder / "bundle.json").unlink(missing_ok=True)
    (folder / "bundle.json").write_text(json.dumps(facts))
    with contextlib.suppress(RunError, DataError):
        list(Bundle.open(folder).predict([], top=1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": {"how": {"x": 1}}}, "cannot be read"),
        ({"files": {"model.onnx": "", "a\0b": ""}}, "not what was exported"),
        ({"format": 2}, "another version"),
    ],
)
def test_a_strangers_facts_are_checked(change: dict[str, Any], message: str, bundle: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(bundle, tmp_path / "copy")
    facts = json.loads((copy / "bundle.json").read_text())
    for key, value in change.items():
        facts[key] = facts[key] | value if isinstance(value, dict) else value
    (copy / "bundle.json").write_text(json.dumps(facts))
    with pytest.raises(RunError, match=message):
        Bundle.open(copy)


def test_a_strangers_bundle_opens_no_place_on_this_machine(bundle: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(bundle, tmp_path / "copy")
    facts = json.loads((copy / "bundle.json").read_text())
    facts["data"]["name"] = str(tmp_path)
    (copy / "bundle.json").write_text(json.dumps(facts))
    with pytest.raises(UsageError, match="--data DATA"):
        Bundle.open(copy).evaluate()


def test_a_graph_that_is_not_ours_is_refused(bundle: Path, tmp_path: Path) -> None:
    """One with another number of classes than the facts say, and what is no graph."""
    copy = shutil.copytree(bundle, tmp_path / "copy")
    facts = json.loads((copy / "bundle.json").read_text())
    (copy / "bundle.json").write_text(json.dumps(facts | {"classes": facts["classes"][:9]}))
    with pytest.raises(RunError, match="does not answer with its classes"):
        Bundle.open(copy).probabilities(np.zeros((1, 8, 8, 1), np.uint8))
    (copy / "model.onnx").write_bytes(b"no graph")
    facts["files"]["model.onnx"] = hashlib.sha256(b"no graph").hexdigest()
    (copy / "bundle.json").write_text(json.dumps(facts))
    with pytest.raises(RunError, match="cannot be loaded"):
        Bundle.open(copy).load()


def test_what_onnx_cannot_say_is_a_line(
    digits_run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("no such operation")

    monkeypatch.setattr(torch.onnx, "export", fails)
    with pytest.raises(UsageError, match="cannot be written as a graph"):
        export(digits_run, out=tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def test_files_outside_the_bundle_are_not_read(bundle: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(bundle, tmp_path / "copy")
    facts = json.loads((copy / "bundle.json").read_text())
    facts["files"]["../outside"] = "0" * 64
    (copy / "bundle.json").write_text(json.dumps(facts))
    with pytest.raises(RunError, match="outside"):
        Bundle.open(copy)


def test_bare_weights_are_no_graph_to_ask(digits_run: RunDirectory, tmp_path: Path) -> None:
    folder = export(digits_run, "safetensors", out=tmp_path / "bundle")
    assert {path.name for path in folder.iterdir()} == {
        "README.md", "bundle.json", "model.json", "model.safetensors", "parity.json",
    }  # fmt: skip
    with pytest.raises(RunError, match="--format onnx"):
        Bundle.open(folder)


def test_the_command_says_what_was_measured(
    digits_run: RunDirectory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "bundle"
    with pytest.raises(SystemExit) as ended:
        main(["export", str(digits_run.path), "--out", str(out), "--json"])
    assert ended.value.code == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["bundle"] == str(out)
    assert printed["changed"] == 0
    with pytest.raises(SystemExit) as ended:
        main(["export", str(digits_run.path), "--out", str(out)])
    assert ended.value.code == 2
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", str(out), "--tta", "flip"])
    assert ended.value.code == 2
    assert "whose net is as it was exported" in capsys.readouterr().err
