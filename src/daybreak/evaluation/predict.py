"""Class probabilities for image files."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from daybreak.core import metrics
from daybreak.core.config import Device, Tta
from daybreak.core.count import Count
from daybreak.core.metrics import softmax
from daybreak.evaluation.files import answer_rows, check_reject, find_images, read_images
from daybreak.runs.classifier import images_a_forward
from daybreak.runs.directory import RunDirectory

log = logging.getLogger(__name__)


def predict(
    run: RunDirectory,
    images: Sequence[str | Path],
    *,
    top: int = 3,
    reject: float | None = None,
    tta: Tta = "none",
    device: Device = "auto",
) -> Iterator[dict[str, Any]]:
    """The `top` classes of every image with their probabilities, a batch of images in memory at a time.

    Args:
        images: files, folders (searched for images) or `-` for one image on standard input.
        reject: the probability below which the likeliest class is no answer.

    Yields:
        "file"; "top": the likeliest classes with "class" and "probability"; "energy": high for images unlike those of
        the training part (`metrics.energy`); and with `reject` whether the image is "unknown".

    Raises:
        UsageError: `reject` is no probability.
        DataError: a file is missing or not an image. The rows of the batches before it have been given by then.
    """
    check_reject(reject)
    files, classifier = find_images(images), run.classifier(device)
    batch, count = images_a_forward(classifier.size, classifier.device), Count(log, "predicted", len(files))
    for start in range(0, len(files), batch):
        part = files[start : start + batch]
        logits_NK = classifier.logits(read_images(part, run.card.decode), tta)
        yield from answer_rows(part, softmax(logits_NK), metrics.energy(logits_NK), classifier.classes, top, reject)
        count.add(len(part))
