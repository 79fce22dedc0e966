"""The embeddings of the test images as a picture of the page, where a point shows its image."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from daybreak.core.errors import one_line
from daybreak.evaluation.evaluation import Evaluation
from daybreak.report.items import drawn_uri, sheet

WIDTH, HEIGHT, MARGIN, RADIUS = 800, 500, 12, 3.2
MOST_POINTS = 1200  # every one of them has its image in the page
COLOURS = 10  # classes; of more, only mistakes have a colour
SIDE = 40  # px of an image in the page


def scatter(plane_N2: np.ndarray, evaluation: Evaluation, images_NHWC: np.ndarray) -> dict[str, Any]:
    """`svg`, the points; `legend`, (style, words) of each colour; `points` and `shown`, for the script."""
    index_M = chosen(evaluation)
    place_M2 = _placed(plane_N2)[index_M]
    true_M, predicted_M = evaluation.labels_N[index_M], evaluation.logits_NK[index_M].argmax(1)
    wrong_M = true_M != predicted_M
    k = len(evaluation.classes)
    colour_M = true_M if k <= COLOURS else np.where(wrong_M, COLOURS + 1, COLOURS)
    pixels = np.asarray(images_NHWC[index_M])
    return {
        "svg": _svg(place_M2, colour_M, true_M, wrong_M),
        "legend": _legend(evaluation.classes),
        "shown": len(index_M),
        "points": {
            "index": index_M.tolist(),
            "x": place_M2[:, 0].round(1).tolist(),
            "y": place_M2[:, 1].round(1).tolist(),
            "true": true_M.tolist(),
            "predicted": predicted_M.tolist(),
            "sheet": drawn_uri(sheet(pixels, SIDE)),
            "side": min(pixels.shape[1], SIDE),
        },
    }


def chosen(evaluation: Evaluation) -> np.ndarray:
    """The test images that are drawn: all, or as many mistakes and others as there are in proportion, evenly."""
    n = len(evaluation.labels_N)
    order = np.argsort(evaluation.logits_NK.argmax(1) != evaluation.labels_N, kind="stable")
    return order if n <= MOST_POINTS else order[np.linspace(0, n - 1, MOST_POINTS).astype(int)]


def _placed(plane_N2: np.ndarray) -> np.ndarray:
    """In px of the picture, y downwards; few outliers may not squeeze the rest, so they are put at the border."""
    low, high = np.percentile(plane_N2, (0.5, 99.5), axis=0)
    share = (plane_N2 - low) / np.maximum(high - low, 1e-12)
    share = share.clip(0, 1) * (1, -1) + (0, 1)
    return np.asarray(MARGIN + share * (WIDTH - 2 * MARGIN, HEIGHT - 2 * MARGIN))


def _svg(place_M2: np.ndarray, colour_M: np.ndarray, true_M: np.ndarray, wrong_M: np.ndarray) -> Markup:
    """A group for each class and colour; mistakes are crosses."""
    groups = []
    for colour, true in sorted(set(zip(colour_M.tolist(), true_M.tolist(), strict=True))):
        mine = (colour_M == colour) & (true_M == true)
        dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{RADIUS}"/>' for x, y in place_M2[mine & ~wrong_M])
        crosses = "".join(f"M{x - 4:.1f} {y - 4:.1f}l8 8m0-8l-8 8" for x, y in place_M2[mine & wrong_M])
        path = f'<path d="{crosses}"/>' if crosses else ""
        groups.append(f'<g class="p{colour}" data-true="{true}">{dots}{path}</g>')
    words = f"Embeddings of {len(true_M)} test images on their first two principal components"
    return Markup(
        f'<svg class="scatter" id="scatter" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" tabindex="0" '
        f'aria-label="{words}">{"".join(groups)}</svg>'
    )


def _legend(classes: Sequence[str]) -> list[tuple[str, str]]:
    if len(classes) <= COLOURS:
        return [(f"p{k}", one_line(name)) for k, name in enumerate(classes)]
    return [(f"p{COLOURS}", "correct"), (f"p{COLOURS + 1}", "mistake")]
