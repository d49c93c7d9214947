"""A copy of a model for inference only: what is constant is computed once."""

from __future__ import annotations

import copy
from typing import Literal, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from beit.errors import ConfigError
from beit.hardware import multiplies_bfloat16
from beit.models.cuda_graph import Replay
from beit.models.heads import BackboneModel, Classifier
from beit.models.layers import Block
from beit.models.position import Grid, RelativePositionBias
from beit.models.quantization import quantize_linears
from beit.models.segmenter import Segmenter
from beit.models.upernet import ConvNorm, PyramidNeck

Model = TypeVar("Model", bound=BackboneModel)
InferencePrecision = Literal["fp32", "bf16", "int8", "auto"]


def optimize_for_inference(
    model: Model,
    *,
    precision: InferencePrecision = "fp32",
    compile: bool = False,  # noqa: A002
    graphs: bool = False,
) -> Model:
    """A copy of the model that answers faster and cannot be trained or saved; same class, same use.

    Layer scale goes into the weights before it, batch norm into the convolution before it; the
    relative position bias of the model's own grid is kept, and other sizes still work; the
    auxiliary head is left out. In float32 the outputs are the same but for rounding.

    `precision` bf16 also stores the weights in half: about three digits are left; `auto` does so
    where the hardware multiplies it faster. `int8` also quantises the linear layers, weights ahead
    and inputs while computing: compile it, as much of its time goes into rounding otherwise.
    `compile` compiles backbone and head, each on its first use and for each new size; the outputs
    are those of the precision. `graphs` records a classifier's or a segmenter's answer to each
    shape of batch as a CUDA graph: worth it for small batches, for the price of their memory.
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
        fast.forward = Replay(fast.forward)
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
    """In evaluation batch norm is one scale and one shift per channel."""
    norm = module.get_submodule("bn")
    if isinstance(norm, nn.modules.batchnorm._BatchNorm):
        module.conv = fuse_conv_bn_eval(module.conv, norm)
        module.add_module("bn", nn.Identity())


def fold_neck(neck: PyramidNeck) -> None:
    """The same for the one norm of the neck, which follows a transposed convolution."""
    up, norm = neck.fpn1[0], neck.fpn1[1]
    if isinstance(norm, nn.modules.batchnorm._BatchNorm):
        assert isinstance(up, nn.ConvTranspose2d)
        neck.fpn1[0] = fuse_conv_bn_eval(up, norm, transpose=True)
        neck.fpn1[1] = nn.Identity()


class KeptBias(nn.Module):
    """The relative position bias of one grid, gathered; that of any other grid is made anew."""

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
    """Gather the relative position biases, unless they would take more memory than the weights."""
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
    """Weights in bfloat16; images are still normalised in float32."""
    mean, std = model.backbone.mean, model.backbone.std
    model.to(torch.bfloat16)
    model.backbone.mean, model.backbone.std = mean, std
    embedding = model.backbone.patch_embed
    embedding.register_forward_pre_hook(lambda _, inputs: tuple(x.bfloat16() for x in inputs))
