"""Linear classification of frozen features."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from beit.evaluation.features import standardised
from beit.evaluation.precision import in_float32


@in_float32
def linear_accuracy(
    features: Float[Tensor, "known width"],
    targets: Int64[Tensor, " known"],
    queries: Float[Tensor, "asked width"],
    query_targets: Int64[Tensor, " asked"],
    *,
    penalty: float = 1e-3,
) -> float:
    """Accuracy of multinomial logistic regression on standardised features.

    The regression is fitted to convergence by L-BFGS with an L2 penalty on the weights (mean loss
    plus penalty/2 times their squared norm), so that the number depends on nothing but features and
    penalty.
    """
    inputs, asked = standardised(features, features), standardised(queries, features)
    classes = int(max(targets.max(), query_targets.max())) + 1
    weights = torch.zeros(features.shape[1], classes, requires_grad=True)
    bias = torch.zeros(classes, requires_grad=True)
    solver = torch.optim.LBFGS(
        [weights, bias], max_iter=200, history_size=20, line_search_fn="strong_wolfe"
    )

    def objective() -> Tensor:
        solver.zero_grad()
        loss = F.cross_entropy(inputs @ weights + bias, targets)
        loss = loss + penalty / 2 * weights.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        solver.step(objective)
    logits = asked @ weights.detach() + bias.detach()
    return float((logits.argmax(dim=1) == query_targets).float().mean())
