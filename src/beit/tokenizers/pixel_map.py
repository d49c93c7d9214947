"""The pixel map of the logit-Laplace likelihood (DALL-E, appendix A.3): [0, 1] to [0.1, 0.9]."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

EPSILON = 0.1


def to_logit_laplace(pixels: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Squeeze [0, 1] into [0.1, 0.9], where the likelihood is finite."""
    return (1 - 2 * EPSILON) * pixels + EPSILON


def from_logit_laplace(location: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The image in [0, 1] whose logit the decoder gave."""
    return ((location.sigmoid() - EPSILON) / (1 - 2 * EPSILON)).clamp(0, 1)
