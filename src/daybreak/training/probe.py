"""A linear probe: the head that features alone would have, by logistic regression.

Stages that learn together with a head of random weights are first of all distorted by its gradients. Where the head
begins as the best linear answer to the features as they are, they are only refined (Kumar et al. 2022, "Fine-tuning can
distort pretrained features and underperform out-of-distribution").
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MOST = 20_000  # images; more say little more about a line
PENALTY = 1e-3  # of the squared weights, on features of unit deviation
ITERATIONS = 60


def fit_linear(head: nn.Linear, features_ND: Tensor, labels_N: Tensor, weights_K: Tensor | None = None) -> None:
    """Set a head to the minimum of its mean cross-entropy plus `PENALTY` times its squared weights.

    Args:
        features_ND: as the head sees them, of about unit deviation.
        weights_K: what an image of each class counts.
    """
    weight = torch.zeros_like(head.weight, requires_grad=True)
    bias = torch.zeros(head.out_features, device=weight.device, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=ITERATIONS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(features_ND @ weight.T + bias, labels_N, weights_K) + PENALTY * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    with torch.no_grad():
        head.weight.copy_(weight)
        if head.bias is not None:
            head.bias.copy_(bias)
