"""What a net may say about how it is to be trained: how its parameters are grouped, and what it takes from the data.

Both are optional. Without `param_groups` a net gets the groups of `default_groups`; without `fit_data` it gets nothing.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

Role = Literal["filters", "whiten", "biases", "head", "other"]
# n -> about n normalised training images (N, C, H, W), float32, spread evenly over the training part
Sample = Callable[[int], Tensor]


@dataclass(frozen=True)
class ParamGroup:
    """Parameters that learn alike.

    Attributes:
        params: of the net; those without gradients are left out by whoever makes the group.
        role: how Muon treats them. `filters` (4-D) are made orthogonal. `whiten`, `biases` and `head` get the SGD rates
            of the recipe's Muon section, which suit the sprint net and its divided head. `other` gets Adam.
            Other optimizers treat all roles alike.
        lr_factor: of the rate that the group would have, at every moment of the cycle.
        weight_decay: instead of the recipe's.
        until: the progress at which the group's cycle ends; before 1 the group is frozen from then on.
    """

    params: Iterable[nn.Parameter]
    role: Role = "other"
    lr_factor: float = 1.0
    weight_decay: float | None = None
    until: float = 1.0


def groups_of(net: nn.Module) -> list[ParamGroup]:
    """The net's own groups, or the default ones; none is empty."""
    own = getattr(net, "param_groups", None)
    groups = own() if callable(own) else default_groups(net)
    held = [ParamGroup(tuple(g.params), g.role, g.lr_factor, g.weight_decay, g.until) for g in groups]
    return [group for group in held if group.params]


def default_groups(net: nn.Module) -> list[ParamGroup]:
    """Hidden filters, and everything else: the first convolution, depthwise and grouped filters, norms, biases, linear
    layers. Muon is made for matrices between hidden layers (Jordan 2024)."""
    hidden = list(_hidden_filters(net))
    known = {id(p) for p in hidden}
    other = [p for p in net.parameters() if p.requires_grad and id(p) not in known]
    return [ParamGroup(hidden, "filters"), ParamGroup(other)]


def _hidden_filters(net: nn.Module) -> Iterator[nn.Parameter]:
    convolutions = [module for module in net.modules() if isinstance(module, nn.Conv2d)]
    for module in convolutions[1:]:
        weight = module.weight
        if module.groups == 1 and isinstance(weight, nn.Parameter) and weight.requires_grad:
            yield weight
