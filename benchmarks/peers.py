"""The same models at the peers, with our weights.

Weights go through our own converters, so what a peer computes is what it would compute from a
converted artifact. Nothing of a peer's source is kept here: absent ones are told and left out.
"""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from beit.config import VisionTransformerConfig
from beit.models.heads import Classifier, MaskedImageModel
from beit.models.segmenter import Segmenter
from beit.tokenizers.base import VisualTokenizer
from beit.tokenizers.dalle import DalleTokenizer
from beit.weights.convert import published, write_timm, write_transformers
from beit.weights.store import Artifact, Details

OFFICIAL = "BEIT_UNILM"
"""Environment variable that names a checkout of the official code (microsoft/unilm)."""


class Absent(Exception):  # noqa: N818
    """The peer is not there, or does not run with these versions."""


def gather(makers: dict[str, Callable[[], Any]]) -> tuple[dict[str, Any], dict[str, str]]:
    """The peers that could be made, and why the others could not."""
    made, skipped = {}, {}
    for name, make in makers.items():
        try:
            made[name] = make()
        except Absent as reason:
            skipped[name] = str(reason)
    return made, skipped


def _artifact(model: nn.Module) -> Artifact:
    kinds: dict[type[nn.Module], str] = {
        MaskedImageModel: "masked",
        Classifier: "classifier",
        Segmenter: "segmenter",
    }
    classes = _classes(model)
    details = Details(classes=tuple(f"class {number}" for number in range(classes)))
    return Artifact(kind=kinds[type(model)], model=model, details=details)


def _classes(model: nn.Module) -> int:
    if isinstance(model, Segmenter):
        return model.classes
    return model.head.out_features if isinstance(model, Classifier) else 0


def in_transformers(model: MaskedImageModel | Classifier | Segmenter) -> nn.Module:
    """The model as transformers has it, with its own choice of attention."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    family = {
        MaskedImageModel: transformers.BeitForMaskedImageModeling,
        Classifier: transformers.BeitForImageClassification,
        Segmenter: transformers.BeitForSemanticSegmentation,
    }[type(model)]
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "model"
        write_transformers(_artifact(model), place)
        made: nn.Module = family.from_pretrained(place)
    return made.to(next(model.parameters()).device)


def in_timm(model: MaskedImageModel | Classifier) -> nn.Module:
    """The trunk, with the head of a classifier, as timm has it."""
    import timm

    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "model"
        write_timm(_artifact(model), place)
        made: nn.Module = timm.create_model(f"local-dir:{place}", pretrained=True)
    return made.to(next(model.parameters()).device)


class MaskedTimm(nn.Module):
    """timm has no pre-training model: its blocks between our mask token and our head's weights."""

    def __init__(self, model: MaskedImageModel) -> None:
        super().__init__()
        self.trunk = in_timm(model)
        token = model.backbone.mask_token
        assert token is not None
        self.mask_token = nn.Parameter(token.detach().clone())
        self.head = nn.Linear(model.head.in_features, model.head.out_features)
        self.head.load_state_dict(model.head.state_dict())
        self.to(token.device)

    def forward(self, pixels: Tensor, mask: Tensor) -> Tensor:
        trunk: Any = self.trunk
        x = trunk.patch_embed(pixels)
        x = torch.where(mask[..., None], self.mask_token.to(x.dtype), x)
        x = torch.cat([trunk.cls_token.expand(len(x), -1, -1).to(x.dtype), x], dim=1)
        if trunk.pos_embed is not None:
            x = x + trunk.pos_embed
        bias = None if trunk.rel_pos_bias is None else trunk.rel_pos_bias()
        for block in trunk.blocks:
            x = block(x, shared_rel_pos_bias=bias)
        logits: Tensor = self.head(trunk.norm(x[:, 1:][mask]))
        return logits


def official(model: MaskedImageModel) -> nn.Module:
    """The official pre-training model, from the checkout named by BEIT_UNILM."""
    checkout = os.environ.get(OFFICIAL)
    if not checkout:
        raise Absent(f"{OFFICIAL} names no checkout of microsoft/unilm")
    folder = str(Path(checkout) / "beit")
    sys.path.insert(0, folder)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it imports timm by names of 2021
            module = importlib.import_module("modeling_pretrain")
    except ImportError as error:
        raise Absent(f"modeling_pretrain of {folder}: {error}") from error
    finally:
        sys.path.remove(folder)
    backbone = model.backbone.config
    made: nn.Module = module.VisionTransformerForMaskedImageModeling(
        img_size=backbone.size[0],
        patch_size=backbone.patch,
        in_chans=backbone.channels,
        vocab_size=model.outputs,
        embed_dim=backbone.width,
        depth=backbone.depth,
        num_heads=backbone.heads,
        mlp_ratio=backbone.hidden / backbone.width,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        init_values=backbone.layer_scale,
        use_abs_pos_emb=backbone.absolute_position,
        use_shared_rel_pos_bias=backbone.relative_position == "shared",
    )
    made.load_state_dict(published(model))
    return made.to(next(model.parameters()).device)


def require_published_encoder() -> None:
    """Raise Absent unless the encoder of DALL-E is installed, without which no peer pre-trains."""
    try:
        import dall_e  # noqa: F401
    except ImportError as error:  # it needs attrs and does not say so
        raise Absent(f"the package dall-e cannot be imported: {error}") from error


def dalle_encoder(tokenizer: VisualTokenizer) -> nn.Module:
    """The encoder as OpenAI published it on PyPI: float32 on a CPU, fp16 on a GPU."""
    assert isinstance(tokenizer, DalleTokenizer)
    require_published_encoder()
    from dall_e import Encoder

    config = tokenizer.config
    encoder: nn.Module = Encoder(
        n_hid=config.hidden,
        n_blk_per_group=config.blocks_per_group,
        input_channels=config.channels,
        vocab_size=config.codes,
    )
    spelled = {"weight": "w", "bias": "b"}
    weights = {}
    for name, value in tokenizer.encoder.state_dict().items():
        front, _, last = name.rpartition(".")
        weights[f"{front}.{spelled[last]}"] = value.contiguous()
    encoder.load_state_dict(weights)
    return encoder.to(next(tokenizer.parameters()).device).eval()


def normalised(images: Tensor, backbone: VisionTransformerConfig) -> Tensor:
    """What the peers read: floats with zero mean and unit variance."""
    shape = (-1, 1, 1)
    mean = torch.tensor(backbone.mean, device=images.device).reshape(shape)
    std = torch.tensor(backbone.std, device=images.device).reshape(shape)
    return (images.float() / 255 - mean) / std
