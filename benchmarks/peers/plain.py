"""The training loop that everyone writes in plain PyTorch; two peers share it."""

from collections.abc import Iterator
from typing import Any

import torch.nn.functional as F
from common import Clock, Plan, say
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader


def fit(
    net: nn.Module, optimizer: Optimizer, schedule: LRScheduler, loader: DataLoader[Any], plan: Plan, clock: Clock
) -> None:
    """The plan's steps, the schedule moved on after each."""
    for step, (images_B, labels_B) in zip(range(plan.steps), endless(loader), strict=False):
        loss = F.cross_entropy(net(images_B), labels_B)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        clock.step()
        if (step + 1) % plan.steps_per_epoch == 0:
            say(f"epoch {(step + 1) // plan.steps_per_epoch} loss {loss.item():.4f} {clock.seconds:.1f} s")


def endless(loader: DataLoader[Any]) -> Iterator[tuple[Tensor, Tensor]]:
    while True:
        yield from loader
