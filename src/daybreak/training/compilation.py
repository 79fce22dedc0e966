"""What is made ready before the clock, on made-up images: how each convolution goes, the compiled net.

On CPUs a compiled step is slower than an eager one: the gradient of max-pooling becomes a scatter (benchmarks/LOG.md).
"""

from contextlib import AbstractContextManager
from itertools import pairwise

import torch
from torch import Tensor

from daybreak.core.config import Compile
from daybreak.core.errors import one_line
from daybreak.models.layers import Conv3x3
from daybreak.models.mode import evaluating
from daybreak.models.winograd.choice import DIRECT
from daybreak.runs.classifier import autocast, images_a_forward
from daybreak.runs.transforms import scale_pixels
from daybreak.training.augment import augment_batch, draw_epoch
from daybreak.training.features import FeatureLoader
from daybreak.training.loader import Loader
from daybreak.training.progress import TimeHorizon
from daybreak.training.session import Session

# Compiling took 19 to 37 s on an H200 and made steps a quarter faster (benchmarks/LOG.md): it pays for longer runs.
PAYS_FROM_STEPS, PAYS_FROM_SECONDS = 50_000, 180.0
PROGRAMS = 1000  # of one function in one process


def is_worth_compiling(session: Session, wanted: Compile = "auto") -> bool:
    """Whether a run on CUDA wins back what compiling takes; on CPUs none does."""
    if session.device.type != "cuda" or wanted != "auto":
        return session.device.type == "cuda" and wanted == "always"
    if isinstance(session.horizon, TimeHorizon):
        return session.horizon.budget >= PAYS_FROM_SECONDS
    return (session.horizon.steps or 0) >= PAYS_FROM_STEPS


@torch.no_grad()
def choose_convolutions(session: Session) -> None:
    """Time every layer shape that the run will meet and that this machine has not timed before."""
    has_a_choice = any(isinstance(module, Conv3x3) for module in session.net.modules())
    if session.device.type != "cpu" or session.convolutions.wanted == DIRECT or not has_a_choice:
        return
    with session.watch.timed("compile"), evaluating(session.net), autocast(session.device, session.dtype):
        for progress in phases(session) if session.features is None else ():
            session.net(made_up_images(session, progress))
        size = session.classifier.size  # at which it will be evaluated, in batches of another size
        channels = session.dataset.decode.channels
        session.net(torch.zeros(images_a_forward(size, session.device), channels, size, size))
    # What one process measured holds for all: their sums then have the bits of a run that goes on with its choices.
    session.convolutions.chosen = session.team.say(lambda: session.convolutions.chosen)


def compile_net(session: Session, backend: str = "inductor") -> dict[str, str]:
    """Put the compiled net in the place of `session.forward`, ready for every phase of the run.

    A phase is what the compiler sees as a program of its own: an image size, and which parameters still learn. The
    session is left as it was found, but for the compiled form. Where compiling fails (there may be no C compiler), the
    net stays eager.

    Returns:
        What to tell: "why" it stayed eager, or nothing.
    """
    with session.watch.timed("compile"):
        learning = [p for p in session.net.parameters() if p.requires_grad]
        buffers = {name: buffer.clone() for name, buffer in session.net.named_buffers()}
        session.forward = torch.compile(session.net, backend=backend, dynamic=False)
        told = {}
        try:
            with many_programs():
                for progress in phases(session):
                    _run_phase(session, progress)
        except Exception as error:  # whatever a compiler of any make may raise
            session.forward = session.net
            told = {"why": f"training without a compiler ({type(error).__name__}: {one_line(str(error))[:120]})"}
        for p in learning:
            p.requires_grad_(True)
            p.grad = None
        for name, buffer in session.net.named_buffers():
            buffer.copy_(buffers[name])
    return told


def many_programs() -> AbstractContextManager[None]:
    """Programs of earlier runs in the process count against PyTorch's limit; those of a same recipe are used again."""
    limits = {"recompile_limit": PROGRAMS, "accumulated_recompile_limit": PROGRAMS}
    patched: AbstractContextManager[None] = torch._dynamo.config.patch(limits)
    return patched


def _run_phase(session: Session, progress: float) -> None:
    session.optimizer.set_progress(progress)
    with autocast(session.device, session.dtype):
        session.forward(made_up_images(session, progress)).float().sum().backward()


def phases(session: Session) -> list[float]:
    """A progress within every phase of the run."""
    ends = {stage.until for stage in session.recipe.resolution} | session.optimizer.ends()
    return [(start + end) / 2 for start, end in pairwise([0.0, *sorted(ends)])]


def made_up_images(session: Session, progress: float) -> Tensor:
    """A batch that shows nothing and went the way of every batch, so that shape, format and layout are theirs."""
    loader, config, device = session.loader, session.recipe.augment, session.device
    if isinstance(loader, FeatureLoader):
        return loader.blank(device)
    assert isinstance(loader, Loader)
    rows = session.team.rows(loader.batch_size)
    size, images = loader.size_at(progress), rows.stop - rows.start
    padded = size + 2 * scale_pixels(config.crop, size)
    blank_NHWC = torch.zeros((images, padded, padded, loader.images.channels), dtype=torch.uint8, device=device)
    mine = draw_epoch(config, images, seed=0, epoch=0, device=device)
    index_B = torch.arange(images, device=device)
    return augment_batch(config, blank_NHWC, index_B, mine, size, loader.normalize, loader.dtype)
