"""The forms that an exported net can have: an ONNX graph, PyTorch's own exported program, or bare weights."""

import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch

from daybreak.core.errors import UsageError, one_line
from daybreak.core.extras import needing
from daybreak.export.answering import OUTPUTS, AnsweringNet
from daybreak.export.bundle import INPUT

OPSET = 20
METADATA = "daybreak"  # the key of ONNX's metadata under which our facts are


def write_onnx(net: AnsweringNet, channels: int, facts: Mapping[str, object], path: Path) -> None:
    """One file, the facts in its metadata.

    Args:
        facts: what JSON can hold.

    Raises:
        UsageError: the net cannot be exported, or the extra `export` is not installed.
    """
    with needing("export", "export"):
        import onnxscript  # noqa: F401 - torch.onnx wants it, and its own complaint names no extra of ours
    with _quiet():
        graph = exported(net, channels)
        try:
            program = torch.onnx.export(
                graph, dynamo=True, opset_version=OPSET, input_names=[INPUT], output_names=list(OUTPUTS), verbose=False
            )
        except Exception as error:  # an operation that ONNX does not have
            raise _no_graph(net, error, "--format pt2") from None
        assert program is not None
        program.model.metadata_props[METADATA] = json.dumps(facts)
        program.save(path, external_data=False)


def write_pt2(net: AnsweringNet, channels: int, path: Path) -> None:
    """For `torch.export.load(path).module()`."""
    with _quiet():
        torch.export.save(exported(net, channels), path)


def read_pt2(path: Path) -> torch.nn.Module:
    with _quiet():
        return torch.export.load(path).module()


def exported(net: AnsweringNet, channels: int) -> torch.export.ExportedProgram:
    """The graph of a net, for any number of images of any height and width.

    Raises:
        UsageError: the net does something that no graph can express.
    """
    any_size = torch.export.Dim.DYNAMIC
    images = torch.zeros(2, net.decoded + 8, net.decoded + 5, channels, dtype=torch.uint8)
    try:
        return torch.export.export(
            net, (images,), dynamic_shapes={"images_NHWC": {0: any_size, 1: any_size, 2: any_size}}
        )
    except Exception as error:  # whatever a net of somebody's own brings about
        raise _no_graph(net, error, "--format safetensors, which keeps the weights alone") from None


def _no_graph(net: AnsweringNet, error: Exception, remedy: str) -> UsageError:
    why = f"cannot be written as a graph ({type(error).__name__}: {one_line(error)[:160]})"
    return UsageError(type(net.net).__name__, why, remedy)


@contextmanager
def _quiet() -> Iterator[None]:
    """Exporters tell of their own doings, at length."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
