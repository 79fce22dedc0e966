"""Which way a convolution takes, who decides it, and that a run keeps to it."""

import copy
import json
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from daybreak.core.config import Recipe, override
from daybreak.core.errors import UsageError
from daybreak.core.nets import net_config
from daybreak.core.options import TrainOptions
from daybreak.data import Dataset
from daybreak.models.anatomy.folding import fold_batch_norms
from daybreak.models.anatomy.trace import symbolic
from daybreak.models.layers import Chain, Conv3x3, conv3x3, named, use_convolutions
from daybreak.models.registry import NETS, build_net
from daybreak.models.winograd import choice
from daybreak.models.winograd.choice import DIRECT, Convolutions
from daybreak.recipes import RECIPES
from daybreak.runs.directory import RunDirectory
from daybreak.runs.predictions import Predictions
from daybreak.training import state
from daybreak.training.train import resume, train

F4 = "F(4×4, 3×3)"
X, WEIGHT = torch.randn(64, 32, 16, 16), torch.randn(64, 32, 3, 3)
SHAPE = "32→64 at 16×16"


Asked = list[tuple[Any, ...]]


@pytest.fixture
def decided(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Asked:
    """The shapes that were timed; F(4×4) always wins."""
    assert not cache.exists()
    asked: Asked = []

    def decide(*shape: Any) -> str:
        asked.append(shape)
        return F4

    monkeypatch.setattr(choice, "fastest", decide)
    return asked


def recipe(**settings: object) -> Recipe:
    """Four epochs of 1,437 digits with a net just wide enough for minimal filtering to be worth a thought."""
    small = {"model.width": 0.5, "epochs": 2, "min_steps": 0, "batch_size": 128, "precision": "float32"}
    return override(RECIPES["small"], small | settings)


def predicted(run: RunDirectory) -> Predictions:
    found = run.predictions()
    assert found is not None
    return found


def logits(run: RunDirectory, dataset: Dataset) -> np.ndarray:
    """Of the test images, computed by the net as it is loaded."""
    return run.classifier("cpu").logits(dataset.test.images_NHWC)


# The layer


def test_a_layer_is_direct_until_it_is_told_otherwise() -> None:
    layer = conv3x3(32, 64)
    assert isinstance(layer, Conv3x3)
    assert torch.equal(layer(X), nn.functional.conv2d(X, layer.weight, padding=1))


@pytest.mark.parametrize("bias", [False, True])
def test_both_ways_have_the_same_values_and_names(bias: bool) -> None:
    layer = conv3x3(32, 64, bias=bias)
    direct = layer(X)
    use_convolutions(layer, convolutions := Convolutions("winograd"))
    other = layer(X)
    assert convolutions.chosen == {SHAPE: F4}
    assert not torch.equal(other, direct)  # it did go another way
    assert torch.allclose(other, direct, atol=1e-5)
    assert list(layer.state_dict()) == (["weight", "bias"] if bias else ["weight"])


def test_under_autocast_it_computes_in_bfloat16() -> None:
    layer = conv3x3(32, 64, bias=True)
    use_convolutions(layer, convolutions := Convolutions("winograd"))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = layer(X)
    assert convolutions.chosen == {f"{SHAPE}, bfloat16": F4}
    assert found.dtype == torch.bfloat16
    assert (found.float() - nn.functional.conv2d(X, layer.weight, layer.bias, padding=1)).norm() < 0.03 * found.norm()


@pytest.mark.parametrize(
    ("x", "weight"),
    [
        (torch.randn(1, 32, 16, 16), WEIGHT),  # one image: few tiles
        (torch.randn(64, 4, 16, 16), torch.randn(64, 4, 3, 3)),  # few channels
        (torch.randn(64, 16, 4, 4), torch.randn(16, 16, 3, 3)),  # little work
        (X.double(), WEIGHT.double()),  # another number format
        (X.to("meta"), WEIGHT.to("meta")),  # another device
    ],
)
def test_what_cannot_gain_is_direct_and_not_timed(decided: Asked, x: torch.Tensor, weight: torch.Tensor) -> None:
    assert Convolutions("auto").way_for(x, weight, x.dtype) is None
    assert Convolutions("auto").way_for(X, WEIGHT, X.dtype) is not None  # the control
    assert len(decided) == 1


def test_a_program_that_is_written_down_has_plain_convolutions() -> None:
    layer = conv3x3(32, 64)
    use_convolutions(layer, Convolutions("winograd"))
    traced = torch.jit.trace(layer, X)
    assert "_convolution" in str(traced.graph)
    exported = torch.export.export(layer, (X,))
    assert "conv2d" in str(exported.graph)


@pytest.mark.parametrize("name", sorted({*NETS} - {"lite0", "lite2"}))  # whose convolutions are depthwise
def test_every_net_of_the_family_uses_it(name: str) -> None:
    net = build_net(net_config(name, width=0.5), 10, 3)
    use_convolutions(net, convolutions := Convolutions("winograd"))
    images = torch.randn(16, 3, 32, 32)
    net.eval()
    with torch.no_grad():
        found = net(images)
        use_convolutions(net, Convolutions("direct"))
        direct = net(images)
    assert (F4 in convolutions.chosen.values()) == (name != "resnext29")  # whose 3×3 are in groups, but the first
    assert (found - direct).norm() < 1e-4 * direct.norm()


def test_copies_of_a_net_go_the_same_ways() -> None:
    net = build_net(net_config("sprint", activation="silu"), 10, 3).eval()
    use_convolutions(net, convolutions := Convolutions("winograd"))
    for other in (copy.deepcopy(net), fold_batch_norms(net)):
        ways = {id(m.convolutions) for m in other.modules() if isinstance(m, Conv3x3)}
        assert ways == {id(convolutions)}


# The choice


def test_a_shape_is_timed_once_a_machine(decided: Asked, cache: Path) -> None:
    for _ in range(2):  # two processes, as far as this is concerned
        convolutions = Convolutions("auto")
        for _ in range(2):
            way = convolutions.way_for(X, WEIGHT, X.dtype)
        assert str(way) == F4
    assert decided == [((64, 16, 16), 32, 64, torch.float32)]
    (kept,) = cache.glob("convolutions/*/chosen.json")
    assert json.loads(kept.read_text()) == {SHAPE: F4}


def test_of_two_processes_the_first_is_right(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not cache.exists()

    def slowly(*_: Any) -> str:
        monkeypatch.setattr(choice, "fastest", lambda *_: DIRECT)
        assert Convolutions("auto").way_for(X, WEIGHT, X.dtype) is None  # another process decides meanwhile
        return F4

    monkeypatch.setattr(choice, "fastest", slowly)
    assert Convolutions("auto").way_for(X, WEIGHT, X.dtype) is None


@pytest.mark.parametrize("content", ["", "[]", "null", '{"32→64 at 16×16": "F(9×9)"}', '{"32→64 at 16×16": 4}'])
def test_a_damaged_note_is_made_anew(decided: Asked, cache: Path, content: str) -> None:
    Convolutions("auto").way_for(X, WEIGHT, X.dtype)
    (kept,) = cache.glob("convolutions/*/chosen.json")
    kept.write_text(content)
    assert str(Convolutions("auto").way_for(X, WEIGHT, X.dtype)) == F4
    assert len(decided) == 2
    assert json.loads(kept.read_text()) == {SHAPE: F4}


def test_where_nothing_can_be_kept_it_is_timed_anew(
    decided: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("DAYBREAK_CACHE_DIR", str(tmp_path / "file"))
    for _ in range(2):
        assert str(Convolutions("auto").way_for(X, WEIGHT, X.dtype)) == F4
    assert len(decided) == 2


def test_the_clock_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each way in turn; the one that takes no time on the clock wins."""
    order = [DIRECT, *choice.WAYS]
    for winner in order:
        moments = iter(range(10**6))
        now = [0.0]

        def clock(winner: str = winner, moments: Iterator[int] = moments, now: list[float] = now) -> float:
            calls = next(moments)  # two a way
            if calls % 2 == 1:
                now[0] += 1.0 if order[calls // 2 % len(order)] == winner else 2.0
            return now[0]

        monkeypatch.setattr(choice.time, "perf_counter", clock)
        assert choice.fastest((4, 8, 8), 16, 16, torch.float32) == winner


def test_what_takes_twice_as_long_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    now, tried = [0.0], {"fast": 0, "slow": 0, "slower": 0}
    monkeypatch.setattr(choice.time, "perf_counter", lambda: now[0])

    def taking(name: str, seconds: float) -> Any:
        def run() -> None:
            now[0] += seconds
            tried[name] += 1

        return run

    ways = {"slower": taking("slower", 2.1), "slow": taking("slow", 1.9), "fast": taking("fast", 1.0)}
    assert choice._fastest_of(ways) == "fast"
    assert tried == {"fast": 1 + choice.ROUNDS, "slow": 1 + choice.ROUNDS, "slower": 2}


def test_filters_that_fit_no_cache_are_not_tried_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their gradients would be kept sixteen times: 600 MB for 256 channels to 256."""
    timed: list[str] = []
    monkeypatch.setattr(choice, "_fastest_of", lambda ways: timed.extend(ways) or DIRECT)
    choice.fastest((8, 4, 4), 256, 256, torch.float32)
    assert timed == [DIRECT, F4, "F(6×6, 3×3)", "F(2×2, 3×3)"]
    timed.clear()
    choice.fastest((8, 4, 4), 24, 48, torch.float32)
    assert timed == [DIRECT, *choice.WAYS]


def test_bfloat16_has_no_whole_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    timed: list[str] = []
    monkeypatch.setattr(choice, "_fastest_of", lambda ways: timed.extend(ways) or DIRECT)
    choice.fastest((4, 8, 8), 16, 16, torch.bfloat16)
    assert timed == [DIRECT, F4, "F(2×2, 3×3)"]


# A convolution and the pool behind it


def conv_and_pool(**settings: Any) -> Chain:
    chain = named(conv=conv3x3(32, 64, bias=True), pool=nn.MaxPool2d(**{"kernel_size": 2} | settings))
    use_convolutions(chain, Convolutions("winograd"))
    return chain


def pools_called(chain: Chain, x: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> int:
    calls = []
    monkeypatch.setattr(nn.MaxPool2d, "forward", lambda self, x: calls.append(1) or nn.functional.max_pool2d(x, 2))
    chain(x)
    monkeypatch.undo()
    return len(calls)


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("size", [16, 17])
def test_a_pool_behind_a_convolution_is_one_with_it(mode: str, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    chain, x = getattr(conv_and_pool(), mode)(), torch.randn(64, 32, size, size)
    expected = nn.functional.max_pool2d(chain.conv(x), 2)
    assert torch.allclose(chain(x), expected, atol=1e-5)
    assert pools_called(chain, x, monkeypatch) == 0


def test_a_direct_convolution_is_pooled_all_the_same() -> None:
    chain = conv_and_pool()
    use_convolutions(chain, Convolutions("direct"))
    assert torch.equal(chain(X), nn.functional.max_pool2d(chain.conv(X), 2))


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.conv.register_forward_hook(lambda *_: None),
        lambda c: c.pool.register_forward_hook(lambda *_: None),
        lambda c: setattr(c, "pool", nn.MaxPool2d(2, ceil_mode=True)),
        lambda c: setattr(c, "pool", nn.MaxPool2d(3, 2, 1)),
    ],
)
def test_what_is_heard_or_another_pool_stays_by_itself(change: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    chain = conv_and_pool()
    change(chain)
    assert pools_called(chain, X, monkeypatch) == 1


def test_a_tracer_sees_convolution_and_pool() -> None:
    seen = [node.target for node in symbolic(conv_and_pool()).graph.nodes]
    assert {"conv", "pool"} <= set(seen)


def test_timing_leaves_no_trace() -> None:
    """It may come in the middle of an evaluation, with autocast and without gradients."""
    before = torch.get_rng_state()
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert choice.fastest((8, 8, 8), 16, 16, torch.float32) in {DIRECT, *choice.WAYS}
        assert torch.is_inference_mode_enabled()
    assert torch.equal(torch.get_rng_state(), before)


# The run


def test_a_run_says_what_it_used_and_keeps_to_it(
    decided: Asked, digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train(recipe(), digits, tmp_path / "run", TrainOptions(device="cpu"))
    used = RunDirectory.open(run.path).config["convolutions"]
    assert used["wanted"] == "auto"
    assert used["chosen"]
    assert set(used["chosen"].values()) == {F4}
    assert len(decided) == len(used["chosen"])

    def never(*_: Any) -> str:
        raise AssertionError("timed again")

    monkeypatch.setattr(choice, "_remembered", never)  # as on another machine, with another cache
    assert np.array_equal(logits(RunDirectory.open(run.path), digits), predicted(run).logits)


def test_direct_uses_none_and_an_unknown_way_is_refused(digits: Dataset, tmp_path: Path) -> None:
    run = train(recipe(convolution="direct"), digits, tmp_path / "run", TrainOptions(device="cpu"))
    assert run.config["convolutions"] == {"wanted": "direct", "chosen": {}}
    with pytest.raises(UsageError, match="convolution"):
        recipe(convolution="fft")


@pytest.mark.usefixtures("decided")
def test_a_stopped_run_goes_on_bit_for_bit(digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = TrainOptions(device="cpu", checkpoint_every="1steps")
    whole = train(recipe(), digits, tmp_path / "whole", options)

    def stop(event: Mapping[str, Any]) -> None:
        if event["event"] == "step" and event["step"] == 1:
            signal.raise_signal(signal.SIGINT)

    part = train(recipe(), digits, tmp_path / "part", options, on_event=stop)
    assert part.summary["interrupted"]
    monkeypatch.setattr(choice, "fastest", lambda *_: DIRECT)  # the clock would say otherwise now
    monkeypatch.setattr(choice, "_remembered", lambda shape, decide: decide())
    on = resume(part.path, digits)
    assert not any("not bit-exact" in note for note in on.config["resumed"][-1]["notes"])
    for name in ("logits", "logits_tta"):
        assert np.array_equal(getattr(predicted(on), name), getattr(predicted(whole), name))


@pytest.mark.usefixtures("decided")
@pytest.mark.parametrize("convolution", ["auto", "direct"])  # the norm is native in either
def test_other_loops_on_resume_are_told(
    convolution: str, digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = TrainOptions(device="cpu", checkpoint_every="4steps")
    run = train(recipe(convolution=convolution), digits, tmp_path / "run", options)
    for module in (choice, state):
        monkeypatch.setattr(module, "library", lambda: None)
    on = resume(run.path, digits, epochs=3)
    assert "loops native then, plain now" in on.config["resumed"][-1]["notes"][-1]


def test_a_run_without_a_word_about_it_is_direct(digits: Dataset, tmp_path: Path) -> None:
    """Those of 0.1.0, and of the time before there was a choice."""
    run = train(recipe(convolution="direct"), digits, tmp_path / "run", TrainOptions(device="cpu"))
    config = json.loads((run.path / "config.json").read_text())
    del config["convolutions"], config["recipe"]["convolution"]
    (run.path / "config.json").write_text(json.dumps(config))
    old = RunDirectory.open(run.path)
    layers = [m for m in old.classifier("cpu").net.modules() if isinstance(m, Conv3x3)]
    assert {m.convolutions.wanted for m in layers} == {DIRECT}
    assert np.array_equal(logits(old, digits), predicted(run).logits)
