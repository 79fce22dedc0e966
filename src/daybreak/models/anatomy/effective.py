"""What of its receptive field a unit really uses: the effective receptive field (Luo et al. 2016, "Understanding the
effective receptive field in deep convolutional neural networks").

The gradient of the unit in the middle of a stage, with respect to the pixels, says how much each counts. Most of the
theoretical field hardly does: the many paths through its centre outweigh the few through its rim.
"""

from typing import Any

import torch
from torch import Tensor, nn

from daybreak.models.mode import evaluating
from daybreak.models.registry import stages_of

PIXELS = 16 * 32**2  # of noise images, over which the gradient is averaged
COUNTS = 1 - 0.9545  # of the largest gradient: from there on a pixel is in the field (Luo et al., section 3)


def effective_fields(net: nn.Module, image_size: int, in_channels: int, seed: int = 0) -> dict[str, Tensor]:
    """For every stage how much each pixel counts for its middle unit.

    Returns:
        A map (H, W) of float32 by stage, at most 1: the mean over noise images of the gradient's magnitude.
    """
    outputs: dict[str, Tensor] = {}
    hooks = [stage.register_forward_hook(_keep(name, outputs)) for name, stage in stages_of(net).items()]
    device = next(net.parameters()).device
    images, generator = max(1, PIXELS // image_size**2), torch.Generator().manual_seed(seed)
    noise = torch.randn(images, in_channels, image_size, image_size, generator=generator)
    images_NCHW = noise.to(device).requires_grad_()
    try:
        with evaluating(net), torch.enable_grad():
            net(images_NCHW)
            return {name: _counts(out, images_NCHW) for name, out in outputs.items()}
    finally:
        for hook in hooks:
            hook.remove()


def side_of(counts_HW: Tensor) -> float:
    """The side in px of a square as large as the field: of the pixels that count by 4.55 % of the most important."""
    return float((counts_HW > COUNTS * counts_HW.max()).sum()) ** 0.5


def _counts(out_NCHW: Tensor, images_NCHW: Tensor) -> Tensor:
    middle = out_NCHW[:, :, out_NCHW.shape[2] // 2, out_NCHW.shape[3] // 2].sum()
    (gradient_NCHW,) = torch.autograd.grad(middle, images_NCHW, retain_graph=True)
    counts_HW = gradient_NCHW.abs().sum(1).mean(0).float().cpu()
    return counts_HW / counts_HW.max().clamp_min(torch.finfo(torch.float32).tiny)


def _keep(name: str, outputs: dict[str, Tensor]) -> Any:
    def hook(_module: nn.Module, _inputs: Any, out: Tensor) -> None:
        outputs[name] = out

    return hook
