"""Random numbers that follow from a few numbers and words, so that there is no state to be lost."""

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
    """Indices of names in a random order, int64 [n].

    Which of two names comes first does not depend on the other names.

    Args:
        names: What is put in order.
        purpose: Separates the orders that are drawn for different purposes with one seed.
        seed: Decides the order.
    """
    texts = (f"{purpose}:{seed}:{name}".encode("utf-8", "surrogateescape") for name in names)
    ranks = [hashlib.blake2b(text, digest_size=8).digest() for text in texts]
    return np.array(sorted(range(len(ranks)), key=ranks.__getitem__), np.int64)


def seed_everything(*parts: int) -> None:
    """Seed every global generator from the parts, so that no random state needs to be restored."""
    mixed = np.random.SeedSequence(parts).generate_state(1, np.uint64)[0]
    seed = int(mixed >> np.uint64(1))
    if _has_accelerator():
        torch.manual_seed(seed)
    else:  # the same, without the stack trace that torch would keep for devices that may come
        torch.default_generator.manual_seed(seed)
    np.random.seed(int(mixed & np.uint64(0xFFFFFFFF)))
    random.seed(int(mixed))


@functools.cache
def _has_accelerator() -> bool:
    return torch.accelerator.is_available()


class SampleRNG(NamedTuple):
    """The source of all random numbers in a micro-batch.

    Every image has numbers of its own, which follow from the seed, the step, and its place in the
    batch of the update. So neither the number of processes nor that of micro-batches changes them.
    """

    seed: int
    step: int
    first: int
    """Place of the micro-batch's first image in the batch of the update."""

    def _generators(
        self, purpose: str, images: int, device: torch.device | str = "cpu"
    ) -> Iterator[torch.Generator]:
        """The generator of each image in turn: one object, seeded anew for each of them."""
        generator = torch.Generator(device)
        for place in range(self.first, self.first + images):
            yield generator.manual_seed(derive_seed(purpose, self.seed, self.step, place))

    def uniform(self, purpose: str, images: int, each: int) -> Float[Tensor, "images each"]:
        """Numbers in [0, 1) for each image, on the CPU.

        Args:
            purpose: Separates the numbers that are drawn for different purposes in one step.
            images: Number of images in the micro-batch.
            each: Numbers per image.
        """
        drawn = [torch.rand(each, generator=one) for one in self._generators(purpose, images)]
        return torch.stack(drawn)

    def gumbel(self, purpose: str, like: Float[Tensor, "images ..."]) -> Tensor:
        """Standard Gumbel noise with the shape, type and device of `like`."""
        noise = torch.empty_like(like, memory_format=torch.contiguous_format)
        generators = self._generators(purpose, len(noise), noise.device)
        for row, generator in zip(noise, generators, strict=True):
            row.exponential_(generator=generator)
        return -noise.log()

    def seed_global(self, row: int) -> None:
        """Seed every global generator for one image, for libraries that take no generator."""
        seed_everything(self.seed, self.step, self.first + row)
