"""Training steps as CUDA graphs: a GPU is given the several hundred kernels of a step with one call.

At batch 500 a step of sprint is over in about a millisecond on a large GPU, and Python takes longer than that to start
it kernel by kernel.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from daybreak.core.config import Compile
from daybreak.core.errors import one_line
from daybreak.core.nets import LibraryNetConfig, OwnNet
from daybreak.training.compilation import compile_net, is_worth_compiling, made_up_images, many_programs, phases
from daybreak.training.session import Session
from daybreak.training.step import learn, phase_of

WARM_UP = 3  # steps before one is recorded: compilers and libraries choose their kernels


class RecordedStep:
    """Forward, loss, backward and update for one phase of a run, recorded once.

    Batches are copied to where the graph reads them, rates are tensors that it reads (`optim`). A momentum that the
    schedule moves is a number in the kernels' arguments: then the update stays outside.
    """

    def __init__(self, session: Session, images_BCHW: Tensor, labels_B: Tensor, pool: Any) -> None:
        self.session, self.images_BCHW, self.labels_B = session, images_BCHW, labels_B
        self.updates_inside = session.recipe.schedule.momentum is None
        stream, usual = torch.cuda.Stream(), torch.cuda.current_stream()
        stream.wait_stream(usual)
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                self._step()
        usual.wait_stream(stream)
        session.optimizer.zero_grad()
        self.graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(self.graph, pool=pool):
                self.loss = self._step()
        finally:
            torch.cuda.set_stream(usual)  # where recording fails, PyTorch stays on its own
        outside = [] if self.updates_inside else list(session.net.parameters())
        self.gradients = [(p, p.grad) for p in outside if p.grad is not None]

    def replay(self, images_BCHW: Tensor, labels_B: Tensor) -> Tensor:
        """Take the step; returns the loss."""
        self.images_BCHW.copy_(images_BCHW)
        self.labels_B.copy_(labels_B)
        self.graph.replay()
        if not self.updates_inside:
            for p, gradient in self.gradients:
                p.grad = gradient
            self.session.optimizer.step()
        return self.loss.clone()

    def _step(self) -> Tensor:
        _, loss = learn(self.session, self.images_BCHW, self.labels_B)
        if self.updates_inside:
            self.session.optimizer.step()
        return loss.detach()


def make_ready(session: Session, compiles: Compile = "auto") -> dict[str, str] | None:
    """Compile and record the steps of a run where that pays, before its clock.

    Returns:
        What to tell: "why" steps are slower than they could be, or nothing; None where nothing had to be done.
    """
    if session.device.type != "cuda" or session.team.size > 1:  # what processes tell each other is not recorded
        return None
    compiles = "never" if session.features is not None else compiles  # `forward` is then no module
    told = compile_net(session) if is_worth_compiling(session, compiles) else {}
    if not can_be_recorded(session):
        return told
    if session.forward is not session.net and session.features is None:
        session.optimizer.compile()  # in the steps before the recording
    try:
        record_steps(session)
    except Exception as error:  # a net, a compiler or a library that does what cannot be recorded
        session.graphs.clear()
        if session.features is None:
            session.forward = session.net
        session.optimizer.compile(None)
        why = f"steps are started kernel by kernel ({type(error).__name__}: {one_line(error)[:120]})"
        told = {"why": f"{told['why']}; {why}" if told else why}
    return told


def can_be_recorded(session: Session) -> bool:
    """Not where somebody's own Python belongs to a step: in a net, a loss or a callback it may do something else each
    time, and a recording does not run it. (Augmentation is outside.)"""
    is_known = isinstance(session.recipe.model, OwnNet | LibraryNetConfig) and session.extensions.net is None
    return is_known and session.extensions.loss is None and not session.extensions.callbacks


def record_steps(session: Session) -> None:
    """Record every phase of the run; the session is left as it was found, but for its graphs and its rates, which every
    step sets anew."""
    with session.watch.timed("compile"), _untrained(session), many_programs():
        pool = torch.cuda.graph_pool_handle()  # phases follow each other: one's memory serves the next
        for progress in phases(session):
            session.optimizer.set_progress(progress)
            images_BCHW = made_up_images(session, progress)
            labels_B = torch.zeros(len(images_BCHW), dtype=torch.int64, device=session.device)
            phase = phase_of(session, images_BCHW, labels_B)
            session.graphs[phase] = RecordedStep(session, images_BCHW, labels_B, pool)


@contextmanager
def _untrained(session: Session) -> Iterator[None]:
    """Weights, buffers and the device's random state are afterwards what they were, and no step has been taken."""
    tensors = [*session.net.parameters(), *session.net.buffers()]
    kept = [tensor.detach().clone() for tensor in tensors]
    learning = [p for p in session.net.parameters() if p.requires_grad]
    random = torch.cuda.get_rng_state(session.device)
    try:
        yield
    finally:
        for tensor, value in zip(tensors, kept, strict=True):
            tensor.detach().copy_(value)
        for state in (state for optimizer in session.optimizer.optimizers for state in optimizer.state.values()):
            for value in state.values():
                value.zero_()
        for p in learning:
            p.requires_grad_(True)
            p.grad = None
        torch.cuda.set_rng_state(random, session.device)
