"""Images of another part that are, as good as, in the training part: a test on them flatters.

Two steps. A perceptual hash (Zauner 2010) finds candidates: the signs of the 8×8 lowest frequencies of the grey image
about their median, 64 bits that scaling, JPEG and brightness hardly change; mirrored test images are hashed too. Then
the pixels decide: the correlation of the two images, which no brightness or contrast changes.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.fft import dct

from daybreak.data.dataset import Split, images_a_block
from daybreak.data.hamming import Hashes, near_pairs
from daybreak.data.image import Pixels

SIDE, LOW = 32, 8  # px of the grey image, lowest frequencies kept in each direction
MIN_CORRELATION = 0.95


@dataclass(frozen=True)
class Duplicate:
    """An image of the other part, the test part as a rule, and the training image that it repeats."""

    test: int
    train: int
    correlation: float  # of the pixels
    mirrored: bool
    same_label: bool


def near_duplicates(train: Split, test: Split, known: Hashes | None = None) -> list[Duplicate]:
    """Each test image with a (near-)duplicate in the training part, with the closest one; the closest pairs first.

    Args:
        known: the hashes of the training part, where they have been computed.
    """
    known, found = perceptual_hashes(train.images_NHWC) if known is None else known, dict[int, Duplicate]()
    for mirrored in (False, True):
        for i, j in near_pairs(perceptual_hashes(test.images_NHWC, mirrored), known):
            image = test.images_NHWC[i]
            r = correlation(image[:, ::-1] if mirrored else image, train.images_NHWC[j])
            if r >= MIN_CORRELATION and (i not in found or r > found[i].correlation):
                found[i] = Duplicate(i, j, r, mirrored, bool(test.labels_N[i] == train.labels_N[j]))
    return sorted(found.values(), key=lambda d: -d.correlation)


def perceptual_hashes(images_NHWC: Pixels, mirrored: bool = False) -> Hashes:
    """64 bits an image, (N,). An image of one colour has no structure; such images look alike to the hash.

    Args:
        mirrored: those of the mirrored images, of which there are never more than a block at a time.
    """
    block, way = images_a_block(images_NHWC.shape[1]), -1 if mirrored else 1
    starts = range(0, len(images_NHWC), block)
    bits = [_low_frequency_signs(images_NHWC[at : at + block][:, :, ::way]) for at in starts]
    packed = np.packbits(np.concatenate(bits) if bits else np.zeros((0, 64), bool), axis=1)
    return packed.view(">u8")[:, 0].astype(np.uint64)


def correlation(a_HWC: Pixels, b_HWC: Pixels) -> float:
    """Pearson's, over all pixels and channels; 1 for images of one colour that are equal, 0 for those that are not."""
    a, b = (image.astype(np.float64).ravel() - image.mean() for image in (a_HWC, b_HWC))
    length = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / length if length else float(np.array_equal(a_HWC, b_HWC))


def _low_frequency_signs(images_NHWC: Pixels) -> npt.NDArray[np.bool_]:
    small_NHH = _shrunk(_grey(images_NHWC))
    waves_LH = dct(np.eye(small_NHH.shape[1], dtype=np.float32), axis=0, norm="ortho")[:LOW]
    low = (waves_LH @ small_NHH @ waves_LH.T).reshape(len(small_NHH), -1)  # of a cosine transform, only these
    return low > np.median(low[:, 1:], axis=1, keepdims=True)  # without the mean brightness


def _grey(images_NHWC: Pixels) -> npt.NDArray[np.float32]:
    """The mean of the channels. (numpy's own over so short an axis takes far longer.)"""
    first, *others = np.moveaxis(images_NHWC, 3, 0)
    total = first.astype(np.uint16)
    for channel in others:
        total += channel
    return total.astype(np.float32) / np.float32(1 + len(others))


def _shrunk(grey_NHW: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """To SIDE px by the mean over whole blocks; the few pixels that are left over at the far borders do not matter.
    (Tiny images are enlarged: the hash wants LOW frequencies.)"""
    times = -(-LOW // grey_NHW.shape[1])
    grey_NHW = grey_NHW.repeat(times, 1).repeat(times, 2) if times > 1 else grey_NHW
    step = max(1, grey_NHW.shape[1] // SIDE)
    if step == 1:
        return grey_NHW
    side = grey_NHW.shape[1] // step
    blocks = grey_NHW[:, : side * step, : side * step].reshape(len(grey_NHW), side, step, side, step)
    return np.asarray(blocks.mean((2, 4)), np.float32)
