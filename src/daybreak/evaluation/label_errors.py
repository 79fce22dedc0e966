"""Labels that are probably wrong: what a net that never saw an image says of it, against what its label says.

Confident learning (Northcutt, Jiang & Chuang 2021) by cleanlab. It needs *out-of-sample* probabilities: a net that was
trained on the very label it is asked about repeats that label. A run has them for its test part. For its training part
`out_of_sample` trains one net a fold, on the other folds.
"""

import warnings
from dataclasses import dataclass

import numpy as np

from daybreak.core import metrics
from daybreak.data.dataset import Split


@dataclass(frozen=True)
class Suspect:
    """An image whose label is probably wrong."""

    index: int
    file: str
    given: str
    suggested: str
    quality: float  # the probability of the given label, as a net sees it that did not train on it


def suspects(logits_NK: np.ndarray, split: Split, classes: tuple[str, ...]) -> list[Suspect]:
    """The images of a split whose labels are probably wrong, the most suspicious first.

    Args:
        logits_NK: out of sample.
    """
    from cleanlab.filter import find_label_issues  # loads pandas

    probability_NK, labels_N = metrics.softmax(logits_NK), np.asarray(split.labels_N)
    present = np.unique(labels_N)  # cleanlab knows only classes that occur
    if len(present) < 2:
        return []
    probability_NP = probability_NK[:, present] / probability_NK[:, present].sum(1, keepdims=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "May not flag all label issues")  # one for each class with a single image
        found = find_label_issues(
            np.searchsorted(present, labels_N), probability_NP, return_indices_ranked_by="self_confidence", n_jobs=1
        )
    best_N = present[probability_NP.argmax(1)]
    return [
        Suspect(int(i), split.names[i], classes[labels_N[i]], classes[best_N[i]], float(probability_NK[i, labels_N[i]]))
        for i in found
    ]
