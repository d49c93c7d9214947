"""A codebook on the unit sphere that follows the vectors it stands for (BEiT v2, section 2.2).

Nothing here is trained by gradients: the codes are moving averages, in float32 buffers. They move
once per step, in `update`, by what all processes saw since the last one, so that neither the number
of processes nor that of micro-batches changes them. The released code moves them in every forward
pass, counts in evaluation too, and starts each process with codes of its own.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, distributed, nn

from beit.tokenizers.base import count_codes

KMEANS_ITERATIONS = 10


class Quantized(NamedTuple):
    """Codes in the place of vectors."""

    vectors: Float[Tensor, "rows width"]
    """The nearest codes; gradients pass straight through to the vectors, scaled to length 1."""
    tokens: Int64[Tensor, " rows"]
    commitment: Float[Tensor, ""]
    """Mean squared distance per value between the vectors, scaled to length 1, and their codes."""


class Codes(nn.Module):
    """The code vectors, with the buffers and names of the published files.

    `embed_avg` and `cluster_size` hold what k-means found at the start; nothing reads them.
    """

    weight: Tensor
    cluster_size: Tensor
    embed_avg: Tensor
    initted: Tensor

    def __init__(self, *, codes: int, width: int) -> None:
        super().__init__()
        weight = F.normalize(torch.randn(codes, width), dim=1)
        self.register_buffer("weight", weight)
        self.register_buffer("cluster_size", torch.zeros(codes))
        self.register_buffer("embed_avg", weight.clone())
        self.register_buffer("initted", torch.zeros(1))


class CosineCodebook(nn.Module):
    """K codes of length 1; a vector's token is the code with the largest cosine.

    In training the first batch initialises the codes, `forward` notes what it sees, and `update`
    and `revive` are called between two steps. In evaluation nothing changes.
    """

    cluster_size: Tensor
    _counts: Tensor
    _sums: Tensor

    def __init__(self, *, codes: int, width: int, decay: float) -> None:
        super().__init__()
        self.decay = decay
        self.embedding = Codes(codes=codes, width=width)
        # Moving average of how many vectors of a step each code stands for.
        self.register_buffer("cluster_size", torch.zeros(codes))
        # What this process saw since the last update: vectors per code, and their sums.
        self.register_buffer("_counts", torch.zeros(codes), persistent=False)
        self.register_buffer("_sums", torch.zeros(codes, width), persistent=False)
        self._recent: Tensor | None = None
        self._started = False  # spares asking the device in every step

    @torch.no_grad()
    def nearest(self, vectors: Float[Tensor, "rows width"]) -> Int64[Tensor, " rows"]:
        """The token of each vector."""
        return self.cosines(vectors).argmax(dim=1)

    def cosines(self, vectors: Float[Tensor, "rows width"]) -> Float[Tensor, "rows codes"]:
        """Cosines of vectors of any length with the codes, in float32 whatever the autocast."""
        with torch.autocast(vectors.device.type, enabled=False):
            return F.normalize(vectors.float(), dim=1) @ self.embedding.weight.t()

    def forward(self, vectors: Float[Tensor, "rows width"]) -> Quantized:
        """Codes for vectors of any length, in float32."""
        with torch.autocast(vectors.device.type, enabled=False):
            unit = F.normalize(vectors.float(), dim=1)
            if self.training and not self._started:
                self._start(unit.detach())
            tokens = self.nearest(unit)
            codes = self.embedding.weight[tokens]
            if self.training:
                self._observe(unit.detach(), tokens)
            return Quantized(unit + (codes - unit).detach(), tokens, F.mse_loss(unit, codes))

    def _observe(self, unit: Float[Tensor, "rows width"], tokens: Int64[Tensor, " rows"]) -> None:
        self._counts += count_codes(tokens, len(self._counts))
        self._sums.index_add_(0, tokens, unit)
        self._recent = unit

    def update(self) -> None:
        """Move the codes towards what was seen since the last update, in all processes."""
        self._move(self.decay)
        self._started = True

    @torch.no_grad()
    def _move(self, decay: float) -> None:
        """code = unit(decay * code + (1 - decay) * unit(mean)); codes without vectors stay."""
        counts, means = _total(self._counts), F.normalize(_total(self._sums), dim=1)
        weight = self.embedding.weight
        moved = F.normalize(weight.lerp(means, 1 - decay), dim=1)
        weight.copy_(torch.where(counts[:, None] > 0, moved, weight))
        self.cluster_size.lerp_(counts, 1 - decay)
        self._counts.zero_()
        self._sums.zero_()

    @torch.no_grad()
    def _start(self, unit: Float[Tensor, "rows width"]) -> None:
        """Initialise the codes by k-means on the sphere, from vectors of all processes, if not done
        yet.

        A step that overflows in fp16 is repeated from the buffers before it, and so is this.
        """
        codes = self.embedding
        if codes.initted:
            return
        generator = torch.Generator().manual_seed(0)  # the same draw in every process
        codes.weight.copy_(_draw(unit, len(codes.weight), generator))
        for _ in range(KMEANS_ITERATIONS):
            self._observe(unit, self.nearest(unit))
            self._move(decay=0.0)
        codes.embed_avg.copy_(codes.weight)
        codes.cluster_size.copy_(self.cluster_size)
        codes.initted.fill_(1)

    @torch.no_grad()
    def revive(self, generator: torch.Generator, threshold: float = 0.02) -> int:
        """Move dead codes to vectors of the last batch; return how many.

        A code is dead when its moving count is below `threshold` of the mean. It starts again from
        just that count, so that it lasts only if it comes into use. Each process must call this
        with a generator in the same state.
        """
        least = threshold * self.cluster_size.mean()
        dead = torch.nonzero(self.cluster_size < least).flatten()
        if self._recent is None or not len(dead):
            return 0
        self.embedding.weight[dead] = _draw(self._recent, len(dead), generator)
        self.cluster_size[dead] = least
        return len(dead)


def _total(values: Tensor) -> Tensor:
    """The sum over processes, in place."""
    if distributed.is_initialized():
        distributed.all_reduce(values)
    return values


def _draw(
    vectors: Float[Tensor, "rows width"], number: int, generator: torch.Generator
) -> Float[Tensor, "number width"]:
    """Vectors drawn from those of all processes, the same in each; if they are few, some repeat.

    The processes may have different numbers of rows.
    """
    joined = distributed.is_initialized()
    rank, world = (distributed.get_rank(), distributed.get_world_size()) if joined else (0, 1)
    rows = vectors.new_zeros(world, dtype=torch.int64)
    rows[rank] = len(vectors)
    ends = _total(rows).cumsum(0).tolist()
    order = torch.randperm(ends[-1], generator=generator)
    places = order[torch.arange(number) % len(order)].to(vectors.device)
    places = places - (ends[rank] - len(vectors))  # those below 0 or beyond belong to others
    here = (places >= 0) & (places < len(vectors))
    drawn = vectors.new_zeros(number, vectors.shape[1])
    drawn[here] = vectors[places[here]]
    return _total(drawn)
