"""A step that would spoil the net is found before it changes anything.

On CUDA and MPS this would make the host wait for the device at every step; there the losses are looked at about once a
second (`step_log`), and the last checkpoint is what is left.
"""

from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from daybreak.core.config import Recipe
from daybreak.core.errors import BadStepError
from daybreak.runs.classifier import autocast
from daybreak.training.extensions import Loss
from daybreak.training.session import Phase, Session

NAMED = 3  # images of a batch that are named


def is_guarded(device: torch.device) -> bool:
    """Whether every step is checked on this device. Others than the CPU work on their own: looking would stall them."""
    return device.type == "cpu"


@dataclass(frozen=True)
class Before:
    """What a forward pass changes, as it was: buffers (batch norm's running statistics) and random state (dropout)."""

    buffers: list[Tensor]
    random: Tensor

    @classmethod
    def of(cls, session: Session) -> "Before | None":
        """None where steps are not guarded."""
        if not is_guarded(session.device):
            return None
        return cls([buffer.clone() for buffer in session.net.buffers()], torch.get_rng_state())

    def restore(self, session: Session) -> None:
        for buffer, before in zip(session.net.buffers(), self.buffers, strict=True):
            buffer.copy_(before)
        torch.set_rng_state(self.random)


@torch.no_grad()
def check_step(session: Session, logits_BK: Tensor, loss: Tensor, before: Before | None) -> None:
    """To be called with the gradients there and the update still to come.

    Args:
        before: what there was before the forward pass; None where steps are not guarded.

    Raises:
        BadStepError: the loss or a gradient is not finite; the net is as it was before the step.
    """
    if before is None:
        return
    gradients = [p.grad for p in session.net.parameters() if p.grad is not None]
    sums = torch.stack([g.sum() for g in gradients]) if gradients else loss  # a sum keeps what is not finite
    if loss.isfinite() and sums.isfinite().all():
        return
    before.restore(session)
    session.optimizer.zero_grad()
    what = "a gradient is not finite" if loss.isfinite() else f"the loss is {loss.item()}"
    rate = session.optimizer.optimizers[0].param_groups[0]["rate"]
    why = f"{what} at learning rate {rate:g}, on {_names(session, logits_BK)}"
    raise BadStepError(f"step {session.step + 1}", why, "a lower schedule.max_lr, or --on-nonfinite skip")


def _names(session: Session, logits_BK: Tensor) -> str:
    """The images whose own logits are not finite, or of all the batch where that does not single any out."""
    index_B = session.loader.indices(session.step).cpu()
    spoilt_B = ~logits_BK.isfinite().all(1).cpu()
    chosen = index_B[spoilt_B] if spoilt_B.any() else index_B
    names = [session.dataset.train.names[int(i)] for i in chosen[:NAMED]]
    return ", ".join(names) + (f" and {len(chosen) - NAMED} more" if len(chosen) > NAMED else "")


def train_step(session: Session, images_BCHW: Tensor, labels_B: Tensor) -> Tensor:
    """Forward, backward, update; returns the mean loss over the batch, whose part of this process is given.

    Raises:
        BadStepError: see `check_step`.
    """
    if session.graphs and (graph := session.graphs.get(phase_of(session, images_BCHW, labels_B))):
        loss = graph.replay(images_BCHW, labels_B)
    else:
        before = Before.of(session)
        logits, loss = learn(session, images_BCHW, labels_B)
        loss = session.team.add_up(session.net.parameters(), loss.detach())
        check_step(session, logits, loss, before)
        session.optimizer.step()
    if session.ema:
        session.ema.update_parameters(session.net)
    return loss.detach()


def learn(session: Session, images_BCHW: Tensor, labels_B: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (B, K) and loss, with the gradients in their place: of a team, what this process's images add to those of
    the batch."""
    if not session.team.is_first:  # dropout draws the same at rank 0 as in one process, and elsewhere something else
        torch.manual_seed(hash((session.seed, session.team.rank, session.step)))
    with autocast(session.device, session.dtype):
        logits = session.forward(images_BCHW)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))  # bfloat16 is too coarse for a loss
    loss = loss_of(session)(logits, labels_B)
    if session.team.size > 1:
        loss = loss * share(session, labels_B)
    session.optimizer.zero_grad()
    loss.backward()
    return logits, loss


def share(session: Session, labels_B: Tensor) -> float | Tensor:
    """What the mean over this process's images counts in the mean over the batch."""
    index_B = session.loader.indices(session.step)
    weights_K = session.weights_K
    if weights_K is None or session.extensions.loss or labels_B.is_floating_point():
        return len(labels_B) / len(index_B)
    return weights_K[labels_B].sum() / weights_K[session.loader.labels_N[index_B]].sum()


def phase_of(session: Session, images_BCHW: Tensor, labels_B: Tensor) -> Phase:
    """What a step's program depends on: shape and format of its batch, and how many parameters still learn. (The labels
    of an augmentation of somebody's own may be shares of classes.)"""
    batch = (images_BCHW.shape, images_BCHW.dtype, labels_B.shape, labels_B.dtype)
    return *batch, sum(p.requires_grad for p in session.net.parameters())


def loss_of(session: Session) -> Loss:
    """What the run minimises: somebody's own loss, or the recipe's."""
    return session.extensions.loss or partial(batch_loss, session.recipe, weights_K=session.weights_K)


def batch_loss(recipe: Recipe, logits_BK: Tensor, labels_B: Tensor, weights_K: Tensor | None = None) -> Tensor:
    """The recipe's loss, in nats, as a mean over the batch; weighted by class where there are weights."""
    scores_BK = logits_BK.softmax(1) if recipe.loss == "softmax-twice" else logits_BK
    return F.cross_entropy(scores_BK, labels_B, weights_K, label_smoothing=recipe.label_smoothing)
