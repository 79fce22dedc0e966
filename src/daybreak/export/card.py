"""README.md of a bundle: a model card in the form that the Hugging Face hub reads (Mitchell et al. 2019)."""

from importlib.metadata import version

from jinja2 import Environment, PackageLoader, StrictUndefined

from daybreak.core.errors import one_line
from daybreak.evaluation.evaluation import Evaluation
from daybreak.export.bundle import Facts
from daybreak.export.parity import Parity
from daybreak.runs.card import ModelCard

WORST = 5  # pairs of classes that are named
FEW = 20  # test images of a class: its figures say little


def card_of(facts: Facts, model: ModelCard, evaluation: Evaluation, parity: Parity, license: str, library: str) -> str:
    """The card as Markdown with a head in YAML; every figure is that of the run's test part, one view.

    Args:
        library: what loads the net, as the hub calls it.
    """
    environment = Environment(
        loader=PackageLoader("daybreak", "export/templates"),
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"cell": cell, "yaml": quoted}
    return environment.get_template("README.md").render(
        facts=facts, model=model, evaluation=evaluation, parity=parity, license=license, library=library,
        version=version("daybreak"), dataset_id=facts.data.name or facts.data.title,
        confused=evaluation.most_confused(WORST), few=[s.name for s in evaluation.per_class if s.images < FEW],
    )  # fmt: skip


def cell(text: str) -> str:
    """Text as it stands in a cell of a table: on one line, and nothing in it means anything to Markdown."""
    return "".join(f"\\{c}" if c in r"\`*_{}[]<>()#+!|~" else c for c in one_line(text))


def quoted(text: str) -> str:
    """A text of YAML."""
    return '"' + one_line(text).replace("\\", "\\\\").replace('"', '\\"') + '"'
