"""What the training loop knows of a task: one batch in, one loss out."""

from __future__ import annotations

import abc
from typing import Any, Generic, NamedTuple, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from beit.config.training import Recompute
from beit.models.adaptation import merged
from beit.models.layers import Block, Dropping
from beit.rng import SampleRNG, seed_everything

BatchType = TypeVar("BatchType")


class Loss(NamedTuple):
    """The scalar to minimise, and detached scalars to log; all still on the device."""

    total: Float[Tensor, ""]
    terms: dict[str, Float[Tensor, ""]]


@runtime_checkable
class Layered(Protocol):
    """A model that knows the depth of each of its parameters."""

    def parameter_depth(self, name: str) -> int: ...

    @property
    def deepest(self) -> int: ...

    def without_decay(self) -> frozenset[str]: ...


class Objective(nn.Module, abc.ABC, Generic[BatchType]):
    """A task. `model` is what is trained, wrapped, averaged and checkpointed; anything frozen, such
    as a tokenizer, is its sibling."""

    model: nn.Module
    rng = SampleRNG(0, 0, 0)
    """Where the random numbers of the next micro-batch come from."""

    def draw(self, rng: SampleRNG, images: int, device: torch.device) -> None:
        """Draw the random numbers of the next micro-batch.

        Args:
            rng: Where they come from.
            images: Number of images in the micro-batch.
            device: Where the model runs.
        """
        self.rng = rng
        seed_everything(*rng)  # for what an objective from elsewhere may draw
        layers = [
            layer
            for layer in self.modules()
            if isinstance(layer, Dropping) and layer.training and layer.drops
        ]
        if layers:
            parts = [layer.parts for layer in layers]
            numbers = rng.uniform("layers", images, sum(parts))
            numbers = numbers.to(device, non_blocking=device.type != "mps")
            for layer, part in zip(layers, numbers.split(parts, dim=1), strict=True):
                layer.numbers = part

    @abc.abstractmethod
    def forward(self, batch: BatchType, progress: float) -> Loss:
        """Loss of one micro-batch; `progress` is the fraction of the run done, in [0, 1)."""

    def after_step(self, step: int) -> dict[str, float]:
        """Upkeep between two updates, outside autograd; returns counts worth logging."""
        return {}

    def publish(self, model: nn.Module) -> nn.Module:
        """What becomes the artifact of the trained model, or of its average: no training aids."""
        return merged(model)

    def expectations(self) -> dict[str, float]:
        """What the logged terms should be compared with, such as the loss of pure chance."""
        return {}

    def blocks(self) -> list[nn.Module]:
        """All transformer blocks, also those of a frozen sibling."""
        return [module for module in self.modules() if isinstance(module, Block)]

    def worth_compiling(self) -> list[nn.Module]:
        """The modules that take most of the time, many of them alike."""
        return self.blocks()

    def set_recompute(self, recompute: Recompute) -> None:
        """Choose what blocks compute again in the backward pass."""
        for module in self.modules():
            if isinstance(module, Block):
                module.recompute = recompute

    def parameter_depth(self, name: str) -> int:
        """Layer of a parameter of `model`, for layer-wise learning-rate decay."""
        return self.model.parameter_depth(name) if isinstance(self.model, Layered) else 0

    @property
    def deepest(self) -> int:
        """The largest depth of a parameter."""
        return self.model.deepest if isinstance(self.model, Layered) else 0

    def without_decay(self) -> frozenset[str]:
        """Parameters of `model` without weight decay; its vectors, unless the model names them."""
        if isinstance(self.model, Layered):
            return self.model.without_decay()
        return frozenset(
            name for name, parameter in self.model.named_parameters() if parameter.ndim <= 1
        )


AnyObjective = Objective[Any]


def entropy(counts: Float[Tensor, " codes"]) -> Float[Tensor, ""]:
    """Entropy in nats of the distribution with these (unnormalised) counts."""
    fractions = counts / counts.sum().clamp_min(1e-12)
    nats: Tensor = torch.special.entr(fractions).sum()
    return nats
