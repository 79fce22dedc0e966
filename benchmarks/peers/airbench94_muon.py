"""airbench94_muon (Keller Jordan 2024), the fastest published recipe of its time, re-created in plain eager PyTorch.

    python benchmarks/peers/airbench94_muon.py --pixels FILE --epochs 8 --seed 0

Written from the facts of the recipe: net, initial weights, optimizers, rates, schedule, augmentation, label smoothing
and test-time augmentation are his. Other than his: it runs on a CPU in bfloat16 with float32 master weights (his half
precision needs a GPU, and bfloat16 weights lose two points here), or in float32 where the processor has no bfloat16;
pixels are normalised with their own statistics, and nothing is compiled.
"""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from common import Clock, Pixels, Plan, main, say
from torch import Tensor, nn

BATCH, TRANSLATE, SMOOTHING = 2000, 2, 0.2
MUON_LR, MUON_MOMENTUM = 0.24, 0.6
BIAS_LR, HEAD_LR, SGD_MOMENTUM = 0.053, 0.67, 0.85  # for the loss summed over the batch
WEIGHT_DECAY = 2e-6  # times the batch, decoupled from the rate
WHITEN_BIAS_UNTIL = 3 / 8  # of training


class Group(nn.Sequential):
    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__(
            conv3x3(c_in, c_out), nn.MaxPool2d(2), norm(c_out), nn.GELU(),
            conv3x3(c_out, c_out), norm(c_out), nn.GELU(),
        )  # fmt: skip


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.whiten = nn.Conv2d(3, 24, 2)
        self.whiten.weight.requires_grad = False
        self.groups = nn.Sequential(nn.GELU(), Group(24, 64), Group(64, 256), Group(256, 256), nn.MaxPool2d(3))
        self.head = nn.Linear(256, 10, bias=False)
        with torch.no_grad():
            self.head.weight /= self.head.weight.std()

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.groups(self.whiten(images)).flatten(1))
        return logits / 256


def conv3x3(c_in: int, c_out: int) -> nn.Conv2d:
    conv = nn.Conv2d(c_in, c_out, 3, padding=1, bias=False)
    nn.init.dirac_(conv.weight.data[:c_in])
    return conv


def norm(channels: int) -> nn.BatchNorm2d:
    batch_norm = nn.BatchNorm2d(channels, eps=1e-12, momentum=0.4)
    batch_norm.weight.requires_grad = False
    return batch_norm


def compute_dtype(device: torch.device) -> torch.dtype:
    """bfloat16, but float32 on a processor that has none: there PyTorch emulates it at a fraction of the speed."""
    has_bfloat16 = device.type != "cpu" or torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if has_bfloat16 else torch.float32


def autocast(device: torch.device) -> torch.autocast:
    dtype = compute_dtype(device)
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)


def whitening(images: Tensor) -> Tensor:
    """Filters (24, 3, 2, 2) that decorrelate 2x2 patches: strongest direction first, then all of them negated."""
    patches = F.unfold(images, 2).transpose(1, 2).reshape(-1, 12)
    eigenvalues, eigenvectors = torch.linalg.eigh(patches.T @ patches / len(patches))
    filters = (eigenvectors / (eigenvalues + 5e-4).sqrt()).T.flip(0).reshape(12, 3, 2, 2)
    return torch.cat([filters, -filters])


def orthogonal(gradient: Tensor) -> Tensor:
    """Three Newton-Schulz steps towards the nearest semi-orthogonal matrix."""
    x = gradient.to(compute_dtype(gradient.device))
    x = x / (x.norm() + 1e-7)
    tall = len(gradient) > gradient.shape[1]
    x = x.T if tall else x
    for _ in range(3):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    nearest: Tensor = x.T if tall else x
    return nearest


class Muon(torch.optim.Optimizer):
    def __init__(self, params: list[nn.Parameter]) -> None:
        super().__init__(params, {"lr": MUON_LR})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                buffer = self.state[p].setdefault("momentum", torch.zeros_like(p))
                buffer.mul_(MUON_MOMENTUM).add_(p.grad)
                update = orthogonal((p.grad + MUON_MOMENTUM * buffer).reshape(len(p), -1))
                p.mul_(len(p) ** 0.5 / p.norm())
                p.sub_(update.view_as(p), alpha=group["lr"])


class Optimizers:
    """Muon for the filters, SGD for the rest, all rates falling linearly to zero."""

    def __init__(self, net: Net, batch: int, steps: int, rate: float = 1.0) -> None:
        filters = [p for p in net.groups.parameters() if p.ndim == 4]
        biases = [p for p in net.groups.parameters() if p.ndim == 1 and p.requires_grad]
        decay = WEIGHT_DECAY * batch
        groups = [
            {"params": [net.whiten.bias], "lr": BIAS_LR, "weight_decay": decay / BIAS_LR},
            {"params": biases, "lr": BIAS_LR, "weight_decay": decay / BIAS_LR},
            {"params": [net.head.weight], "lr": HEAD_LR, "weight_decay": decay / HEAD_LR},
        ]
        self.steps, self.whiten_steps = steps, math.ceil(WHITEN_BIAS_UNTIL * steps)
        self.both = [torch.optim.SGD(groups, momentum=SGD_MOMENTUM, nesterov=True), Muon(filters)]
        self.whiten_group, *self.other_groups = (group for one in self.both for group in one.param_groups)
        self.peaks = [rate * group["lr"] for group in self.other_groups]
        self.whiten_peak = rate * BIAS_LR

    def step(self, at: int) -> None:
        self.whiten_group["lr"] = self.whiten_peak * max(0.0, 1 - at / self.whiten_steps)
        for group, peak in zip(self.other_groups, self.peaks, strict=True):
            group["lr"] = peak * (1 - at / self.steps)
        for optimizer in self.both:
            optimizer.step()
            optimizer.zero_grad()
        if at + 1 >= self.whiten_steps:
            self.whiten_group["params"][0].requires_grad = False


def batches(images: Tensor, labels: Tensor, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless epochs. A random half of the images is mirrored in the first epoch, the other half in the second, and
    so on; each image is cut at a random place from its padded self. `images` are uint8 (N, C, H, W)."""
    n, _, size, _ = images.shape
    half = torch.rand(n, device=images.device) < 0.5
    padded = F.pad(torch.where(half.view(-1, 1, 1, 1), images.flip(3), images), (TRANSLATE,) * 4, "reflect")
    epoch = 0
    while True:
        cropped, (top, left) = torch.empty_like(images), torch.randint(2 * TRANSLATE + 1, (2, n), device=images.device)
        for y in range(2 * TRANSLATE + 1):
            for x in range(2 * TRANSLATE + 1):
                here = (top == y) & (left == x)
                cropped[here] = padded[here, :, y : y + size, x : x + size]
        for index in torch.randperm(n, device=images.device).split(batch)[: n // batch]:
            chosen = cropped[index]
            yield chosen.flip(3) if epoch % 2 else chosen, labels[index]
        epoch += 1


class Normalize(nn.Module):
    """uint8 (N, C, H, W) to float32 with zero mean and unit deviation a channel of the images it was made from."""

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        levels = images.transpose(0, 1).flatten(1)
        self.mean = torch.stack([channel.float().mean() for channel in levels]).view(-1, 1, 1)
        self.std = torch.stack([channel.float().std() for channel in levels]).view(-1, 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        return ((images.float() - self.mean) / self.std).contiguous(memory_format=torch.channels_last)


def train(pixels: Pixels, plan: Plan, seed: int, clock: Clock) -> nn.Sequential:
    torch.manual_seed(seed)
    device = torch.device(clock.device)
    net = Net().to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    clock.start()
    images = torch.from_numpy(pixels.x_train).to(device).permute(0, 3, 1, 2).contiguous()
    labels = torch.from_numpy(pixels.y_train).to(device)
    batch = min(BATCH, len(labels))
    model = nn.Sequential(Normalize(images), net)
    with torch.no_grad():
        net.whiten.weight.copy_(whitening(model[0](images[:5000])))
    optimizers = Optimizers(net, batch, plan.schedule, plan.rate)
    for step, (images_B, labels_B) in zip(range(plan.steps), batches(images, labels, batch), strict=False):
        with autocast(device):
            logits = model(images_B)
        loss = F.cross_entropy(logits.float(), labels_B, label_smoothing=SMOOTHING, reduction="sum")
        loss.backward()
        optimizers.step(step)
        clock.step()
        if (step + 1) % plan.steps_per_epoch == 0:
            epoch, mean_loss = (step + 1) // plan.steps_per_epoch, loss.item() / batch
            say(f"epoch {epoch} loss {mean_loss:.4f} {clock.seconds:.1f} s")
    return model


def views(images: Tensor) -> list[tuple[float, Tensor]]:
    """Six weighted views: the image, and itself one pixel off up-left and down-right, each with its mirror image."""
    padded = F.pad(images, (1, 1, 1, 1), "reflect")
    places = [(0.5, images), (0.25, padded[:, :, :-2, :-2]), (0.25, padded[:, :, 2:, 2:])]
    return [(weight / 2, side) for weight, image in places for side in (image, image.flip(3))]


@torch.no_grad()
def evaluate(model: nn.Sequential, pixels: Pixels) -> tuple[float, float]:
    """Accuracy plain, and of the logits averaged over the views."""
    model.eval()
    device = next(model.parameters()).device
    images = torch.from_numpy(pixels.x_test).to(device).permute(0, 3, 1, 2)
    labels = torch.from_numpy(pixels.y_test).to(device)
    plain, averaged = [], []
    for part in model[0](images).split(BATCH):
        logits = [(weight, predict(model[1], view)) for weight, view in views(part)]
        plain.append(logits[0][1])
        averaged.append(torch.stack([weight * one for weight, one in logits]).sum(0))
    model.train()
    return accuracy(torch.cat(plain), labels), accuracy(torch.cat(averaged), labels)


def accuracy(logits: Tensor, labels: Tensor) -> float:
    return (logits.argmax(1) == labels).double().mean().item()


def predict(net: nn.Module, images: Tensor) -> Tensor:
    with autocast(images.device):
        logits: Tensor = net(images)
    return logits.float()


if __name__ == "__main__":
    main("airbench94_muon", BATCH, train, evaluate)
