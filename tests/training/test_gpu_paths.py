"""What a GPU would run, looked at without one: graphs without breaks, copies without waiting."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from beit.batch import MaskedBatch, to_device
from beit.config import DalleConfig
from beit.data.collate import SampleResult, collate
from beit.data.transforms import LabelledSample, MaskedSample
from beit.models.heads import MaskedImageModel
from beit.models.layers import Block
from beit.tokenizers.base import VisualTokenizer
from miniature import BACKBONE, VAE, masked_batch

PLAIN = replace(BACKBONE, relative_position="none")
PER_BLOCK = replace(BACKBONE, relative_position="per-block", mask_token=False)


@pytest.mark.parametrize("config", [BACKBONE, PLAIN, PER_BLOCK], ids=["shared", "none", "own"])
def test_a_block_is_one_graph(config, unchecked):
    """`compile_blocks` compiles each: a break would wait for the GPU in the midst of it."""
    torch.compiler.reset()
    backbone = config.build().train()
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
    tokenizer: VisualTokenizer = config.build().freeze()
    pixels = tokenizer.pixels(torch.rand(2, 3, *tokenizer.size))
    expected = tokenizer.encode(pixels)
    for part in tokenizer._trunk():
        part.compile(fullgraph=True, backend="aot_eager")
    assert torch.equal(tokenizer.encode(pixels), expected)


def test_every_tensor_of_a_batch_is_pinned(monkeypatch):
    """And one that serves twice is pinned once."""
    pinned: list[int] = []
    monkeypatch.setattr(Tensor, "pin_memory", lambda self: pinned.append(id(self)) or self.clone())
    image, mask = torch.zeros(3, 8, 8, dtype=torch.uint8), torch.zeros(16, dtype=torch.bool)
    jitter = torch.zeros(2, 3)
    for sample, tensors in (
        (MaskedSample(image, None, mask, jitter), 3),
        (MaskedSample(image, image, mask, None), 3),
        (LabelledSample(image, 1), 2),
    ):
        pinned.clear()
        batch = collate([SampleResult("a", sample), SampleResult("b", sample)]).pin_memory().batch
        assert batch is not None
        assert len(pinned) == len(set(pinned)) == tensors
        if isinstance(batch, MaskedBatch) and sample.token_image is None:
            assert batch.token_images is batch.images


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
