"""The same ResNet-18 under Lightning's Trainer, the way its documentation shows: a LightningModule and `fit`.

    python benchmarks/peers/lightning_resnet18.py --pixels FILE --budget 300 --seed 0

Net, data, SGD and one cycle come from `resnet18`. Nothing is logged or checkpointed, which is in Lightning's favour.
"""

from typing import Any

import torch.nn.functional as F
from common import Clock, Pixels, Plan, main, say
from lightning import Callback, LightningModule, Trainer, seed_everything
from resnet18 import BATCH, Batch, ResNet18, evaluate, make_net, one_cycle, sgd, train_loader
from torch import Tensor

REQUIREMENTS = ("torch==2.13.0", "numpy==2.4.6", "lightning==2.6.6")


class Classifier(LightningModule):
    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.net, self.plan = make_net(), plan

    def training_step(self, batch: Batch) -> Tensor:
        images_B, labels_B = batch
        return F.cross_entropy(self.net(images_B), labels_B)

    def configure_optimizers(self) -> Any:
        optimizer = sgd(self.net)
        return [optimizer], [{"scheduler": one_cycle(optimizer, self.plan), "interval": "step"}]


class Progress(Callback):
    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_train_batch_end(self, *_: Any) -> None:
        self.clock.step()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        say(f"epoch {trainer.current_epoch + 1} {self.clock.seconds:.1f} s")


def train(pixels: Pixels, plan: Plan, seed: int, clock: Clock) -> ResNet18:
    seed_everything(seed)
    classifier = Classifier(plan)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=-1,
        max_steps=plan.steps,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[Progress(clock)],
    )
    clock.start()
    trainer.fit(classifier, train_loader(pixels))
    return classifier.net


if __name__ == "__main__":
    main("lightning_resnet18", BATCH, train, evaluate, packages=("torch", "numpy", "lightning"))
