"""The same ResNet-18 under fastai's Learner and `fit_one_cycle`, the way its documentation shows.

    python benchmarks/peers/fastai_resnet18.py --pixels FILE --budget 300 --seed 0

Net and data come from `resnet18`; optimizer (Adam with decoupled decay) and schedule are fastai's own, the rate is the
one of its examples. fastai needs torchvision, whose wheel on the ordinary index is built for CUDA on Linux: beside a
CPU build of PyTorch it loads only once its operators for boxes, which no classifier calls, have been declared.
"""

from collections.abc import Iterable, Iterator
from itertools import chain, islice, repeat

import torch
from common import Clock, Pixels, Plan, main, say
from torch.utils.data import DataLoader, Sampler

for operator in ("nms", "qnms"):  # what importing torchvision expects to be there
    torch.library.define(f"torchvision::{operator}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

from fastai.vision.all import Callback, CancelFitException, CrossEntropyLossFlat, DataLoaders, Learner, set_seed  # noqa: E402
from resnet18 import BATCH, ResNet18, evaluate, make_net, train_loader  # noqa: E402

REQUIREMENTS = ("torch==2.13.0", "numpy==2.4.6", "torchvision==0.28.0", "fastai==2.8.12")
MAX_LR = 3e-3


class Repeated(Sampler[list[int]]):
    """As many batches as the schedule has steps, epoch after epoch: fastai's schedules count whole loaders only."""

    def __init__(self, batches: Iterable[list[int]], steps: int) -> None:
        self.batches, self.steps = batches, steps

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[list[int]]:
        return islice(chain.from_iterable(repeat(self.batches)), self.steps)


class FollowPlan(Callback):
    """Tells the clock about every step, and ends with the last one, before fastai would validate. (A callback called
    Progress would take the place of fastai's own.)"""

    def __init__(self, clock: Clock, plan: Plan) -> None:
        self.clock, self.plan = clock, plan

    def after_batch(self) -> None:
        self.clock.step()
        done = len(self.clock.steps)
        if done % self.plan.steps_per_epoch == 0:
            say(f"epoch {done // self.plan.steps_per_epoch} loss {self.loss.item():.4f} {self.clock.seconds:.1f} s")
        if done == self.plan.steps:
            raise CancelFitException


def train(pixels: Pixels, plan: Plan, seed: int, clock: Clock) -> ResNet18:
    set_seed(seed)
    net = make_net()
    clock.start()
    once = train_loader(pixels)
    loader = DataLoader(once.dataset, sampler=Repeated(once.sampler, plan.schedule), batch_size=None)
    learner = Learner(DataLoaders(loader, loader), net, loss_func=CrossEntropyLossFlat(), cbs=[FollowPlan(clock, plan)])
    with learner.no_bar(), learner.no_logging():
        learner.fit_one_cycle(1, plan.rate * MAX_LR)
    return net


if __name__ == "__main__":
    main("fastai_resnet18", BATCH, train, evaluate, packages=("torch", "numpy", "torchvision", "fastai"))
