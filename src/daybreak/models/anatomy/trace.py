"""What happens to the image on its way through a net: shapes, parameters, multiply-adds, receptive fields.

The net is traced symbolically (torch.fx) and run once on zeros. A unit's receptive field grows by
(kernel - 1) · dilation · stride so far at every convolution and pool (Araujo, Norris & Sim 2019, "Computing
receptive fields of convolutional neural networks"); where branches meet, a unit sees what any of them sees.
"""

import operator
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from daybreak.core.errors import UsageError, one_line
from daybreak.models.anatomy.stages import stage_names
from daybreak.models.layers import GlobalMaxPool, GlobalMeanPool, Scale, Standardize
from daybreak.models.mode import evaluating

_LEAVES = (GlobalMaxPool, GlobalMeanPool, Scale, Standardize)
_JOINS = {operator.add: "add", operator.iadd: "add", torch.add: "add", torch.cat: "concatenate"}
_GLOBAL = (GlobalMaxPool, GlobalMeanPool, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
_WINDOWS = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)  # and what libraries have made of them
BYTES = 4  # of a float32
_TRACING = threading.Lock()  # torch.fx patches nn.Module for the whole process; two at once would leave it patched


@dataclass(frozen=True)
class Field:
    """What a unit sees of the image, in px and in either direction."""

    size: int = 1
    stride: int = 1
    centre: float = 0.5  # of the first unit's field, from the image's border

    @classmethod
    def union(cls, fields: Sequence["Field"]) -> "Field":
        """What a unit sees that is made of these. (They have one stride, but for a gate that saw the whole image.)"""
        low, high = min(f.centre - f.size / 2 for f in fields), max(f.centre + f.size / 2 for f in fields)
        return cls(round(high - low), min(f.stride for f in fields), (low + high) / 2)

    def after(self, kernel: int, stride: int, dilation: int, padding: int) -> "Field":
        reach = (kernel - 1) * dilation
        centre = self.centre + (reach / 2 - padding) * self.stride
        return Field(self.size + reach * self.stride, self.stride * stride, centre)

    def span(self, unit: int, image_size: int) -> tuple[float, float]:
        """From where to where unit number `unit` sees, cut off at the image's borders."""
        middle = self.centre + unit * self.stride
        return max(0.0, middle - self.size / 2), min(float(image_size), middle + self.size / 2)


@dataclass(frozen=True)
class Layer:
    """One row of the table: `output_shape` without the batch; multiply-adds for one image."""

    name: str
    kind: str
    output_shape: tuple[int, ...]
    params: int
    macs: int
    activation_bytes: int  # of its output for one image in float32
    kernel: int | None  # px; None where there is no window
    stride: int | None
    dilation: int | None
    receptive_field: int  # px of the image, in either direction, cut off at no border
    effective_stride: int  # px of the image between neighbouring units
    first_centre: float  # px from the image's border to the centre of the first unit's field

    @property
    def field(self) -> Field:
        """What a unit of its output sees."""
        return Field(self.receptive_field, self.effective_stride, self.first_centre)

    def is_in(self, stage: str) -> bool:
        """Whether the layer is this module or a part of it."""
        return f"{self.name}.".startswith(f"{stage}.")


def trace(net: nn.Module, image_size: int, in_channels: int) -> list[Layer]:
    """The layers of a net in the order in which they compute, and every place where branches meet.

    Raises:
        UsageError: the net cannot be traced, because what it does depends on the values in its tensors, say.
    """
    with evaluating(net), torch.no_grad():
        tracer = _traced(net)
        device = next((p.device for p in net.parameters()), torch.device("cpu"))
        tracer.run(torch.zeros(1, in_channels, image_size, image_size, device=device))
    return tracer.layers


def _traced(net: nn.Module) -> "_Tracer":
    try:
        return _Tracer(net)
    except Exception as error:  # torch.fx raises many kinds, whatever it meets
        why = f"cannot be traced by torch.fx ({one_line(str(error))[:100]})"
        raise UsageError(type(net).__name__, why, "a net whose forward does the same for every image") from None


def stage_fields(net: nn.Module, image_size: int, in_channels: int) -> dict[str, Field]:
    """The receptive field of a unit of each stage's output; nothing where the net cannot be traced."""
    try:
        rows = stage_rows(net, trace(net, image_size, in_channels))
    except UsageError:
        return {}
    return {name: row.field for name, row in rows.items()}


def stage_rows(net: nn.Module, layers: Sequence[Layer]) -> dict[str, Layer]:
    """The last layer of each stage."""
    return {stage: [row for row in layers if row.is_in(stage)][-1] for stage in stage_names(net)}


def count_params(net: nn.Module) -> int:
    """All parameters, the fixed ones included."""
    return sum(p.numel() for p in net.parameters())


def count_macs(net: nn.Module, image_size: int, in_channels: int) -> int:
    """Multiply-adds of convolutions and linear layers for one image."""
    return sum(layer.macs for layer in trace(net, image_size, in_channels))


def symbolic(net: nn.Module) -> fx.GraphModule:
    """The net as a graph of its modules; it shares their parameters.

    Raises:
        fx.proxy.TraceError: what the net does depends on the values in its tensors.
    """
    with _TRACING:
        return fx.GraphModule(net, _LeafTracer(net).trace(net))


class _LeafTracer(fx.Tracer):
    """While it traces, torch.fx sees the calls of all modules of the process: those of other threads are let pass."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self._own = {id(module) for module in net.modules()}

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if id(m) not in self._own:
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, (*_LEAVES, *_WINDOWS)) or super().is_leaf_module(m, module_qualified_name)


class _Tracer(fx.Interpreter):
    """Runs the graph node by node and keeps the receptive field of every value."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(symbolic(net), garbage_collect_values=False)
        self.layers: list[Layer] = []
        self._fields: dict[fx.Node, Field] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        sources = [self._fields[source] for source in n.all_input_nodes]
        field = Field.union(sources or [Field()])
        if n.op == "call_module":
            module = self.submodules[str(n.target)]
            field = _through(module, field, self.env[n.all_input_nodes[0]])
            if not isinstance(module, nn.Identity):
                self._note(str(n.target), kind_of(module), value, module, field)
        elif n.op == "call_function" and n.target in _JOINS and len(sources) > 1:
            self._note(self._join_name(n), _JOINS[n.target], value, None, field)
        self._fields[n] = field
        return value

    def _note(self, name: str, kind: str, value: Tensor, module: nn.Module | None, field: Field) -> None:
        params = count_params(module) if module else 0
        macs = _macs(module, value) if module else 0
        size = BYTES * value.numel()
        kernel, stride, dilation, _ = _geometry(module) if isinstance(module, _WINDOWS) else (None,) * 4
        seen = (field.size, field.stride, field.centre)
        shape = tuple(value.shape[1:])
        self.layers.append(Layer(name, kind, shape, params, macs, size, kernel, stride, dilation, *seen))

    def _join_name(self, n: fx.Node) -> str:
        """The module in whose forward the branches meet; fx keeps the innermost one last."""
        stack = n.meta.get("nn_module_stack", {})
        names = [path for path, _ in stack.values() if path]
        return names[-1] if names else n.name


def kind_of(module: nn.Module) -> str:
    """What a person calls this layer, e.g. `conv 3×3`, `conv 3×3 /2`, `max-pool 2×2`."""
    if isinstance(module, _WINDOWS):
        name = {nn.Conv2d: "conv", nn.MaxPool2d: "max-pool", nn.AvgPool2d: "avg-pool"}[_window(module)]
        kernel, stride, dilation, _ = _geometry(module)
        is_conv = isinstance(module, nn.Conv2d)
        step = f" /{stride}" if stride != (1 if is_conv else kernel) else ""
        holes = f" dilated {dilation}" if dilation > 1 else ""
        groups = f" in {module.groups} groups" if isinstance(module, nn.Conv2d) and module.groups > 1 else ""
        return f"{name} {kernel}×{kernel}{step}{holes}{groups}"
    names = {"BatchNorm2d": "batch norm", "GlobalMaxPool": "global max-pool", "GlobalMeanPool": "global mean-pool"}
    return names.get(type(module).__name__, type(module).__name__.lower())


def _window(module: nn.Module) -> type[nn.Module]:
    """Which of the three a module is, also where a library has made a class of its own of it."""
    return next(kind for kind in _WINDOWS if isinstance(module, kind))


def _through(module: nn.Module, field: Field, x_NCHW: Tensor) -> Field:
    if isinstance(module, _WINDOWS):
        return field.after(*_geometry(module))
    if isinstance(module, _GLOBAL):
        return field.after(x_NCHW.shape[2], x_NCHW.shape[2], 1, 0)
    return field


def _geometry(module: nn.Module) -> tuple[int, int, int, int]:
    """Kernel, stride, dilation and padding of a layer whose window is square."""
    kernel, stride, padding = (_side(getattr(module, name)) for name in ("kernel_size", "stride", "padding"))
    return kernel, stride, _side(getattr(module, "dilation", 1)), padding


def _side(value: Any) -> int:
    return int(value[0] if isinstance(value, tuple) else value)


def _macs(module: nn.Module, value: Tensor) -> int:
    if isinstance(module, nn.Conv2d):
        return value.numel() * module.weight[0].numel()
    if isinstance(module, nn.Linear):
        return value.numel() * module.in_features
    return 0
