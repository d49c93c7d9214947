"""Where random numbers come from: a few numbers and words, and nothing else that could be lost."""

from __future__ import annotations

import functools
import hashlib
import random
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


def derive_seed(*parts: int | str) -> int:
    """A seed of 63 bits from numbers and words, the same on every machine and Python."""
    text = "".join(f"{type(part).__name__}:{len(str(part))}:{part};" for part in parts)
    digest = hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def drawn_order(names: Iterable[str], purpose: str, seed: int) -> np.ndarray:
    """The places of some names in a random order, int64 [n], in which two names stand to each other
    as they do among any others."""
    texts = (f"{purpose}:{seed}:{name}".encode("utf-8", "surrogateescape") for name in names)
    ranks = [hashlib.blake2b(text, digest_size=8).digest() for text in texts]
    return np.array(sorted(range(len(ranks)), key=ranks.__getitem__), np.int64)


def seed_everything(*parts: int) -> None:
    """Make every global generator a function of the parts; nothing random is left to restore."""
    mixed = np.random.SeedSequence(parts).generate_state(1, np.uint64)[0]
    seed = int(mixed >> np.uint64(1))
    if _has_accelerator():
        torch.manual_seed(seed)
    else:  # the same; but torch would note for devices that may come who asked, line by line
        torch.default_generator.manual_seed(seed)
    np.random.seed(int(mixed & np.uint64(0xFFFFFFFF)))
    random.seed(int(mixed))


@functools.cache
def _has_accelerator() -> bool:
    return torch.accelerator.is_available()


class SampleRNG(NamedTuple):
    """The source of all that is random in a micro-batch.

    Every image has numbers of its own, which follow from the seed, the step, and its place in the
    batch of the update. So neither the number of processes nor that of micro-batches changes them.
    """

    seed: int
    step: int
    first: int
    """Place of the micro-batch's first image in the batch of the update."""

    def generators(
        self, purpose: str, images: int, device: torch.device | str = "cpu"
    ) -> Iterator[torch.Generator]:
        """One after the other, the generator of each image; each is gone with the next."""
        generator = torch.Generator(device)
        for place in range(self.first, self.first + images):
            yield generator.manual_seed(derive_seed(purpose, self.seed, self.step, place))

    def uniform(self, purpose: str, images: int, each: int) -> Float[Tensor, "images each"]:
        """Numbers in [0, 1), on the CPU."""
        drawn = [torch.rand(each, generator=one) for one in self.generators(purpose, images)]
        return torch.stack(drawn)

    def gumbel(self, purpose: str, like: Float[Tensor, "images ..."]) -> Tensor:
        """Standard Gumbel noise in the shape of something, on its device."""
        noise = torch.empty_like(like, memory_format=torch.contiguous_format)
        generators = self.generators(purpose, len(noise), noise.device)
        for row, generator in zip(noise, generators, strict=True):
            row.exponential_(generator=generator)
        return -noise.log()

    def seed_global(self, row: int) -> None:
        """Make every global generator that of one image, for libraries that take no other."""
        seed_everything(self.seed, self.step, self.first + row)
