"""Faithfulness of class activation maps: does the prediction change when the important pixels are removed?

- deletion (Petsiuk et al. 2018): pixels are replaced by a blurred image, the most important first; the score is the
  area under the curve of the class probability. Low is faithful.
- insertion (the same paper): pixels are put back into the blurred image, the most important first. High is faithful.
- ROAD (Rong et al. 2022): removed pixels are imputed as the mean of their neighbours plus a little noise (a sparse
  linear system), so that the mask itself carries no information; the class probability with the least relevant pixels
  removed (LeRF) minus that with the most relevant removed (MoRF). High is faithful.
- pointing game (Zhang et al. 2018): is the maximum of the map inside the object? Needs bounding boxes.

The baseline of every score is random maps of the same resolution.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import coo_array
from scipy.sparse.linalg import spsolve
from torch import Tensor

from daybreak.runs.classifier import Classifier, images_a_forward

SHARES = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)  # of the pixels
ROAD_SHARES = (0.1, 0.3, 0.5, 0.7, 0.9)
NOISE = 0.01  # standard deviation of the noise in an imputed pixel; that of normalised images is 1
BLUR = 11  # px, for images of 32 px: side of the kernel that removes the content of an image

# Weights of a removed pixel's neighbours: 1/6 beside, 1/12 at the corners (Rong et al. 2022, section 4.2).
NEIGHBOURS = {(0, 1): 1 / 6, (1, 0): 1 / 6, (0, -1): 1 / 6, (-1, 0): 1 / 6,
              (1, 1): 1 / 12, (1, -1): 1 / 12, (-1, 1): 1 / 12, (-1, -1): 1 / 12}  # fmt: skip


@dataclass(frozen=True)
class Scores:
    """Means over images, for one kind of map at one stage."""

    deletion: float
    insertion: float
    road: float


def scores(classifier: Classifier, images_NHWC: np.ndarray, maps_Nhw: np.ndarray, target_N: np.ndarray) -> Scores:
    """Deletion, insertion and ROAD of maps.

    Args:
        images_NHWC: uint8.
        maps_Nhw: not negative, at any resolution.
        target_N: the class that each map explains.
    """
    images_NCHW = classifier.prepare(images_NHWC)
    order_NP = importance_order(maps_Nhw, classifier.size)
    empty_NCHW = blurred(images_NCHW)
    deleted = _curve(classifier, images_NCHW, empty_NCHW, order_NP, target_N, SHARES)
    inserted = _curve(classifier, empty_NCHW, images_NCHW, order_NP, target_N, SHARES)
    return Scores(_area(deleted, SHARES), _area(inserted, SHARES), _road(classifier, images_NCHW, order_NP, target_N))


def importance_order(maps_Nhw: np.ndarray, size: int) -> np.ndarray:
    """Pixels (N, size²) in the order of the enlarged maps, the most important first; ties by a fixed random order, so
    that a constant map does not start in a corner."""
    maps = torch.from_numpy(np.ascontiguousarray(maps_Nhw, np.float32))[:, None]
    large_NP = F.interpolate(maps, size=(size, size), mode="bilinear", align_corners=False).flatten(1).numpy()
    tie_breaker_P = np.random.default_rng(0).permutation(size * size)
    return np.stack([np.lexsort((tie_breaker_P, -values)) for values in large_NP])


def random_maps(like_Nhw: np.ndarray, seed: int) -> np.ndarray:
    """Uniform random maps of the same shape, float32: the baseline."""
    return np.random.default_rng(seed).random(like_Nhw.shape, dtype=np.float32)


def blurred(images_NCHW: Tensor) -> Tensor:
    """Images blurred by a wide Gaussian with mirrored borders, which removes their content."""
    side = max(3, round(BLUR * images_NCHW.shape[2] / 32) | 1)
    at = torch.arange(side, dtype=torch.float32, device=images_NCHW.device) - side // 2
    line = torch.exp(-(at**2) / (2 * (side / 4) ** 2))
    line, channels, half = line / line.sum(), images_NCHW.shape[1], side // 2
    padded = F.pad(images_NCHW, (half, half, half, half), mode="reflect")
    kernel = line.expand(channels, 1, 1, side)
    return F.conv2d(F.conv2d(padded, kernel, groups=channels), kernel.transpose(2, 3), groups=channels)


def imputed(image_CHW: np.ndarray, removed_HW: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The image with each removed pixel set to the weighted mean of its neighbours, removed ones included (one sparse
    linear system), plus a little noise."""
    if not removed_HW.any():
        return image_CHW
    height, width = removed_HW.shape
    rows, columns = np.nonzero(removed_HW)
    number_HW = np.full(removed_HW.shape, -1)
    number_HW[rows, columns] = np.arange(len(rows))
    here = np.arange(len(rows))
    entries: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    known_CR, weight_R = np.zeros((image_CHW.shape[0], len(rows))), np.zeros(len(rows))
    for (down, right), weight in NEIGHBOURS.items():
        y, x = rows + down, columns + right
        inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
        y, x = y.clip(0, height - 1), x.clip(0, width - 1)
        weight_R += weight * inside
        unknown = inside & removed_HW[y, x]
        entries.append((here[unknown], number_HW[y, x][unknown], np.full(unknown.sum(), -weight)))
        given = inside & ~removed_HW[y, x]
        known_CR += weight * np.where(given, image_CHW[:, y, x], 0)
    entries.append((here, here, weight_R))
    i, j, values = (np.concatenate(part) for part in zip(*entries, strict=True))
    if removed_HW.all():  # no known pixel is left: use the mean of normalised images
        solved_CR = np.zeros_like(known_CR)
    else:
        solved_CR = spsolve(coo_array((values, (i, j)), shape=(len(rows),) * 2).tocsc(), known_CR.T).T
    out_CHW = image_CHW.copy()
    out_CHW[:, rows, columns] = solved_CR.reshape(known_CR.shape) + NOISE * rng.standard_normal(known_CR.shape)
    return out_CHW


def pointing_game(maps_Nhw: np.ndarray, boxes_N4: np.ndarray, size: int) -> np.ndarray:
    """Whether the maximum of each enlarged map lies in its box (left, top, right, bottom in px), bool (N,)."""
    top_N = importance_order(maps_Nhw, size)[:, 0]
    y, x = np.divmod(top_N, size)
    left, top, right, bottom = boxes_N4.T
    return np.asarray((left <= x) & (x < right) & (top <= y) & (y < bottom))


def _curve(
    classifier: Classifier,
    start: Tensor,
    end: Tensor,
    order_NP: np.ndarray,
    target_N: np.ndarray,
    shares: Sequence[float],
) -> np.ndarray:
    """Mean probability of the target with each share of the pixels taken from `end`, the rest from `start`."""
    pixels = order_NP.shape[1]
    rank_NP = torch.from_numpy(np.argsort(order_NP, axis=1)).to(start.device)
    rank_N1HW = rank_NP.view(len(order_NP), 1, *start.shape[2:])
    return np.array(
        [_probability(classifier, torch.where(rank_N1HW < share * pixels, end, start), target_N) for share in shares]
    )


def _road(classifier: Classifier, images_NCHW: Tensor, order_NP: np.ndarray, target_N: np.ndarray) -> float:
    """Mean of LeRF minus MoRF over the shares of removed pixels."""
    gaps = []
    for share in ROAD_SHARES:
        least_first, most_first = (
            _probability(classifier, _impute_all(images_NCHW, order, share), target_N)
            for order in (order_NP[:, ::-1], order_NP)
        )
        gaps.append(least_first - most_first)
    return float(np.mean(gaps))


def _impute_all(images_NCHW: Tensor, order_NP: np.ndarray, share: float) -> Tensor:
    images, rng = images_NCHW.cpu().numpy(), np.random.default_rng(0)
    removed_NP = np.zeros(order_NP.shape, bool)
    np.put_along_axis(removed_NP, order_NP[:, : round(share * order_NP.shape[1])], True, axis=1)
    out = np.stack(
        [imputed(image, r.reshape(image.shape[1:]), rng) for image, r in zip(images, removed_NP, strict=True)]
    )
    return torch.from_numpy(out.astype(np.float32)).to(images_NCHW.device)


@torch.no_grad()
def _probability(classifier: Classifier, images_NCHW: Tensor, target_N: np.ndarray) -> float:
    targets = torch.as_tensor(np.ascontiguousarray(target_N), device=images_NCHW.device)
    batch = images_a_forward(images_NCHW.shape[2], classifier.device)
    parts = [classifier.forward(part).softmax(1) for part in images_NCHW.split(batch)]
    return float(torch.cat(parts).gather(1, targets[:, None]).mean())


def _area(values: np.ndarray, shares: Sequence[float]) -> float:
    return float(np.trapezoid(values, shares))
