"""The usual ResNet-18 for CIFAR (3x3 stem, no max-pool, 11,173,962 parameters), trained as most tutorials do.

    python benchmarks/peers/resnet18.py --pixels FILE --budget 300 --seed 0

Float32, batch 128, SGD with Nesterov momentum 0.9 and weight decay 5e-4, torch's OneCycleLR up to 0.1, crop after
zero padding of 4 and flip. Faster than most tutorials: channels last in memory, as PyTorch's tuning guide advises
(a quarter less time a step on a CPU), and whole batches augmented at once. The Lightning and fastai peers import net,
data and settings from here, so that only the trainer differs.
"""

import torch
import torch.nn.functional as F
from common import EVALUATION_BATCH, Clock, Pixels, Plan, main
from plain import fit
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler

BATCH, PADDING = 128, 4
MAX_LR, MOMENTUM, WEIGHT_DECAY = 0.1, 0.9, 5e-4
PARAMETERS = 11_173_962

Batch = tuple[Tensor, Tensor]


class BasicBlock(nn.Module):
    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(c_out)
        self.shortcut = nn.Sequential()
        if stride != 1 or c_in != c_out:
            self.shortcut = nn.Sequential(nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out))

    def forward(self, x: Tensor) -> Tensor:
        inner = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(inner)) + self.shortcut(x))


class ResNet18(nn.Sequential):
    def __init__(self) -> None:
        stem = [nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
        stages = [
            BasicBlock(64, 64, 1), BasicBlock(64, 64, 1),
            BasicBlock(64, 128, 2), BasicBlock(128, 128, 1),
            BasicBlock(128, 256, 2), BasicBlock(256, 256, 1),
            BasicBlock(256, 512, 2), BasicBlock(512, 512, 1),
        ]  # fmt: skip
        super().__init__(*stem, *stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10))
        assert sum(p.numel() for p in self.parameters()) == PARAMETERS


def make_net() -> ResNet18:
    net: ResNet18 = ResNet18().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return net


class Normalize:
    """uint8 (N, H, W, C) to float32 (N, C, H, W), channels last in memory: zero mean, unit deviation a channel."""

    def __init__(self, images: Tensor) -> None:
        channels = images.flatten(0, 2).T
        self.mean = torch.stack([channel.float().mean() for channel in channels])
        self.std = torch.stack([channel.float().std() for channel in channels])

    def __call__(self, images: Tensor) -> Tensor:
        return ((images - self.mean) / self.std).permute(0, 3, 1, 2)


class Augmented(Dataset[Batch]):
    """Whole batches by a list of indices: normalised, cropped at random after padding, mirrored at random."""

    def __init__(self, pixels: Pixels) -> None:
        images = torch.from_numpy(pixels.x_train)
        self.size, self.labels, self.normalize = images.shape[1], torch.from_numpy(pixels.y_train), Normalize(images)
        self.padded = F.pad(images, (0, 0, PADDING, PADDING, PADDING, PADDING))

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: list[int]) -> Batch:
        n, line = len(index), torch.arange(self.size)
        top, left = torch.randint(2 * PADDING + 1, (2, n, 1))
        rows, columns = (top + line)[:, :, None], (left + line)[:, None, :]
        columns = torch.where(torch.rand(n, 1, 1) < 0.5, columns.flip(2), columns)
        return self.normalize(self.padded[torch.tensor(index)[:, None, None], rows, columns]), self.labels[index]


def train_loader(pixels: Pixels) -> DataLoader[Batch]:
    images = Augmented(pixels)
    batches = BatchSampler(RandomSampler(images), min(BATCH, len(images)), drop_last=True)
    return DataLoader(images, sampler=batches, batch_size=None)


def one_cycle(optimizer: torch.optim.Optimizer, plan: Plan) -> torch.optim.lr_scheduler.OneCycleLR:
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, plan.rate * MAX_LR, plan.schedule)


def sgd(net: nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD(net.parameters(), MAX_LR, MOMENTUM, weight_decay=WEIGHT_DECAY, nesterov=True)


def train(pixels: Pixels, plan: Plan, seed: int, clock: Clock) -> ResNet18:
    torch.manual_seed(seed)
    net = make_net()
    optimizer = sgd(net)
    schedule = one_cycle(optimizer, plan)
    clock.start()
    fit(net, optimizer, schedule, train_loader(pixels), plan, clock)
    return net


@torch.no_grad()
def evaluate(net: nn.Module, pixels: Pixels) -> tuple[float, None]:
    net.eval()
    normalize, labels = Normalize(torch.from_numpy(pixels.x_train)), torch.from_numpy(pixels.y_test)
    parts = torch.from_numpy(pixels.x_test).split(EVALUATION_BATCH)
    logits = torch.cat([net(normalize(part)) for part in parts])
    return (logits.argmax(1) == labels).double().mean().item(), None


if __name__ == "__main__":
    main("resnet18", BATCH, train, evaluate)
