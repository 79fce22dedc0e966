"""The confusion matrix of the page: which classes, in which order, and how dark its cells are."""

from typing import Any

import numpy as np
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform

from daybreak.evaluation.evaluation import Evaluation
from daybreak.report.html import short_name

IN_ORDER_OF_THE_DATA = 20  # classes; more are ordered by confusion
LARGEST = 100  # classes; more would be ten thousand cells and more
FLAT_NAME, FLAT_CLASSES = 11, 10  # characters and classes whose names fit above their columns


def matrix(evaluation: Evaluation) -> dict[str, Any]:
    """`rows`, the classes in their order; `cells`, in that order, (count, shade from 0 to 10) of each; how many classes
    are `left_out`; `is_ordered` by confusion; `is_flat` where the names fit above the columns."""
    counts_KK = evaluation.confusion
    k = len(counts_KK)
    wrong_K = counts_KK.sum(0) + counts_KK.sum(1) - 2 * np.diag(counts_KK)
    rows = sorted(np.argsort(-wrong_K, kind="stable")[:LARGEST].tolist())
    is_ordered = len(rows) > IN_ORDER_OF_THE_DATA
    if is_ordered:
        rows = [rows[n] for n in by_confusion(counts_KK[np.ix_(rows, rows)])]
    shade_KK = np.ceil(10 * counts_KK / np.maximum(counts_KK.sum(1, keepdims=True), 1)).astype(int)
    shown = np.ix_(rows, rows)
    longest = max(len(short_name(evaluation.classes[n])) for n in rows)
    return {
        "rows": rows,
        "cells": np.stack([counts_KK[shown], shade_KK[shown]], 2).tolist(),
        "left_out": k - len(rows),
        "is_ordered": is_ordered,
        "is_flat": len(rows) <= FLAT_CLASSES and longest <= FLAT_NAME,
    }


def by_confusion(counts_KK: np.ndarray) -> list[int]:
    """An order in which classes that are taken for each other stand together: the leaves of an average-linkage tree
    over 1 - (share of i taken for j + share of j taken for i), with the order of Bar-Joseph et al. (2001). The half
    with more mistakes comes first."""
    share_KK = counts_KK / np.maximum(counts_KK.sum(1, keepdims=True), 1)
    alike_KK = share_KK + share_KK.T
    np.fill_diagonal(alike_KK, 0)
    distance_KK = 1 - alike_KK / max(float(alike_KK.max()), 1e-12)
    np.fill_diagonal(distance_KK, 0)
    tree = linkage(squareform(distance_KK, checks=False), "average", optimal_ordering=True)
    order: list[int] = leaves_list(tree).tolist()
    wrong_K = alike_KK.sum(1)[order]
    half = len(order) // 2
    return order if wrong_K[:half].sum() >= wrong_K[-half:].sum() else order[::-1]
