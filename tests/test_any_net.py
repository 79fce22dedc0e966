"""Nets that know nothing of daybreak: their stages are found, their maps drawn, and what cannot be traced says so."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import daybreak as db
from daybreak.core.errors import UsageError
from daybreak.explain.cam import check_layers, class_maps
from daybreak.explain.features import activation_sheets, filter_sheet, observe, top_images
from daybreak.explain.inspection import inspect_net
from daybreak.explain.maps import explain
from daybreak.models.anatomy import trace
from daybreak.models.anatomy.trace import Field, stage_fields
from daybreak.models.registry import stages_of
from daybreak.report.report import write_report
from daybreak.runs.classifier import Classifier
from daybreak.runs.transforms import Normalizer

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)


def block(inner: int, outer: int) -> list[nn.Module]:
    return [nn.Conv2d(inner, outer, 3, padding=1), nn.BatchNorm2d(outer), nn.ReLU(), nn.MaxPool2d(2)]


def plain() -> nn.Sequential:
    """Fifteen layers in a row: twelve of them put out maps, and so does the global pool."""
    layers = [*block(3, 4), *block(4, 6), *block(6, 8)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))


class Classic(nn.Module):
    """As in many tutorials: features and a classifier; one ReLU for all, and a last layer that was made first."""

    def __init__(self, in_channels: int = 3) -> None:
        super().__init__()
        self.classify = nn.Linear(5, 2)
        self.gate = nn.Linear(8, 5)
        self.relu = nn.ReLU()
        self.later = nn.Conv2d(4, 8, 3, stride=2)
        self.first = nn.Conv2d(in_channels, 4, 3, padding=1)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        x_NCHW = self.relu(self.later(self.relu(self.first(x_NCHW))))
        return self.classify(self.gate(x_NCHW.mean((2, 3))).sigmoid())


class Wrapped(nn.Module):
    """All in one child; `stages` is a part of it here, not a list of names, as in ConvNeXt."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.stages = net

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return self.stages(x_NCHW)


class Undecided(Classic):
    """What it does depends on what it sees, so torch.fx cannot trace it."""

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return super().forward(x_NCHW if x_NCHW.mean() > 0 else -x_NCHW)


class AllConvolutions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 3)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return self.two(self.one(x_NCHW)).mean((2, 3))


class OneSize(nn.Module):
    """Takes images of 32 px only."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.ModuleList([nn.Conv2d(1, 2, 4, 4), nn.Conv2d(2, 2, 1)])
        self.out = nn.Linear(2 * 8 * 8, 3)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        for part in self.body:
            x_NCHW = part(x_NCHW)
        return self.out(x_NCHW.flatten(1))


def classifier(net: nn.Module) -> Classifier:
    return Classifier(net, ("a", "b"), 32, Normalizer((0.5,) * 3, (0.25,) * 3), torch.device("cpu"), torch.float32)


@pytest.mark.parametrize(
    ("net", "names"),
    [
        (plain(), ["3", "7", "11"]),  # before the next convolution, and the last
        (nn.Sequential(*block(3, 4), *block(4, 6)), list("01234567")),  # eight are not too many
        (Classic(), ["first", "later"]),  # as they run; the ReLU runs twice
        (Classic(1), ["first", "later"]),
        (Undecided(), ["first", "later"]),
        (Wrapped(plain()), ["stages.3", "stages.7", "stages.11"]),
        (Wrapped(Wrapped(Classic())), ["stages.stages.first", "stages.stages.later"]),
        (OneSize(), ["body.0", "body.1"]),
        (nn.Sequential(nn.Flatten(), nn.LazyLinear(2)), []),
        (nn.Sequential(*(nn.Conv2d(3, 3, 1) for _ in range(30))), [str(n) for n in (3, 7, 11, 14, 18, 22, 26, 29)]),
    ],
    ids=["plain", "eight", "classic", "grey", "undecided", "wrapped", "twice", "one size", "no map", "thirty"],
)
def test_the_stages_of_any_net_are_found(net: nn.Module, names: list[str]) -> None:
    assert list(stages_of(net)) == names
    assert list(stages_of(net).values()) == [net.get_submodule(name) for name in names]


def test_they_are_found_once_and_the_net_is_left_as_it_was() -> None:
    net = plain()
    net[5].eval()
    forwards: list[int] = []
    net.register_forward_hook(lambda *_: forwards.append(1))
    state = {name: value.clone() for name, value in net.state_dict().items()}
    assert stages_of(net) == stages_of(net)
    assert len(forwards) == 1
    assert [module.training for module in net.modules()] == [n != 6 for n in range(16)]
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert not [m for m in net.children() if m._forward_hooks]


def test_a_net_that_names_its_stages_is_taken_at_its_word() -> None:
    net = plain()
    net.stages = ("0", "9")
    assert list(stages_of(net)) == ["0", "9"]
    net.stages = ()
    assert stages_of(net) == {}
    with pytest.raises(UsageError, match=r"^Sequential: has no stage whose output is a map"):
        check_layers(net, None)


@pytest.mark.parametrize("make", [plain, Classic, Undecided, AllConvolutions])
@pytest.mark.parametrize("method", ["grad-cam", "eigen-cam"])
def test_maps_of_any_net_are_those_of_one_that_names_its_stages(make: Any, method: Any) -> None:
    torch.manual_seed(0)
    net, target_N = make(), torch.zeros(5, dtype=torch.int64)
    images_NCHW, names = classifier(net).prepare(IMAGES), list(stages_of(net))
    found = class_maps(net, images_NCHW, target_N, names, method)
    net.stages = tuple(names)
    expected = class_maps(net, images_NCHW, target_N, names, method)
    assert all(torch.equal(found[name], expected[name]) for name in names)
    assert any(found[name].max() > 0 for name in names)


def test_the_embedding_is_what_the_last_linear_layer_is_given() -> None:
    torch.manual_seed(0)
    net = Classic().eval()
    x = classifier(net).prepare(IMAGES)
    with torch.no_grad():
        maps = net.relu(net.later(net.relu(net.first(x))))
        expected = net.gate(maps.mean((2, 3))).sigmoid()
    seen = observe(classifier(net), IMAGES, "later")
    assert np.allclose(seen.embeddings_ND, expected.numpy(), atol=1e-6)
    assert np.allclose(seen.peaks_NK, net.later(net.relu(net.first(x))).detach().amax((2, 3)).numpy(), atol=1e-5)


def test_without_a_linear_layer_the_embedding_is_the_logits() -> None:
    one = classifier(AllConvolutions())
    assert np.allclose(observe(one, IMAGES, "two").embeddings_ND, one.logits(IMAGES), atol=1e-6)


def test_receptive_fields_of_a_net_that_can_be_traced() -> None:
    found = inspect_net("mine", plain(), 3, 32)
    assert [(stage.name, stage.output_shape, stage.seen.size, stage.seen.stride) for stage in found.stages] == [
        ("3", (4, 16, 16), 4, 2), ("7", (6, 8, 8), 10, 4), ("11", (8, 4, 4), 22, 8)
    ]  # fmt: skip
    assert stage_fields(Classic(), 32, 3) == {"first": Field(3, 1, 0.5), "later": Field(5, 2, 1.5)}


def test_a_net_that_cannot_be_traced_says_so_in_one_line_and_has_its_maps() -> None:
    with pytest.raises(UsageError, match=r"^Undecided: cannot be traced by torch\.fx \(.*control flow") as caught:
        inspect_net("mine", Undecided(), 3, 32)
    assert "\n" not in str(caught.value)
    one = classifier(Undecided())
    maps = explain(one, IMAGES, np.zeros((5, 1), np.int64))
    assert {(m.layer, m.field) for m in maps} == {("first", None), ("later", None)}
    assert maps[0].field_of_max(32) == (0.0, 0.0, 32.0, 32.0)  # nobody knows more
    (excited,) = top_images(one, observe(one, IMAGES, "later"), "later", channels=1, images=1)
    assert excited.boxes == ((0, 0, 32, 32),)
    assert set(activation_sheets(one, IMAGES[0])) == {"first", "later"}
    assert filter_sheet(AllConvolutions()) is not None
    assert filter_sheet(nn.Linear(2, 2)) is None


def test_a_net_may_say_which_sizes_it_takes() -> None:
    class Picky(Classic):
        def forward(self, images_NCHW: Tensor) -> Tensor:
            raise ValueError(f"{images_NCHW.shape[2]} px are too few")

    with pytest.raises(UsageError, match=r"Picky: cannot take images of 24 px \(24 px are too few\)"):
        inspect_net("picky", Picky(), 3, 24)


def test_the_report_of_a_net_that_cannot_be_traced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"model.width": 0.1, "precision": "float32"}
    run = db.train("digits", epochs=1, settings=settings, out=tmp_path / "run", device="cpu", report=False).directory

    def untraceable(_: nn.Module) -> None:
        raise torch.fx.proxy.TraceError("symbolically traced variables cannot be used as inputs to control flow")

    assert "; each sees " in write_report(run).read_text()
    monkeypatch.setattr(trace, "symbolic", untraceable)
    page = write_report(run).read_text()
    assert "<h3>layer3" in page
    assert "; each sees " not in page  # nobody knows how much
