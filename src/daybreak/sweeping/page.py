"""The page of a sweep: how it went, which keys matter, and all trials. One file, without a request."""

import base64
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from daybreak.core.files import write_text
from daybreak.report.figures import STYLE, svg
from daybreak.report.html import render

if TYPE_CHECKING:
    from optuna import Study

# Which figures of Optuna's, with what they show.
FIGURES = {
    "history": ("plot_optimization_history", "Accuracy of each trial on the validation part, and the best so far"),
    "importance": ("plot_param_importances", "How much of the difference between trials is due to each key"),
    "parallel": ("plot_parallel_coordinate", "A line for each trial through its settings; darker is better"),
    "slices": ("plot_slice", "Accuracy over each key; the colour is the number of the trial"),
}
WIDTH, HEIGHT = 3.4, 4.0  # of one of several panels, inches
TITLES = {"history": "History", "importance": "Importance", "parallel": "Parallel coordinates", "slices": "Slices"}


def write_page(path: Path, study: "Study", found: Mapping[str, Any]) -> Path:
    """Write the page.

    Args:
        found: what sweep.json says.

    Raises:
        StorageError: it cannot be written.
    """
    keys = list(found["space"])
    rows = sorted(found["trials"], key=lambda row: (row["state"] != "complete", -(row["val_acc"] or 0.0)))
    page = render(
        "sweep.html",
        title=f"Sweep of {found['base']} on {found['dataset']}",
        subtitle=found["study"],
        found=found,
        keys=keys,
        rows=rows,
        figures=[
            {"id": name, "title": TITLES[name], "caption": FIGURES[name][1], "picture": picture}
            for name, picture in _pictures(study).items()
        ],
    )
    return write_text(path, page)


def _pictures(study: "Study") -> dict[str, str | None]:
    """Optuna's figures as data URIs of SVG; None where there are too few trials for one. Pictures and not parts
    of the page, since matplotlib's SVG has styles in it that the page's policy forbids."""
    from optuna.trial import TrialState

    finished = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
    tells_apart = len(finished) > 1 and len({t.value for t in finished}) > 1
    found: dict[str, str | None] = {}
    for name, (function, _) in FIGURES.items():
        needs_more = name in ("importance", "parallel")
        found[name] = _picture(study, function) if tells_apart or not needs_more else None
    return found


def _picture(study: "Study", function: str) -> str:
    with _matplotlib() as plots:
        drawn = plots(function)(study, target_name="validation accuracy")
        panels = list(drawn.flat) if hasattr(drawn, "flat") else [drawn]
        figure: Figure = panels[0].figure
        figure.suptitle("")  # the page has a heading for it
        for axes in figure.axes:
            axes.set_title("")
            axes.set_title("", loc="left")
            for axis, (low, high) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
                if axis.get_scale() == "log" and high > 10 * low:  # else the labels between powers of ten overlap
                    axis.set_minor_formatter(NullFormatter())
        if len(panels) > 1:
            figure.set_size_inches(WIDTH * len(panels), HEIGHT)
        text = svg(figure, tight=True)
    return "data:image/svg+xml;base64," + base64.b64encode(text.encode()).decode("ascii")


@contextmanager
def _matplotlib() -> Iterator[Callable[[str], Callable[..., Any]]]:
    """Optuna's drawing functions. They set styles for the whole process and leave pyplot's figures open: both is
    undone."""
    import matplotlib.pyplot as plt
    from optuna.visualization import matplotlib as plots

    with mpl.rc_context(STYLE), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Optuna, that these functions are experimental
        before = set(plt.get_fignums())
        try:
            yield lambda name: getattr(plots, name)
        finally:
            for number in set(plt.get_fignums()) - before:
                plt.close(number)
