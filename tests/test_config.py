"""Configuration: typos are named with the nearest key, every key is read, JSON goes both ways."""

import ast
import math
from pathlib import Path

import pytest
from pydantic import ValidationError

import daybreak
from daybreak.core.config import OneCycle, Recipe, Sgd, override, parse_settings, with_epochs
from daybreak.core.errors import UsageError
from daybreak.core.sections import leaf_keys, validate
from daybreak.recipes import RECIPES, get_recipe, to_toml

SOURCE = Path(daybreak.__file__).parent


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_json_round_trip(recipe: Recipe) -> None:
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe


@pytest.mark.parametrize(
    ("setting", "nearest"),
    [
        ({"schedule.max_lrr": 0.1}, "schedule.max_lr"),
        ({"epoch": 3}, "epochs"),
        ({"optimizer.momentun": 0.5}, "optimizer.momentum"),
        ({"optimiser.momentum": 0.5}, "optimizer"),
    ],
)
def test_an_unknown_key_names_the_nearest(setting: dict[str, float], nearest: str) -> None:
    with pytest.raises(UsageError, match=r"unknown key|no section") as caught:
        override(RECIPES["sprint"], setting)
    assert f"'{nearest}'" in caught.value.remedy
    assert next(iter(setting)) in caught.value.what


@pytest.mark.parametrize(
    "setting", [{"schedule.max_lr": math.nan}, {"epochs": 0}, {"label_smoothing": 1.5}, {"model.activation": "tanh"}]
)
def test_values_out_of_range_name_their_key(setting: dict[str, object]) -> None:
    with pytest.raises(UsageError) as caught:
        override(RECIPES["page"], setting)
    assert caught.value.what == next(iter(setting))


def test_overriding_reads_text_as_json_and_forgets_the_expected_result() -> None:
    changed = override(RECIPES["sprint"], parse_settings(["schedule.max_lr=0.5", "augment.flip=random", "ema=null"]))
    assert (changed.schedule.max_lr, changed.augment.flip, changed.ema) == (0.5, "random", None)
    assert changed.expected is None
    assert override(RECIPES["sprint"], {}) == RECIPES["sprint"]


def test_another_optimizer_starts_from_its_own_defaults() -> None:
    changed = override(RECIPES["page"], {"optimizer.momentum": 0.8, "optimizer.name": "sgd"})
    assert changed.optimizer == Sgd(momentum=0.8)
    with pytest.raises(UsageError) as caught:
        override(RECIPES["page"], {"optimizer.name": "sgd", "optimizer.momentun": 0.8})
    assert caught.value.remedy == "'optimizer.momentum'"


@pytest.mark.parametrize(
    "setting",
    [{"schedule.max_lr": 0}, {"optimizer.bias_lr": 0}, {"optimizer.whiten_bias_until": 0}, {"optimizer.momentum": 1.0}],
)
def test_values_that_would_divide_by_zero_are_refused(setting: dict[str, float]) -> None:
    with pytest.raises(UsageError) as caught:
        override(RECIPES["sprint"], setting)
    assert caught.value.what == next(iter(setting))


def test_a_setting_needs_an_equals_sign() -> None:
    with pytest.raises(UsageError, match="key=value"):
        parse_settings(["epochs"])


def test_a_peak_below_the_ends_is_refused() -> None:
    with pytest.raises(ValidationError, match="max_lr"):
        OneCycle(max_lr=0.1, initial_lr=0.2, final_lr=0, warmup=0.3)


def test_stages_must_cover_the_run() -> None:
    with pytest.raises(UsageError, match="end at 1"):
        override(RECIPES["sprint"], {"resolution": [{"until": 0.5, "scale": 1.0}]})


def test_validate_names_its_source() -> None:
    with pytest.raises(UsageError, match=r"my\.json"):
        validate(Recipe, RECIPES["page"].model_dump() | {"nonsense": 1}, "my.json")


def test_a_missing_recipe_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="try: 'sprint'"):
        get_recipe("sprnit")


def test_every_key_of_a_recipe_is_read_somewhere() -> None:
    config = SOURCE / "config.py"
    trees = [ast.parse(p.read_text()) for p in SOURCE.rglob("*.py") if p != config and p.parent.name != "recipes"]
    read = {node.attr for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    unread = {key for key in leaf_keys(Recipe) if key.split(".")[-1] not in read}
    assert unread <= {"expected.record"}  # a pointer for people: the documentation's test follows it


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_a_recipe_goes_into_a_file_and_back(recipe: Recipe, tmp_path: Path) -> None:
    file = tmp_path / "my.toml"
    file.write_text(to_toml(recipe))
    assert get_recipe(str(file)) == recipe.model_copy(update={"expected": None})


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("epochs = 3", r"my\.toml"),
        ("epochs = ", "cannot be read"),
        (b"\xff", "cannot be read"),
        (to_toml(RECIPES["page"]).replace("batch_size", "batchsize"), r"my\.toml: batch"),
        (to_toml(RECIPES["page"]).replace("batch_size = 512", "batch_size = nan"), r"my\.toml: batch_size: .*number"),
    ],
)
def test_a_recipe_file_that_cannot_be_used_is_one_line(text: str | bytes, what: str, tmp_path: Path) -> None:
    file = tmp_path / "my.toml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UsageError, match=what) as caught:
        get_recipe(str(file))
    assert "\n" not in str(caught.value)


def test_a_recipe_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"missing\.toml: no such file"):
        get_recipe(str(tmp_path / "missing.toml"))


def test_a_number_of_epochs_is_all_that_is_said_about_length() -> None:
    changed = with_epochs(override(RECIPES["small"], {"steps": 7}), 3)
    assert (changed.epochs, changed.min_steps, changed.steps) == (3, 0, None)
    assert with_epochs(RECIPES["small"], None) == RECIPES["small"]


def test_a_name_is_not_a_section() -> None:
    assert override(RECIPES["small"], {"name": "mine"}).name == "mine"


def test_two_lengths_are_refused() -> None:
    with pytest.raises(UsageError, match="--epochs and --set steps"):
        with_epochs(RECIPES["small"], 3, {"steps": 100})


@pytest.mark.parametrize("name", ["../../x", "a/b", "", "-x"])
def test_a_name_that_is_no_part_of_a_file_name_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="name"):
        override(RECIPES["small"], {"name": name})
