"""One option, one place: what `TrainOptions` says is what Python, the command line and the run directory know."""

import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.main import get_command

import daybreak as db
from daybreak import cli
from daybreak.core.config import Stage, override
from daybreak.core.errors import UsageError
from daybreak.core.options import OPTIONS, TrainOptions, cli_of, flag_of, lengthened, resumed_options, train_options
from daybreak.recipes import RECIPES

SOURCE = Path(db.__file__).parent
TRAIN = get_command(cli.app).commands["train"]  # type: ignore[attr-defined]


def parsed(words: list[str]) -> TrainOptions:
    """What the command line makes of words."""
    with TRAIN.make_context("train", list(words)) as context:
        given = {name: value for name, value in context.params.items() if name in OPTIONS and value not in (None, [])}
    return train_options(**given)


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_is_known_everywhere(name: str) -> None:
    text = " ".join((OPTIONS[name].description or "").split())
    assert text.endswith(".")
    (parameter,) = [p for p in TRAIN.params if p.name == name]
    assert name == "data" or flag_of(name) in parameter.opts
    assert re.fullmatch(rf"{re.escape(text)}( Default: [\w]+\.)?", getattr(parameter, "help", text))
    for function in (db.train, db.resume):
        signature = inspect.signature(function)
        assert name in signature.parameters or (function is db.resume and name == "run")
        own = inspect.signature(inspect.unwrap(function)).parameters
        assert name in own or text in (function.__doc__ or "")


def test_what_is_not_asked_for_is_off_but_the_report() -> None:
    switches = {name for name, value in vars(TrainOptions()).items() if isinstance(value, bool)}
    assert switches == {"dawn_rule", "deterministic", "report", "skip_bad", "strict"}
    assert [name for name in switches if getattr(TrainOptions(), name)] == ["report"]


def test_defaults_that_were_typed_are_not_repeated() -> None:
    """Typed, they are other objects than the defaults, and equal to them."""
    typed = {"checkpoint_every": "1m", "keep": "last", "on_nonfinite": "stop", "device": "auto"}
    options = replace(TrainOptions(data="digits"), **{name: "".join(text) for name, text in typed.items()})
    assert options.command() == ["daybreak", "train", "digits"]


def test_options_are_frozen_and_of_one_kind() -> None:
    options = train_options(seed="3", budget="5m", settings=["a.b=1"], track=["mlflow"])
    assert (options.seed, options.budget, options.settings, options.track) == (3, 300.0, {"a.b": "1"}, ("mlflow",))
    with pytest.raises(FrozenInstanceError):
        options.seed = 4  # type: ignore[misc]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epoch": 3}, "epoch: train has no such option; try: 'epochs'"),
        ({"epochs": 0}, "--epochs 0: Input should be greater than or equal to 1"),
        ({"seed": -1}, "--seed -1: "),
        ({"seed": 2**63}, f"--seed {2**63}: Input should be less than {2**63}"),
        ({"device": "gpu"}, "--device gpu: not a choice; try: one of auto, cpu, cuda, mps"),
        ({"keep": "first"}, "--keep first: not a choice; try: one of last, best"),
        ({"balance": "fair"}, "--balance fair: not a choice; try: one of none, weights, sampling, auto"),
        ({"budget": [1]}, "--budget [1]: not a duration"),
        ({"checkpoint_every": {}}, "--checkpoint-every {}: "),
        ({"settings": None}, "--set None: not of the form key=value"),
        ({"settings": "a.b=1"}, "--set a.b=1: not of the form key=value"),
        ({"target": 94}, "--target 94: not an accuracy"),
        ({"target": 0}, "--target 0: not an accuracy"),
        ({"lr": 0.0}, "--lr 0.0: not a learning rate"),
        ({"lr": float("inf")}, "--lr inf: not a learning rate"),
        ({"lr": [0.1]}, "--lr [0.1]: not a learning rate"),
        ({"callbacks": [3]}, "--callback 3: Input should be a valid string"),
        ({"seed": -1, "split_seed": -2}, "--seed -1: "),
        ({"lr": "fast"}, "--lr fast: not a learning rate"),
        ({"lr": float("nan")}, "--lr nan: not a learning rate"),
        ({"budget": "soon"}, "--budget soon: not a duration"),
        ({"budget": 0.0}, "--budget 0.0: not a duration"),
        ({"checkpoint_every": "0s"}, "--checkpoint-every 0s: not above zero"),
        ({"validate": 1.0}, "--validate 1.0: "),
        ({"settings": ["epochs"]}, "epochs: not of the form key=value"),
        ({"budget": "5m", "epochs": 2}, "--budget and --epochs: both say how long to train"),
        ({"dawn_rule": True}, "--dawn-rule: there is no target"),
        ({"dawn_rule": True, "target": 0.9, "keep": "best"}, "--dawn-rule and --keep best: two rules"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        train_options(**values)
    assert str(caught.value).startswith(message)


ODD = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary(), st.lists(st.integers(), max_size=2),
    st.dictionaries(st.integers(), st.text(), max_size=2), st.builds(object),
)  # fmt: skip


@pytest.mark.parametrize("name", OPTIONS)
@settings(deadline=None, max_examples=50)
@given(value=ODD)
def test_whatever_an_option_is_given_it_is_taken_or_refused_in_a_line(name: str, value: Any) -> None:
    try:
        options = train_options(**{name: value})
    except UsageError:
        return
    assert isinstance(options, TrainOptions)


NAMES = st.from_regex(r"[a-z][a-z.]{0,8}", fullmatch=True)
CHOICES: dict[str, st.SearchStrategy[Any]] = {
    "data": NAMES, "recipe": NAMES, "net": NAMES, "epochs": st.integers(1, 99), "seed": st.integers(0, 9),
    "target": st.floats(0.01, 1), "lr": st.one_of(st.just("auto"), st.floats(1e-6, 10)), "size": st.integers(8, 64),
    "device": st.sampled_from(["auto", "cpu", "cuda", "mps"]), "settings": st.dictionaries(NAMES, NAMES, max_size=3),
    "split_seed": st.integers(0, 9), "validate": st.floats(0, 0.9), "skip_bad": st.booleans(), "strict": st.booleans(),
    "deterministic": st.booleans(), "on_nonfinite": st.sampled_from(["stop", "skip"]), "keep": st.just("last"),
    "checkpoint_every": st.sampled_from(["1m", "40steps", "never"]), "callbacks": st.lists(NAMES, max_size=2),
}  # fmt: skip


@given(st.fixed_dictionaries({}, optional=CHOICES))
def test_the_command_that_repeats_a_run_means_the_same(values: dict[str, Any]) -> None:
    options = train_options(**values)
    words = options.command()
    assert words[:2] == ["daybreak", "train"]
    assert parsed(words[2:]) == options
    assert train_options(**options.as_json()) == options


def test_settings_may_be_objects() -> None:
    options = train_options(settings={"resolution": [Stage(until=1.0, scale=0.5)], "ema": None})
    assert options.as_json()["settings"] == {"resolution": [{"until": 1.0, "scale": 0.5}], "ema": None}
    again = parsed(options.command()[2:])
    recipe = RECIPES["small"]
    assert override(recipe, again.settings) == override(recipe, options.settings)


def test_what_a_resumed_run_may_be_given() -> None:
    options = train_options(recipe="page", seed=3, on_nonfinite="skip")
    assert resumed_options(options, checkpoint_every="never") == replace(options, checkpoint_every="never")
    for name in OPTIONS:
        if not cli_of(name).resume:
            with pytest.raises(UsageError, match=f"{flag_of(name)} with --resume: the run has its own"):
                resumed_options(options, **{name: 1})


def test_a_longer_run_forgets_the_length_that_it_had() -> None:
    options = train_options(epochs=2, settings={"steps": "30", "min_steps": "5", "ema": "0.9"})
    assert lengthened(options, None, None) == options
    assert lengthened(options, 5, None) == train_options(epochs=5, settings={"ema": "0.9"})
    assert lengthened(train_options(budget=60), None, 90.0) == train_options(budget=90)


def test_what_is_not_given_is_not_said() -> None:
    """The command line has no defaults of its own: they stand in `TrainOptions`."""
    assert {p.name: p.default for p in TRAIN.params if p.name in OPTIONS and p.default not in (None, [])} == {}
    assert parsed([]) == TrainOptions()


@pytest.mark.slow
def test_adding_an_option_touches_two_files(tmp_path: Path) -> None:
    """The field in core/options.py, and the line that uses it; this is the walk-through of CONTRIBUTING.md."""
    package = Path(shutil.copytree(SOURCE, tmp_path / "daybreak"))
    options, loop = package / "core" / "options.py", package / "training" / "loop.py"
    field = (
        '    greeting: Annotated[str, Cli("WORD", resume=True)] = "none"\n    """Said at the start of training."""\n\n'
    )
    options.write_text(options.read_text().replace("    out: Annotated[Text", field + "    out: Annotated[Text"))
    use = "    print(options.greeting, file=__import__('sys').stderr)\n    log = StepLog("
    loop.write_text(loop.read_text().replace("    log = StepLog(", use))
    env = os.environ | {"PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}

    def daybreak(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "daybreak", "train", *words]
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)

    assert "--greeting" in daybreak("--help").stdout
    settings = ("--set", "model.width=0.1", "--no-report", "--out", "run")
    done = daybreak("digits", "--epochs", "1", "--greeting", "hello", *settings)
    assert done.returncode == 0, done.stderr
    assert "hello" in done.stderr
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["options"]["greeting"] == "hello"
    assert config["command"][-2:] == ["--greeting", "hello"]
    assert "hello" in daybreak("--resume", "run", "--epochs", "2").stderr  # it is the run's own
    code = "import daybreak as db; help(db.train)"
    shown = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout
    assert "greeting: Said at the start of training." in shown


def test_a_setting_may_have_an_equals_sign() -> None:
    assert train_options(settings=["name=a=b"]).settings == {"name": "a=b"}
