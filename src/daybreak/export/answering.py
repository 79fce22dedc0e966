"""A net with everything around it in one graph: uint8 images of any size in, probabilities out."""

import torch
from torch import Tensor, nn

from daybreak.export.resampling import cubic, in_sixteen_bits, resample, triangle, weights
from daybreak.models.anatomy.folding import fold_batch_norms
from daybreak.models.layers import use_convolutions
from daybreak.models.winograd.choice import DIRECT, Convolutions
from daybreak.runs.card import ModelCard
from daybreak.runs.transforms import Normalizer

OUTPUTS = ("probabilities", "label", "energy")


class AnsweringNet(nn.Module):
    """Images as they are in files to what the net says about them.

    The centre square of each image is resized to the side that training decoded to, as `data.image` does, and to that
    at which the net sees images, as `runs.transforms` does.

    Args:
        net: in evaluation mode.
    """

    smaller: Tensor | None
    scale: Tensor
    shift: Tensor

    def __init__(self, net: nn.Module, card: ModelCard) -> None:
        super().__init__()
        self.net, self.decoded = net, card.decode.size
        between = weights(triangle, self.decoded, 0, self.decoded, card.size)
        self.register_buffer("smaller", None if card.size == self.decoded else in_sixteen_bits(between))
        scale, shift = Normalizer(card.mean, card.std).affine(torch.device("cpu"))
        self.register_buffer("scale", scale.view(-1, 1, 1))
        self.register_buffer("shift", shift.view(-1, 1, 1))

    def forward(self, images_NHWC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """
        Args:
            images_NHWC: uint8, of any height and width, the same for all.

        Returns:
            Probabilities (N, K), float32; the likeliest class (N,), int64; the energy (N,), float32, which is high for
            images unlike those of the training part (Liu et al. 2020).
        """
        height, width = images_NHWC.shape[1:3]
        square = torch.sym_min(height, width)
        rows = weights(cubic, height, (height - square) // 2, square, self.decoded)
        columns = weights(cubic, width, (width - square) // 2, square, self.decoded)
        images_NCHW = resample(images_NHWC.permute(0, 3, 1, 2).float(), rows, columns)
        if self.smaller is not None:
            images_NCHW = resample(images_NCHW, self.smaller, self.smaller)
        logits_NK = self.net(torch.addcmul(self.shift, images_NCHW, self.scale)).float()
        return logits_NK.softmax(1), logits_NK.argmax(1), -logits_NK.logsumexp(1)


def answering(net: nn.Module, card: ModelCard) -> AnsweringNet:
    """A run's net ready for export: convolutions computed directly, batch norms folded where the net can be traced."""
    use_convolutions(net, Convolutions(DIRECT))
    try:
        net = fold_batch_norms(net)
    except Exception:  # whatever torch.fx does not like about a net of somebody's own: it keeps its norms
        net = net.eval().requires_grad_(False)
    return AnsweringNet(net, card).eval()
