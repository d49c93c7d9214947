"""What is inside a backbone: features as timm's models give them, and attention weights."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from beit.config.data import Resize
from beit.config.tokenizer import Interpolation
from beit.errors import ConfigError
from beit.models.attention import attention_weights
from beit.models.heads import BackboneModel, Classifier, MaskedImageModel
from beit.models.layers import Block
from beit.models.vit import Images, VisionTransformer, draw

GlobalPool = Literal["", "avg", "token"]
OutputFormat = Literal["NCHW", "NLC"]
Tokens = Float[Tensor, "batch tokens features"]
Indices = int | Sequence[int] | None
Intermediates = list[Tensor] | list[tuple[Tensor, Tensor]]


class FeatureExtractor(nn.Module):
    """The methods and attributes of timm's `Beit`, with the same results from the same weights.

    It is a copy: training or pruning it does not change the model it was made from. Images are
    uint8, or floats already normalised, of any height and width that the patch divides. The norm is
    where timm has it: over all tokens (`norm`), or after the mean of the patches (`fc_norm`). A
    segmenter has no norm to copy. `crop`, `resize` and `interpolation` are those of evaluation, for
    `timm.data.resolve_model_data_config`.
    """

    num_prefix_tokens = 1

    def __init__(
        self,
        model: BackboneModel,
        *,
        crop: float = 1.0,
        resize: Resize = "cover",
        interpolation: Interpolation = "bicubic",
    ) -> None:
        super().__init__()
        config = replace(model.backbone.config, mask_token=False)
        self.backbone = copy.deepcopy(model.backbone)
        self.backbone.mask_token, self.backbone.config = None, config  # it would get no gradient
        self.num_features = self.head_hidden_size = self.embed_dim = width = config.width
        self.feature_info = [
            {"module": f"backbone.blocks.{index}", "num_chs": width, "reduction": config.patch}
            for index in range(config.depth)
        ]
        self.global_pool: GlobalPool = "avg"
        self.norm: nn.Module = nn.Identity()
        self.fc_norm: nn.Module = nn.Identity()
        self.head: nn.Module = nn.Identity()
        self.num_classes = 0
        if isinstance(model, Classifier):
            self.head, self.num_classes = copy.deepcopy(model.head), model.head.out_features
        if isinstance(model, Classifier) and model.pooling == "mean":
            self.fc_norm = copy.deepcopy(model.norm)
        elif isinstance(model, MaskedImageModel | Classifier):
            self.norm, self.global_pool = copy.deepcopy(model.norm), "token"
        self.pretrained_cfg: dict[str, Any] = {
            "input_size": (config.channels, *config.size),
            "mean": config.mean,
            "std": config.std,
            "crop_pct": crop,
            "crop_mode": "center" if resize == "cover" else "squash",
            "interpolation": interpolation,
            "num_classes": self.num_classes,
            "first_conv": "backbone.patch_embed.proj",
            "classifier": "head",
        }
        self.train(model.training)

    # -- features ----------------------------------------------------------------------------

    def forward_features(self, x: Images) -> Tokens:
        """The class token and the patches [B, 1+N, D] after the last block, normalised."""
        return self._normalised(self.backbone, x, ())[0]

    def forward_intermediates(
        self,
        x: Images,
        indices: Indices = None,
        return_prefix_tokens: bool = False,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: OutputFormat = "NCHW",
        intermediates_only: bool = False,
    ) -> Intermediates | tuple[Tensor, Intermediates]:
        """The patches after several blocks, in the order of the blocks, as timm gives them.

        Args:
            x: Images.
            indices: None for all blocks; a number n for the last n; otherwise blocks, where -1 is
                the last.
            return_prefix_tokens: Give each output as a pair with the class token [B, 1, D].
            norm: Apply the final norm to each output.
            stop_early: Compute no block after the last one requested.
            output_fmt: `NCHW` for outputs [B, D, h, w], `NLC` for [B, N, D].
            intermediates_only: Return nothing but the outputs.

        Returns:
            The outputs; unless `intermediates_only`, after [B, 1+N, D] of the last computed block,
            normalised.

        Raises:
            ConfigError: There is no such block or format.
        """
        if output_fmt not in get_args(OutputFormat):
            raise ConfigError(f"there is no format '{output_fmt}'", remedy="use NCHW or NLC")
        taken = self._taken(indices)
        backbone = cut(self.backbone, taken[-1] + 1) if stop_early else self.backbone
        last, outputs = self._normalised(backbone, x, taken)
        height, width = (side // self.backbone.config.patch for side in x.shape[2:])
        found, prefixes = [], []
        for output in outputs:
            tokens = self.norm(output) if norm else output
            patches = tokens[:, 1:]
            if output_fmt == "NCHW":
                patches = patches.transpose(1, 2).unflatten(2, (height, width)).contiguous()
            found.append(patches)
            prefixes.append(tokens[:, :1])
        intermediates: Intermediates = (
            list(zip(found, prefixes, strict=True)) if return_prefix_tokens else found
        )
        return intermediates if intermediates_only else (last, intermediates)

    def _normalised(
        self, backbone: VisionTransformer, x: Images, out_indices: Sequence[int]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """All tokens after the last block, normalised, and those after the requested blocks, as
        they are."""
        features = backbone(x, out_indices=out_indices)
        tokens = torch.cat([features.cls[:, None], features.patches], dim=1)
        return self.norm(tokens), features.intermediates

    def _taken(self, indices: Indices) -> list[int]:
        """The requested blocks, each once, in order."""
        depth = len(self.backbone.blocks)
        if indices is None:
            return list(range(depth))
        named = range(-indices, 0) if isinstance(indices, int) else indices
        if not named or not all(-depth <= index < depth for index in named):
            raise ConfigError(
                f"indices {indices} name blocks that are not there: the backbone has {depth}",
                remedy=f"give blocks from 0 to {depth - 1}, negative ones from the end, or how "
                "many of the last",
            )
        return sorted({index % depth for index in named})

    def prune_intermediate_layers(
        self,
        indices: int | Sequence[int] = 1,
        prune_norm: bool = False,
        prune_head: bool = True,
    ) -> list[int]:
        """Remove the blocks after the last requested one, and the norm or the head.

        Args:
            indices: As for `forward_intermediates`; by default the last block.
            prune_norm: Remove the norm over all tokens.
            prune_head: Remove the head, the norm before it and the pooling.

        Returns:
            The requested blocks, in order.

        Raises:
            ConfigError: There is no such block.
        """
        taken = self._taken(indices)
        self.backbone = cut(self.backbone, taken[-1] + 1)
        if prune_norm:
            self.norm = nn.Identity()
        if prune_head:
            self.fc_norm = nn.Identity()
            self.reset_classifier(0, "")
        return taken

    # -- classes -----------------------------------------------------------------------------

    def get_classifier(self) -> nn.Module:
        """The linear head, or an identity where there is none."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: GlobalPool | None = None) -> None:
        """Replace the head by a new one; the norms stay where they are.

        Args:
            num_classes: Classes of the new head, 0 for none.
            global_pool: `avg` of the patches, the class `token`, or "" for all tokens; None leaves
                it.

        Raises:
            ConfigError: There is no such pooling.
        """
        if global_pool is not None:
            if global_pool not in get_args(GlobalPool):
                raise ConfigError(
                    f"there is no pooling '{global_pool}'", remedy="use avg, token or ''"
                )
            self.global_pool = global_pool
        self.num_classes = num_classes
        self.head = nn.Identity()
        if num_classes:
            like = self.backbone.cls_token
            head = nn.Linear(self.embed_dim, num_classes, device=like.device, dtype=like.dtype)
            draw(head.weight, cut=False)
            nn.init.zeros_(head.bias)
            self.head = head.train(self.training)

    def forward_head(self, x: Tokens, pre_logits: bool = False) -> Tensor:
        """What comes after `forward_features`: pooling, norm, and the head unless `pre_logits`."""
        if self.global_pool:
            x = x[:, 1:].mean(dim=1) if self.global_pool == "avg" else x[:, 0]
        x = self.fc_norm(x)
        return x if pre_logits else self.head(x)

    def forward(self, x: Images) -> Tensor:
        """Logits [B, C]; without a head the pooled vector [B, D]."""
        return self.forward_head(self.forward_features(x))


def cut(backbone: VisionTransformer, depth: int) -> VisionTransformer:
    """The backbone with its first `depth` blocks only; its modules are shared, not copied."""
    shorter = copy.copy(backbone)
    shorter._modules = {**backbone._modules, "blocks": backbone.blocks[:depth]}
    shorter.config = replace(backbone.config, depth=depth)
    return shorter


@torch.no_grad()
def attention_maps(
    backbone: VisionTransformer,
    images: UInt8[Tensor, "batch channels height width"],
    blocks: Sequence[int],
) -> list[Float[Tensor, "batch heads tokens tokens"]]:
    """The attention weights of some blocks, for images without a mask; each row sums to one.

    Args:
        backbone: The model whose attention is shown.
        images: Of any height and width that the patch divides.
        blocks: Indices of the blocks, 0 is the first.

    Returns:
        For each block its weights, on the CPU; token 0 is the class token.
    """
    heard: dict[nn.Module, Tensor] = {}

    def listen(module: nn.Module, inputs: tuple[Tensor, Tensor | None, tuple[int, int]]) -> None:
        assert isinstance(module, Block)
        x, shared_bias, grid = inputs
        query, key, _ = module.attn.project(module.norm1(x))
        weights = attention_weights(query, key, module.attn.bias(shared_bias, grid))
        heard[module] = weights.float().cpu()

    listened = [backbone.blocks[index] for index in blocks]
    hooks = [module.register_forward_pre_hook(listen) for module in listened]
    try:
        backbone(images)
    finally:
        for hook in hooks:
            hook.remove()
    return [heard[module] for module in listened]
