"""What a GPU would run, looked at without one: graphs without breaks, copies without waiting."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from beit.batch import MaskedBatch, to_device
from beit.config import DalleConfig
from beit.models.heads import MaskedImageModel
from beit.models.layers import Block
from beit.models.vit import VisionTransformer
from beit.tokenizers import build_tokenizer
from beit.tokenizers.base import VisualTokenizer
from miniature import BACKBONE, VAE, masked_batch

PLAIN = replace(BACKBONE, relative_position="none")
PER_BLOCK = replace(BACKBONE, relative_position="per-block", mask_token=False)


@pytest.mark.parametrize("config", [BACKBONE, PLAIN, PER_BLOCK], ids=["shared", "none", "own"])
def test_a_block_is_one_graph(config, unchecked):
    """`compile_blocks` compiles each: a break would wait for the GPU in the midst of it."""
    torch.compiler.reset()
    backbone = VisionTransformer(config).train()
    block = next(part for part in backbone.modules() if isinstance(part, Block))
    x = torch.randn(2, 1 + config.patches, config.width, requires_grad=True)
    bias = None
    if backbone.rel_pos_bias is not None:
        bias = backbone.rel_pos_bias(config.grid).detach().requires_grad_()
    compiled = torch.compile(block.compute, fullgraph=True, backend="aot_eager")
    for wanted in (None, torch.arange(5).expand(2, -1)):
        out = compiled(x, bias, config.grid, wanted)
        torch.testing.assert_close(out, block.compute(x, bias, config.grid, wanted))
        out.sum().backward()


@pytest.mark.parametrize(
    "config", [VAE, DalleConfig(size=(16, 16), hidden=16, codes=32, decoder=False)],
    ids=["discrete VAE", "DALL-E"],
)  # fmt: skip
def test_the_trunk_of_a_tokenizer_is_one_graph(config, unchecked):
    torch.compiler.reset()
    tokenizer: VisualTokenizer = build_tokenizer(config).freeze()
    pixels = tokenizer.pixels(torch.rand(2, 3, *tokenizer.size))
    expected = tokenizer.encode(pixels)
    for part in tokenizer._trunk():
        part.compile(fullgraph=True, backend="aot_eager")
    assert torch.equal(tokenizer.encode(pixels), expected)


def test_a_batch_goes_to_the_device_without_being_waited_for(monkeypatch):
    moved: list[bool] = []
    real = Tensor.to

    def to(self: Tensor, *args: object, **options: object) -> Tensor:
        if any(isinstance(one, torch.device) for one in args):
            moved.append(bool(options.get("non_blocking")))
        return real(self, *args, **options)

    monkeypatch.setattr(Tensor, "to", to)
    mask = masked_batch(0).mask.clone()
    mask[0] = False
    batch = to_device(masked_batch(0)._replace(mask=mask), torch.device("cpu"))
    assert isinstance(batch, MaskedBatch)
    assert batch.masked is not None
    assert batch.masked.real is not None
    assert len(moved) >= 4
    assert all(moved)


def test_a_model_on_no_device_is_built_without_values():
    """`meta` stands for a device whose memory is not asked for."""
    with torch.device("meta"):
        model = MaskedImageModel(BACKBONE, 7)
    assert {value.device.type for value in model.state_dict().values()} == {"meta"}
