"""Class activation maps: six methods that show where in the image a stage of the net finds evidence for a class.

A are the activations of a stage (K channels), G = d score / d A their gradients; the score is the class's logit, or
the difference of two logits where a class is explained *against* another. Before the relu:

    grad-cam     sum_k mean_ij(G_k) · A_k                       Selvaraju et al. 2017, eq. 1 and 2
    grad-cam++   sum_k [sum_ij α_kij · relu(G_kij)] · A_k,      Chattopadhay et al. 2018, eq. 5 and 19
                 α = G² / (2 G² + sum_ab(A_ab) · G³)
    hires-cam    sum_k G_k · A_k                                Draelos & Carin 2020: what a cell adds to the score
    layer-cam    sum_k relu(G_k) · A_k                          Jiang et al. 2021, eq. 3
    score-cam    sum_k softmax_k(s) · A_k, s_k the score of     Wang et al. 2020, algorithm 1; no gradients, one
                 the image masked by channel k                  forward pass per channel
    eigen-cam    A projected on its first right singular vector Muhammad & Yeasin 2020; independent of the class

All stages share one forward and one backward pass (`benchmarks/parts.py` compares this with a library that needs one of
each per stage). Maps are float32 at the resolution of the stage. The state of the net is not changed.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from daybreak.core.errors import UsageError, nearest
from daybreak.models.mode import evaluating
from daybreak.models.registry import stages_of
from daybreak.runs.classifier import autocast, images_a_forward

Method = Literal["grad-cam", "grad-cam++", "hires-cam", "layer-cam", "score-cam", "eigen-cam"]
METHODS: tuple[Method, ...] = get_args(Method)
MASKED_BATCH = 256  # masked images of 32 px a forward on a CPU, for Score-CAM


def class_maps(
    net: nn.Module,
    images_NCHW: Tensor,
    target_N: Tensor,
    layers: Sequence[str],
    method: Method | Mapping[str, Method] = "grad-cam",
    against_N: Tensor | None = None,
) -> dict[str, Tensor]:
    """Maps (N, h, w), float32 and not negative, of every named stage: `maps_of_targets` for one class an image.

    Raises:
        UsageError: a stage or the method has no such name.
    """
    return maps_of_targets(net, images_NCHW, [target_N], layers, method, against_N)[0]


def maps_of_targets(
    net: nn.Module,
    images_NCHW: Tensor,
    targets_TN: Sequence[Tensor],
    layers: Sequence[str],
    method: Method | Mapping[str, Method] = "grad-cam",
    against_N: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
) -> list[dict[str, Tensor]]:
    """The maps for each of several targets, for which the net sees the images, and their masked copies, only once.

    Args:
        images_NCHW: prepared images, float32.
        targets_TN: int64, each the class to explain for each image.
        method: of all stages, or of each by its name.
        against_N: int64, the class to explain it against: the score is then the difference of the two logits, and
            the map shows evidence for `target` and against `against`.
        dtype: of the convolutions on masked copies, whose logits alone are used. All else is float32: gradients in
            bfloat16 would be noise where they are small, which is at early stages.

    Raises:
        UsageError: a stage or the method has no such name.
    """
    layers = check_layers(net, layers)
    methods = dict.fromkeys(layers, method) if isinstance(method, str) else {name: method[name] for name in layers}
    for each in methods.values():
        check_method(each)

    def score_of(logits_NK: Tensor, target_N: Tensor) -> Tensor:
        score_N = logits_NK.gather(1, target_N[:, None])[:, 0]
        return score_N if against_N is None else score_N - logits_NK.gather(1, against_N[:, None])[:, 0]

    scores = [partial(score_of, target_N=target_N) for target_N in targets_TN]
    of_gradients = [name for name in layers if methods[name] in _OF_GRADIENTS]
    others = [name for name in layers if name not in of_gradients]
    maps: list[dict[str, Tensor]] = [{} for _ in targets_TN]
    with _untouched(net):
        if of_gradients:
            activations, by_target = activations_and_gradients(net, images_NCHW, scores, of_gradients)
            for found, gradients in zip(maps, by_target, strict=True):
                for name in of_gradients:
                    found[name] = _OF_GRADIENTS[methods[name]](activations[name], gradients[name]).relu()
        activations = activations_of(net, images_NCHW, others) if others else {}
        for name, a_NKhw in activations.items():
            if methods[name] == "score-cam":
                of_masks = [
                    _logits_of_masked(net, image_CHW, a_Khw, dtype)
                    for image_CHW, a_Khw in zip(images_NCHW, a_NKhw, strict=True)
                ]
                for found, targets_N in zip(maps, targets_TN, strict=True):
                    found[name] = _score_cam(a_NKhw, of_masks, targets_N, against_N)
            else:
                whatever_the_class = _eigen_cam(a_NKhw)
                for found in maps:
                    found[name] = whatever_the_class
    return [{name: found[name] for name in layers} for found in maps]


def check_method(method: str) -> None:
    if method not in METHODS:
        raise UsageError(f"method {method}", "no such map", nearest(method, METHODS))


def check_layers(net: nn.Module, layers: Sequence[str] | None) -> tuple[str, ...]:
    """The named stages in order of depth; all if None.

    Raises:
        UsageError: a name is not a stage; the stages are listed. Or the net has none.
    """
    known = tuple(stages_of(net))
    if not known:
        raise UsageError(type(net).__name__, "has no stage whose output is a map", "a convolutional net")
    layers = [name.strip() for name in layers or known]
    unknown = [name for name in layers if name not in known]
    if unknown:
        raise UsageError(f"layer {unknown[0]}", "this net has no such stage", f"one of {', '.join(known)}")
    return tuple(name for name in known if name in layers)


# -- what the stages put out -------------------------------------------------------------------------------------------


@torch.no_grad()
def activations_of(net: nn.Module, images_NCHW: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
    """Outputs of the named stages, (N, K, h, w) each, in evaluation mode; the state of the net is not changed."""
    with _untouched(net), _captured(net, layers) as activations:
        net(images_NCHW)
    return {name: value.detach() for name, value in activations.items()}


def activations_and_gradients(
    net: nn.Module, images_NCHW: Tensor, scores: Sequence[Callable[[Tensor], Tensor]], layers: Sequence[str]
) -> tuple[dict[str, Tensor], list[dict[str, Tensor]]]:
    """Outputs of the stages and, for each kind of score (N,) of the logits, its gradients with respect to them: one
    forward pass, and a backward pass each."""
    found = []
    with _captured(net, layers) as activations, torch.enable_grad():
        logits_NK = net(images_NCHW)
        for left, score_of in zip(reversed(range(len(scores))), scores, strict=True):
            outputs = [activations[name] for name in layers]
            gradients = torch.autograd.grad(score_of(logits_NK).sum(), outputs, retain_graph=left > 0)
            found.append(dict(zip(layers, gradients, strict=True)))
    return {name: activations[name].detach() for name in layers}, found


@contextmanager
def _captured(net: nn.Module, layers: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Collect the outputs of the stages during the block."""
    activations: dict[str, Tensor] = {}
    stages = stages_of(net)

    def keep(name: str, _module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        # Parameters are frozen here, so autograd starts at the first stage asked for: what lies before is free.
        activations[name] = output if output.requires_grad else output.detach().requires_grad_()
        return activations[name].clone()  # what follows may work in place

    handles = [stages[name].register_forward_hook(partial(keep, name)) for name in layers]
    try:
        yield activations
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _untouched(net: nn.Module) -> Iterator[None]:
    """Evaluation mode without parameter gradients during the block; both are restored afterwards."""
    trainable = [p for p in net.parameters() if p.requires_grad]
    for p in trainable:
        p.requires_grad_(False)
    try:
        with evaluating(net):
            yield
    finally:
        for p in trainable:
            p.requires_grad_(True)


# -- the methods: activations and gradients (N, K, h, w) to maps (N, h, w) --------------------------------------------


def _grad_cam(a_NKhw: Tensor, g_NKhw: Tensor) -> Tensor:
    return torch.einsum("nk,nkhw->nhw", g_NKhw.mean((2, 3)), a_NKhw)


def _grad_cam_pp(a_NKhw: Tensor, g_NKhw: Tensor) -> Tensor:
    # Eq. 19 divided by G², so that small gradients keep their digits. It was made for activations that are not
    # negative; where others bring the denominator to zero or below, alpha means nothing and weighs nothing.
    below = 2 + a_NKhw.sum((2, 3), keepdim=True) * g_NKhw
    alpha = torch.where(below > 1e-3, below.reciprocal(), 0)
    return torch.einsum("nk,nkhw->nhw", (alpha * g_NKhw.relu()).sum((2, 3)), a_NKhw)


def _hires_cam(a_NKhw: Tensor, g_NKhw: Tensor) -> Tensor:
    return (g_NKhw * a_NKhw).sum(1)


def _layer_cam(a_NKhw: Tensor, g_NKhw: Tensor) -> Tensor:
    return (g_NKhw.relu() * a_NKhw).sum(1)


_OF_GRADIENTS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "grad-cam": _grad_cam, "grad-cam++": _grad_cam_pp, "hires-cam": _hires_cam, "layer-cam": _layer_cam,
}  # fmt: skip


def _eigen_cam(a_NKhw: Tensor) -> Tensor:
    """Projection of the activations on their first principal direction in channel space, with the sign that makes the
    sum of the projection positive."""
    a_NPK = a_NKhw.flatten(2).transpose(1, 2)
    _, directions_NKK = torch.linalg.eigh(a_NPK.transpose(1, 2) @ a_NPK)
    share_NP = torch.einsum("npk,nk->np", a_NPK, directions_NKK[:, :, -1])
    share_NP = share_NP * share_NP.sum(1, keepdim=True).sign()
    return share_NP.unflatten(1, a_NKhw.shape[2:]).relu()


def _score_cam(a_NKhw: Tensor, of_masks: Sequence[Tensor], target_N: Tensor, against_N: Tensor | None) -> Tensor:
    """Channels weighted by the softmax of the scores of the image masked by each channel."""
    scores_NK = torch.stack([logits_KL[:, target] for logits_KL, target in zip(of_masks, target_N, strict=True)])
    if against_N is not None:
        scores_NK = scores_NK - torch.stack([l_KL[:, k] for l_KL, k in zip(of_masks, against_N, strict=True)])
    return torch.einsum("nk,nkhw->nhw", scores_NK.softmax(1), a_NKhw).relu()


@torch.no_grad()
def _logits_of_masked(net: nn.Module, image_CHW: Tensor, a_Khw: Tensor, dtype: torch.dtype) -> Tensor:
    """Logits (K, L) of an image multiplied by each channel of its activations, resized and scaled to [0, 1] as a
    mask."""
    masks_K1HW = F.interpolate(a_Khw[:, None], size=image_CHW.shape[1:], mode="bilinear", align_corners=False)
    batch = images_a_forward(image_CHW.shape[1], image_CHW.device, MASKED_BATCH)
    low, high = (f(masks_K1HW, (1, 2, 3), keepdim=True) for f in (torch.amin, torch.amax))
    masks_K1HW = (masks_K1HW - low) / (high - low).clamp(min=1e-12)
    with autocast(image_CHW.device, dtype):
        return torch.cat([net(image_CHW * part).float() for part in masks_K1HW.split(batch)])
