"""Images that are asked about at the same time go through the net together.

Nothing waits for a batch to fill: while the net works, those who come gather, and the next forward takes all of them.
So one client is answered as fast as ever, and two hundred share their forwards. An answer differs from that of the
image alone by rounding only.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from starlette.requests import ClientDisconnect

Answered = tuple[np.ndarray, float]  # probabilities (K,), energy
Classify = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]  # (N, H, W, C) to (N, K) and (N,)
Gone = Callable[[], Awaitable[bool]]


@dataclass(frozen=True)
class _Waiting:
    image_HWC: np.ndarray
    is_gone: Gone
    answer: asyncio.Future[Answered]


class Batches:
    """Those who wait for the net.

    Args:
        classify: uint8 images (N, H, W, C) to probabilities (N, K) and energies (N,).
        at_once: images of a forward, at most.
        net: the one thread in which the net works; each thread would have worker threads of its own.
    """

    def __init__(self, classify: Classify, at_once: int, net: ThreadPoolExecutor) -> None:
        self._classify, self._at_once, self._net = classify, at_once, net
        self._waiting: deque[_Waiting] = deque()
        self._worker: asyncio.Task[None] | None = None

    async def ask(self, image_HWC: np.ndarray, is_gone: Gone) -> Answered:
        """
        Args:
            is_gone: whether nobody waits for the answer any more; the image is then left out.

        Raises:
            ClientDisconnect: nobody does.
        """
        waiting = _Waiting(image_HWC, is_gone, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return await waiting.answer

    async def _work(self) -> None:
        while self._waiting:
            batch = list[_Waiting]()
            try:
                await self._gather(batch)
                if batch:
                    _tell(batch, *await self._answers(np.stack([waiting.image_HWC for waiting in batch])))
            except Exception as error:
                _fail(batch, error)

    async def _answers(self, images_NHWC: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return await asyncio.get_running_loop().run_in_executor(self._net, self._classify, images_NHWC)

    async def _gather(self, batch: list[_Waiting]) -> None:
        """Take the next images of one size whose askers are still there."""
        while self._waiting and len(batch) < self._at_once:
            if batch and self._waiting[0].image_HWC.shape != batch[0].image_HWC.shape:
                break
            waiting = self._waiting.popleft()
            if waiting.answer.cancelled() or await waiting.is_gone():
                _fail([waiting], ClientDisconnect())
            else:
                batch.append(waiting)


def _tell(batch: list[_Waiting], probability_NK: np.ndarray, energy_N: np.ndarray) -> None:
    for waiting, probability_K, energy in zip(batch, probability_NK, energy_N, strict=True):
        if not waiting.answer.done():
            waiting.answer.set_result((probability_K, float(energy)))


def _fail(batch: list[_Waiting], error: Exception) -> None:
    for waiting in batch:
        if not waiting.answer.done():
            waiting.answer.set_exception(error)
