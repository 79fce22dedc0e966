"""The compiled net on CUDA, compiled before the clock on made-up images.

On CPUs a compiled step is slower than an eager one: the gradient of max-pooling becomes a scatter (benchmarks/LOG.md).
"""

from itertools import pairwise

import torch
from torch import Tensor

from daybreak.inference import autocast
from daybreak.session import Session


def is_worth_compiling(session: Session) -> bool:
    return session.device.type == "cuda"


def compile_net(session: Session, backend: str = "inductor") -> None:
    """Put the compiled net in the place of `session.forward`, ready for every phase of the run.

    A phase is what the compiler sees as a program of its own: an image size, and which parameters still learn. The
    session is left as it was found, but for the compiled form.
    """
    with session.watch.timed("compile"):
        net, optimizer = session.net, session.optimizer
        learning = [p for p in net.parameters() if p.requires_grad]
        buffers = {name: buffer.clone() for name, buffer in net.named_buffers()}
        session.forward = torch.compile(net, backend=backend, dynamic=False)
        for progress in phases(session):
            optimizer.set_progress(progress)
            with autocast(session.device, session.dtype):
                session.forward(made_up_images(session, progress)).float().sum().backward()
        for p in learning:
            p.requires_grad_(True)
            p.grad = None
        for name, buffer in net.named_buffers():
            buffer.copy_(buffers[name])


def phases(session: Session) -> list[float]:
    """A progress within every phase of the run."""
    ends = {stage.until for stage in session.recipe.resolution} | session.optimizer.ends()
    return [(start + end) / 2 for start, end in pairwise([0.0, *sorted(ends)])]


def made_up_images(session: Session, progress: float) -> Tensor:
    """A batch of the loader's shape, format and layout that shows nothing."""
    loader, size = session.loader, session.loader.size_at(progress)
    channels = loader.images_NHWC.shape[3]
    shape = (loader.batch_size, size, size, channels)
    return torch.zeros(shape, device=session.device, dtype=loader.dtype).permute(0, 3, 1, 2)
