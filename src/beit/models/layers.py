"""The layers of a block: attention, MLP, stochastic depth."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from beit.config.training import Recompute
from beit.models.attention import attention
from beit.models.position import Grid, RelativePositionBias
from beit.models.recompute import recomputed

NORM_EPSILON = 1e-6

TokenIndices = Int64[Tensor, "batch selected"]
"""Places of some tokens (or patches) in each image."""


def layer_norm(width: int, epsilon: float = NORM_EPSILON) -> nn.LayerNorm:
    """LayerNorm, with the epsilon of BEiT unless a backbone has another."""
    return nn.LayerNorm(width, eps=epsilon)


def gather_tokens(
    x: Float[Tensor, "batch tokens width"], select: TokenIndices | None
) -> Float[Tensor, "batch _ width"]:
    """The rows of the selected tokens; all rows if `select` is None."""
    if select is None:
        return x
    return x.gather(1, select[..., None].expand(-1, -1, x.shape[-1]))


class Attention(nn.Module):
    """Multi-head self-attention with biases on queries and values, none on keys."""

    def __init__(self, *, width: int, heads: int, relative_grid: Grid | None) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.rel_pos_bias = (
            RelativePositionBias(grid=relative_grid, heads=heads) if relative_grid else None
        )
        self.proj = nn.Linear(width, width)

    def project(
        self, x: Float[Tensor, "batch tokens width"]
    ) -> tuple[
        Float[Tensor, "batch heads tokens head_width"],
        Float[Tensor, "batch heads tokens head_width"],
        Float[Tensor, "batch heads tokens head_width"],
    ]:
        """Queries, keys and values."""
        batch, tokens, width = x.shape
        bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        qkv = F.linear(x, self.qkv.weight, bias)
        qkv = qkv.reshape(batch, tokens, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        return query, key, value

    def bias(
        self, shared: Float[Tensor, "heads tokens tokens"] | None, grid: Grid
    ) -> Float[Tensor, "heads tokens tokens"] | None:
        """The relative position bias of this block: its own, or the one all blocks share."""
        return shared if self.rel_pos_bias is None else self.rel_pos_bias(grid)

    def forward(
        self,
        x: Float[Tensor, "batch tokens width"],
        shared_bias: Float[Tensor, "heads tokens tokens"] | None,
        grid: Grid,
        select: TokenIndices | None = None,
    ) -> Float[Tensor, "batch _ width"]:
        attended = attention(*self.project(x), self.bias(shared_bias, grid))
        mixed: Tensor = self.proj(gather_tokens(attended.transpose(1, 2).flatten(2), select))
        return mixed


class MLP(nn.Module):
    """Two linear layers with the exact GELU between them."""

    def __init__(self, *, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Float[Tensor, "*rows width"]) -> Float[Tensor, "*rows width"]:
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class Dropping(nn.Module):
    """Drops parts of each image in training, and scales what is kept up."""

    keep: Tensor

    def __init__(self, probability: float, parts: int = 1) -> None:
        super().__init__()
        self.probability = probability
        self.parts = parts
        self.drops = probability > 0
        # Uniform numbers that decide the next forward pass, a row for each image. Until they are
        # given, each pass draws its own from torch's generator.
        self.numbers: Tensor | None = None
        # A tensor, as a number that differs from block to block would be compiled into each block.
        kept = torch.tensor(1 - probability, dtype=torch.float32)  # Apple GPUs have no float64
        self.register_buffer("keep", kept, persistent=False)

    def forward(self, x: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch ..."]:
        """The parts lie along the second dimension, which is broadcast where there is one part."""
        if not self.training or not self.drops:
            return x
        numbers = self.numbers
        if numbers is None:
            numbers = torch.rand(x.shape[0], self.parts, device=x.device)
        kept = (numbers < self.keep).to(x.dtype) / self.keep
        return x * kept.reshape(x.shape[0], self.parts, *(1,) * (x.ndim - 2))


class DropPath(Dropping):
    """Stochastic depth: the whole residual branch of an image is dropped."""


class Block(nn.Module):
    """Pre-norm transformer block; the gains of layer scale lie inside stochastic depth."""

    def __init__(
        self,
        *,
        width: int,
        heads: int,
        hidden: int,
        layer_scale: float | None,
        drop_path: float,
        relative_grid: Grid | None,
        norm_epsilon: float = NORM_EPSILON,
    ) -> None:
        super().__init__()
        self.recompute: Recompute = "off"
        self.norm1 = layer_norm(width, norm_epsilon)
        self.attn = Attention(width=width, heads=heads, relative_grid=relative_grid)
        self.norm2 = layer_norm(width, norm_epsilon)
        self.mlp = MLP(width=width, hidden=hidden)
        self.drop_path1 = DropPath(drop_path)
        self.drop_path2 = DropPath(drop_path)
        self.gamma_1: nn.Parameter | None = None
        self.gamma_2: nn.Parameter | None = None
        if layer_scale is not None:
            self.gamma_1 = nn.Parameter(torch.full((width,), layer_scale))
            self.gamma_2 = nn.Parameter(torch.full((width,), layer_scale))

    def forward(
        self,
        x: Float[Tensor, "batch tokens width"],
        shared_bias: Float[Tensor, "heads tokens tokens"] | None,
        grid: Grid,
        select: TokenIndices | None = None,
    ) -> Float[Tensor, "batch _ width"]:
        """All tokens, or the selected ones: after the attention the others need no computing.

        Args:
            x: Tokens; the first of each image is the class token.
            shared_bias: The relative position bias that all blocks share, if they do.
            grid: Rows and columns of patches.
            select: Tokens of each image to return; None for all.
        """
        if self.recompute == "off" or not torch.is_grad_enabled():
            return self.compute(x, shared_bias, grid, select)
        return recomputed(self.recompute, self.compute, x, shared_bias, grid, select)

    def compute(
        self,
        x: Float[Tensor, "batch tokens width"],
        shared_bias: Float[Tensor, "heads tokens tokens"] | None,
        grid: Grid,
        select: TokenIndices | None,
    ) -> Float[Tensor, "batch _ width"]:
        """What `forward` does, keeping everything for the backward pass.

        Args:
            x: Tokens; the first of each image is the class token.
            shared_bias: The relative position bias that all blocks share, if they do.
            grid: Rows and columns of patches.
            select: Tokens of each image to return; None for all.
        """
        branch: Tensor = self.attn(self.norm1(x), shared_bias, grid, select)
        x = gather_tokens(x, select) + self.drop_path1(
            branch if self.gamma_1 is None else self.gamma_1 * branch
        )
        branch = self.mlp(self.norm2(x))
        out: Tensor = x + self.drop_path2(branch if self.gamma_2 is None else self.gamma_2 * branch)
        return out
