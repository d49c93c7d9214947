"""A copy of a model for inference only: what is constant is computed once."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from beit.config.bulk import InferencePrecision
from beit.errors import ConfigError, optional_library
from beit.hardware import multiplies_bfloat16
from beit.models.heads import BackboneModel, Classifier
from beit.models.layers import Block
from beit.models.position import Grid, RelativePositionBias
from beit.models.segmenter import Segmenter
from beit.models.upernet import ConvNorm, PyramidNeck

Model = TypeVar("Model", bound=BackboneModel)
MOST_GRAPHS = 16
"""Most input shapes that are recorded; each keeps the memory of one pass."""
WARM_UPS = 3
"""Passes before the recording, in which kernels are selected and compiled."""


def optimize_for_inference(
    model: Model,
    *,
    precision: InferencePrecision = "fp32",
    compile: bool = False,  # noqa: A002
    graphs: bool = False,
) -> Model:
    """A copy of the model that answers faster and cannot be trained or saved; same class, same use.

    Layer scale is folded into the weights before it, batch norm into the convolution before it; the
    relative position bias of the model's own grid is precomputed, and other sizes still work; the
    auxiliary head is dropped. In float32 the outputs are the same but for rounding.

    Args:
        model: Of any task, on the device it is to run on; it is not changed.
        precision: `bf16` also stores the weights in half precision: about three digits are left;
            `auto` does so where the hardware multiplies it faster. `int8` does as `auto` and also
            quantises the linear layers, weights ahead and inputs while computing: compile it, as
            much of its time goes into rounding otherwise.
        compile: Compile backbone and head, each on its first use and for each new size; the outputs
            are those of the precision.
        graphs: Record a classifier's or a segmenter's answer to each shape of batch as a CUDA
            graph: worth it for small batches, at the price of their memory.

    Raises:
        ConfigError: `graphs` was requested for another model, or for one that is not on a GPU.
        ResourceError: `int8` was requested, and torchao is not installed.
    """
    device = next(model.parameters()).device
    if graphs and (device.type != "cuda" or not isinstance(model, Classifier | Segmenter)):
        raise ConfigError(
            f"CUDA graphs are for classifiers and segmenters on a GPU, not a "
            f"{type(model).__name__} on {device.type}",
            remedy="move the model there before, or leave graphs out",
        )
    fast = copy.deepcopy(model).eval().requires_grad_(False)
    if isinstance(fast, Segmenter):
        fast.auxiliary_head = None
    for module in list(fast.modules()):
        if isinstance(module, Block):
            fold_layer_scale(module)
        elif isinstance(module, ConvNorm):
            fold_batch_norm(module)
        elif isinstance(module, PyramidNeck):
            fold_neck(module)
    keep_position_bias(fast)
    if precision == "bf16" or (precision in ("auto", "int8") and multiplies_bfloat16(device)):
        narrow(fast)
    if precision == "int8":
        quantize_linears(fast)
    if compile:
        for part in fast.children():
            part.compile()
    if graphs:
        fast.forward = CUDAGraphs(fast.forward)
    return fast


@torch.no_grad()
def fold_layer_scale(block: Block) -> None:
    """gamma * (W x + b) = (gamma W) x + gamma b."""
    for gain, linear in ((block.gamma_1, block.attn.proj), (block.gamma_2, block.mlp.fc2)):
        if gain is not None:
            linear.weight.mul_(gain[:, None])
            linear.bias.mul_(gain)
    block.gamma_1 = block.gamma_2 = None


def fold_batch_norm(module: ConvNorm) -> None:
    """Fold batch norm, which is one scale and one shift per channel in evaluation, into the
    convolution."""
    norm = module.get_submodule("bn")
    if isinstance(norm, nn.modules.batchnorm._BatchNorm):
        module.conv = fuse_conv_bn_eval(module.conv, norm)
        module.add_module("bn", nn.Identity())


def fold_neck(neck: PyramidNeck) -> None:
    """The same for the only norm of the neck, which follows a transposed convolution."""
    up, norm = neck.fpn1[0], neck.fpn1[1]
    if isinstance(norm, nn.modules.batchnorm._BatchNorm):
        assert isinstance(up, nn.ConvTranspose2d)
        neck.fpn1[0] = fuse_conv_bn_eval(up, norm, transpose=True)
        neck.fpn1[1] = nn.Identity()


class KeptBias(nn.Module):
    """The relative position bias, kept for one grid; that of any other grid is computed each
    time."""

    kept: Tensor

    def __init__(self, learned: RelativePositionBias) -> None:
        super().__init__()
        self.learned = learned
        with torch.no_grad():
            kept = learned(learned.grid).contiguous()
        self.register_buffer("kept", kept, persistent=False)

    def forward(self, grid: Grid) -> Float[Tensor, "heads tokens tokens"]:
        bias: Tensor = self.kept if grid == self.learned.grid else self.learned(grid)
        return bias


def keep_position_bias(model: BackboneModel) -> None:
    """Precompute the relative position biases, unless they would take more memory than the
    weights."""
    learned = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, RelativePositionBias)
    ]
    heads, tokens = model.backbone.config.heads, 1 + model.backbone.config.patches
    weights = sum(parameter.numel() for parameter in model.parameters())
    if len(learned) * heads * tokens**2 <= weights:
        for name, module in learned:
            model.set_submodule(name, KeptBias(module))


def narrow(model: BackboneModel) -> None:
    """Convert the weights to bfloat16; images are still normalised in float32."""
    mean, std = model.backbone.mean, model.backbone.std
    model.to(torch.bfloat16)
    model.backbone.mean, model.backbone.std = mean, std
    embedding = model.backbone.patch_embed
    embedding.register_forward_pre_hook(lambda _, inputs: tuple(x.bfloat16() for x in inputs))


def quantize_linears(model: nn.Module) -> None:
    """Replace the weights of all linear layers by int8, in place.

    A weight has one scale per output channel; what it is multiplied with has one per token, found
    while computing. Products are summed in int32. Norms, softmax and attention stay as they are.
    Where the processor sums int8 products in 16 bits (no VNNI), seven bits are used.

    Raises:
        ResourceError: torchao is not installed.
    """
    with optional_library("answers in int8 need torchao", "int8"):
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_
        from torchao.utils import should_reduce_range
    device = next(model.parameters()).device
    recipe = Int8DynamicActivationInt8WeightConfig(
        set_inductor_config=False,  # it would change settings of the whole process
        reduce_range=should_reduce_range(device),
    )
    quantize_(model, recipe)


class _Recorded(NamedTuple):
    graph: torch.cuda.CUDAGraph
    images: Tensor
    answer: Tensor


class CUDAGraphs:
    """A function of one batch of images, recorded once for each shape and type, then replayed.

    The function must return a tensor, do the same operations whatever the values are, and not wait
    for the GPU. Images on another device, and those of a seventeenth shape and beyond, are passed
    to it directly.
    """

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self.function = function
        self._recorded: dict[tuple[torch.Size, torch.dtype], _Recorded] = {}

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        key = images.shape, images.dtype
        if images.device.type != "cuda" or (
            key not in self._recorded and len(self._recorded) >= MOST_GRAPHS
        ):
            return self.function(images)
        if key not in self._recorded:
            self._recorded[key] = self._record(images)
        graph, place, answer = self._recorded[key]
        place.copy_(images)
        graph.replay()
        return answer.clone()  # the next replay writes into the same memory

    def _record(self, images: Tensor) -> _Recorded:
        place = images.clone()
        stream = torch.cuda.Stream(images.device)
        stream.wait_stream(torch.cuda.current_stream(images.device))
        with torch.cuda.stream(stream):  # a recording may not be the first use of a library
            for _ in range(WARM_UPS):
                self.function(place)
        torch.cuda.current_stream(images.device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            answer = self.function(place)
        return _Recorded(graph, place, answer)
