"""Maps of a classifier's images, and how they are drawn. (How a map is computed: test_maps.py.)"""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from daybreak.core.errors import UsageError
from daybreak.core.nets import net_config
from daybreak.data import DecodeSpec
from daybreak.data.picture import to_picture
from daybreak.explain.gallery import draw
from daybreak.explain.maps import ClassMap, MapOptions, class_numbers, explain
from daybreak.explain.overlay import field_box, overlay
from daybreak.models.anatomy.trace import Field
from daybreak.models.registry import build_net
from daybreak.runs.card import ModelCard
from daybreak.runs.classifier import Classifier
from daybreak.runs.directory import RunDirectory
from daybreak.runs.transforms import Normalizer


def classifier() -> Classifier:
    torch.manual_seed(0)
    net = build_net(net_config(name="page", width=0.1), 3, 3).eval()
    cpu = torch.device("cpu")
    return Classifier(net, ("a", "b", "c"), 32, Normalizer((0.5,) * 3, (0.25,) * 3), cpu, torch.float32)


def test_explain_orders_by_image_target_and_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daybreak.explain.maps.BATCH", 2)
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    targets = np.array([[0, 1], [1, 2], [2, 0], [0, 2], [1, 0]])
    maps = explain(classifier(), images, targets, MapOptions(["layer1", "prep"]))
    assert [(m.image, m.target, m.layer) for m in maps[:5]] == [
        (0, 0, "prep"), (0, 0, "layer1"), (0, 1, "prep"), (0, 1, "layer1"), (1, 1, "prep"),
    ]  # fmt: skip
    alone = explain(classifier(), images[4:], targets[4:], MapOptions(["prep"]))
    last = next(m for m in maps if (m.image, m.layer, m.target) == (4, "prep", 1))
    assert np.allclose(last.values_HW, alone[0].values_HW, atol=1e-6)


def test_an_empty_map_leaves_the_picture_and_a_full_one_colours_it() -> None:
    image = np.full((4, 4, 3), 100, dtype=np.uint8)
    assert np.asarray(overlay(image, np.zeros((2, 2)), 8)).tolist() == np.full((8, 8, 3), 100).tolist()
    hot = np.asarray(overlay(image, np.ones((2, 2)), 8))[0, 0]
    assert hot.tolist() == [round(0.25 * 100 + 0.75 * c * 255) for c in (0.988362, 0.998364, 0.644924)]  # inferno(1.0)


def test_heat_lies_where_the_map_is_high() -> None:
    picture = np.asarray(overlay(np.zeros((4, 4, 1), dtype=np.uint8), np.array([[0, 0], [0, 1.0]]), 64)).sum(2)
    assert picture[:16, :16].max() == 0
    assert picture[48:, 48:].min() > 300


def test_pictures_keep_their_pixels() -> None:
    for channels in (1, 3):
        image = np.random.default_rng(0).integers(0, 256, (5, 5, channels), dtype=np.uint8)
        assert np.array_equal(np.asarray(to_picture(image)).reshape(image.shape), image)


def test_hostile_names_stay_in_the_folder_and_apart(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    card = ModelCard(net_config(name="page"), ("C+", "C#", "<b>\n/.."), 32, DecodeSpec(4, 3), (0.0,), (1.0,), "auto")
    run.write_model(nn.Linear(1, 1), card)
    maps = [ClassMap(0, "prep", target, np.ones((2, 2), np.float32), Field()) for target in range(3)]
    options = MapOptions(against="../<i>")
    rows = draw(run, maps, np.zeros((1, 4, 4, 3), np.uint8), [{}], ["../../etc/" + "x" * 300], options)
    paths = [Path(row["path"]) for row in rows]
    assert len(set(paths)) == 3
    assert all(path.parent == tmp_path / "figures" / "maps" and path.is_file() for path in paths)


def test_a_map_of_one_cell_is_a_note_and_no_picture(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.write_model(
        nn.Linear(1, 1), ModelCard(net_config(name="page"), ("a",), 32, DecodeSpec(4, 3), (0,), (1,), "auto")
    )
    one, none = (ClassMap(0, "layer3", 0, values, Field()) for values in (np.ones((1, 1)), np.zeros((2, 2))))
    rows = draw(run, [one, none], np.zeros((1, 4, 4, 3), np.uint8), [{"index": 7}], ["x"])
    assert (rows[0]["path"], rows[0]["index"]) == (None, 7)
    assert "layer3 is 1×1" in rows[0]["note"]
    assert Path(rows[1]["path"]).is_file()
    assert rows[1]["note"] == "no evidence for this class at this stage"


def test_the_box_is_the_receptive_field_of_the_maximum() -> None:
    """A 4×4 map over 32 px: stride 8, first centre 4, field 12. The maximum is in cell (0, 2): rows -2 to 10, cut off
    at 0, columns 14 to 26; drawn twice as large."""
    values = np.zeros((4, 4), np.float32)
    values[0, 2] = 1
    m = ClassMap(0, "layer3", 0, values, Field(size=12, stride=8, centre=4.0))
    picture = np.asarray(field_box(m, np.zeros((32, 32, 1), np.uint8), 32, 64))
    rows, columns = np.nonzero(picture.sum(2))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (0, 19, 28, 51)
    assert picture[10, 40].sum() == 0  # a frame, not a patch


def test_classes_by_name() -> None:
    predicted, true = np.array([0, 1]), np.array([2, 1])
    assert class_numbers("predicted", ("a", "b", "c"), predicted, true).tolist() == [0, 1]
    assert class_numbers("true", ("a", "b", "c"), predicted, true).tolist() == [2, 1]
    assert class_numbers("c", ("a", "b", "c"), predicted, None).tolist() == [2, 2]
    with pytest.raises(UsageError, match="predicted, true, a, b, c"):
        class_numbers("d", ("a", "b", "c"), predicted, true)
    with pytest.raises(UsageError, match="of a file is not known; try: predicted, a, b, c"):
        class_numbers("true", ("a", "b", "c"), predicted, None)
