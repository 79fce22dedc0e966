"""A classifier through torch.compile, within a bounded time.

What compiles cannot be interrupted from inside. So it is done in a process of its own first, which can be ended, and
then here, where the compiler finds most of its work in its cache on disk.

    python -m daybreak.benchmarking.compiling FILE

is that process: it compiles what `compiled` has put into the file, and prints why where it cannot.
"""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from daybreak.benchmarking.forms import Cast, answer, folded
from daybreak.core.errors import one_line
from daybreak.runs.classifier import Classifier

SECONDS = 300.0


def compiled(classifier: Classifier, samples: Sequence[np.ndarray], seconds: float = SECONDS) -> Classifier:
    """`folded` through torch.compile: the same answers, up to rounding.

    Args:
        samples: uint8 images (N, H, W, C) in each number N that it will be asked for; every other is compiled anew.
        seconds: it may take.

    Raises:
        RuntimeError: it cannot be compiled here; the message is the reason, in a line.
    """
    with tempfile.TemporaryDirectory(prefix="daybreak-compile-") as folder:
        _rehearse(Path(folder), classifier, samples, seconds)
    return _compiled(classifier)


def _compiled(classifier: Classifier) -> Classifier:
    ready = folded(classifier)
    assert isinstance(ready.net, Cast)
    call = torch.compile(ready.net.net, dynamic=False, options={"freezing": True})
    return replace(ready, net=Cast(call, classifier.dtype))


def _rehearse(folder: Path, classifier: Classifier, samples: Sequence[np.ndarray], seconds: float) -> None:
    """Compile in another process, with as many threads as here: their number is compiled in."""
    file, output = folder / "classifier.pt", folder / "output"
    torch.save((classifier, [np.array(images) for images in samples], torch.get_num_threads()), file)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-m", "daybreak.benchmarking.compiling", str(file)]
    with output.open("wb") as to:
        process = subprocess.Popen(
            command, env=environment, stdout=to, stderr=subprocess.DEVNULL, start_new_session=True
        )
    try:
        code = process.wait(seconds)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"compiling takes longer than {seconds:g} s") from None
    finally:
        _end(process)
    if code:
        lines = output.read_text(encoding="utf-8", errors="replace").splitlines()
        raise RuntimeError(lines[-1] if lines else f"the compiler's process ended with code {code}")


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End a process that still runs, and the compilers that it has started."""
    if process.poll() is not None:
        return
    if sys.platform == "win32":
        process.kill()
    else:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _main(file: str) -> int:
    classifier, samples, threads = torch.load(file, weights_only=False)  # written by `_rehearse` a moment ago
    torch.set_num_threads(threads)
    try:
        ready = _compiled(classifier)
        for images in samples:
            answer(ready, images)
    except Exception as error:  # whatever a compiler of any make may raise
        print(f"{type(error).__name__}: {one_line(error)[:200]}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1]))
