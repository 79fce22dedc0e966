"""The seed project's way: the page net in float32, a DataLoader with two workers, PIL transforms image by image.

    python benchmarks/peers/seed_page.py --pixels FILE --epochs 1 --of 24

times one epoch of its 24. The net, Adam and the one cycle are those of daybreak's page recipe, its cutout left out;
what is compared is how the pixels get to the net and how it computes.
"""

import random

import numpy as np
import torch
import torch.nn.functional as F
from common import EVALUATION_BATCH, Clock, Pixels, Plan, main
from PIL import Image, ImageOps
from plain import fit
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

BATCH, PADDING, WORKERS = 512, 4, 2
MAX_LR, WARMUP = 0.01, 5 / 24

Sample = tuple[Tensor, int]


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        inner = F.relu(self.norm1(self.conv1(x)))
        return x + F.relu(self.norm2(self.conv2(inner)))


def block(c_in: int, c_out: int, pool: bool = True) -> nn.Sequential:
    conv = nn.Conv2d(c_in, c_out, 3, padding=1, bias=False)
    return nn.Sequential(conv, nn.MaxPool2d(2) if pool else nn.Identity(), nn.BatchNorm2d(c_out), nn.ReLU())


class Net(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            block(3, 64, pool=False),
            block(64, 128), Residual(128),
            block(128, 256),
            block(256, 512), Residual(512),
            nn.MaxPool2d(4), nn.Flatten(), nn.Linear(512, 10, bias=False),
        )  # fmt: skip


class Images(Dataset[Sample]):
    """Images as normalised tensors, one by one; with `augment`, a random crop after zero padding and a random flip."""

    def __init__(
        self, images: np.ndarray, labels: np.ndarray, mean: np.ndarray, std: np.ndarray, augment: bool
    ) -> None:
        self.images, self.labels, self.augment = images, labels, augment
        self.mean, self.std = (torch.tensor(values, dtype=torch.float32).view(3, 1, 1) for values in (mean, std))

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Sample:
        image = Image.fromarray(self.images[index])
        if self.augment:
            image = random_flip(random_crop(image))
        tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
        return (tensor - self.mean) / self.std, int(self.labels[index])


def random_crop(image: Image.Image) -> Image.Image:
    width, height = image.size
    left, top = random.randint(0, 2 * PADDING), random.randint(0, 2 * PADDING)
    return ImageOps.expand(image, PADDING).crop((left, top, left + width, top + height))


def random_flip(image: Image.Image) -> Image.Image:
    return ImageOps.mirror(image) if random.random() < 0.5 else image


def statistics(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of each channel on the scale of [0, 1]."""
    scaled = images.reshape(-1, 3).astype(np.float32) / 255
    return scaled.mean(0, dtype=np.float64), scaled.std(0, dtype=np.float64)


def train(pixels: Pixels, plan: Plan, seed: int, clock: Clock) -> Net:
    torch.manual_seed(seed)
    net = Net()
    optimizer = torch.optim.Adam(net.parameters(), lr=MAX_LR)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, plan.rate * MAX_LR, plan.schedule, pct_start=WARMUP, anneal_strategy="linear", div_factor=10,
        final_div_factor=1,
    )  # fmt: skip
    clock.start()
    images = Images(pixels.x_train, pixels.y_train, *statistics(pixels.x_train), augment=True)
    batch = min(BATCH, len(images))
    loader = DataLoader(images, batch, shuffle=True, num_workers=WORKERS, drop_last=True)
    fit(net, optimizer, schedule, loader, plan, clock)
    return net


@torch.no_grad()
def evaluate(net: Net, pixels: Pixels) -> tuple[float, None]:
    net.eval()
    images = Images(pixels.x_test, pixels.y_test, *statistics(pixels.x_train), augment=False)
    right = sum((net(x).argmax(1) == y).sum().item() for x, y in DataLoader(images, EVALUATION_BATCH))
    return right / len(images), None


if __name__ == "__main__":
    main("seed_page", BATCH, train, evaluate, packages=("torch", "numpy", "pillow"))
