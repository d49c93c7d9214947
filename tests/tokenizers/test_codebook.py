"""The cosine codebook: its formulae restated, its buffers at rest, the same in every process."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import distributed, multiprocessing

from beit.tokenizers.codebook import KMEANS_ITERATIONS, CosineCodebook

CODES, WIDTH, DECAY = 12, 4, 0.9


def fresh(codes: int = CODES) -> CosineCodebook:
    return CosineCodebook(codes=codes, width=WIDTH, decay=DECAY)


def started(codes: int = CODES) -> CosineCodebook:
    """As if the k-means start had been: the codes stay random."""
    codebook = fresh(codes)
    codebook.embedding.initted.fill_(1)
    return codebook


def unit(vectors):
    return vectors / vectors.norm(dim=-1, keepdim=True)


def nearest(vectors, codes):
    """One vector after the other."""
    return [int(torch.stack([vector @ code for code in codes]).argmax()) for vector in vectors]


def state(codebook):
    """Every buffer, also those that no file keeps."""
    return {name: value.clone() for name, value in codebook.named_buffers()}


def test_an_update_is_the_formula():
    codebook, vectors = started(), unit(torch.randn(7, WIDTH))
    before = codebook.embedding.weight.clone()
    quantized = codebook(3 * vectors)
    tokens = nearest(vectors, before)
    assert quantized.tokens.tolist() == tokens
    torch.testing.assert_close(quantized.vectors, before[tokens])  # of before the update
    assert torch.equal(codebook.embedding.weight, before)
    codebook.update()
    for code in range(CODES):
        members = vectors[[token == code for token in tokens]]
        if len(members):
            mean = unit(members.mean(dim=0))
            expected = unit(DECAY * before[code] + (1 - DECAY) * mean)
            torch.testing.assert_close(codebook.embedding.weight[code], expected)
        else:
            assert torch.equal(codebook.embedding.weight[code], before[code])
        assert float(codebook.cluster_size[code]) == pytest.approx((1 - DECAY) * len(members))


def test_micro_batches_make_one_update():
    whole, parts = started(), started()
    parts.load_state_dict(whole.state_dict())
    vectors = torch.randn(20, WIDTH)
    for step in range(2):
        whole(vectors + step)
        whole.update()
        for part in (vectors + step).split(7):
            parts(part)
        parts.update()
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(parts.state_dict()[name], value)


def test_the_first_batch_starts_the_codes():
    codebook, vectors = fresh(5), unit(torch.randn(40, WIDTH))
    codebook(vectors)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    means = vectors[order[:5]]
    for _ in range(KMEANS_ITERATIONS):
        tokens = torch.tensor(nearest(vectors, means))
        groups = [vectors[tokens == code] for code in range(5)]
        means = torch.stack(
            [
                unit(group.mean(dim=0)) if len(group) else mean
                for group, mean in zip(groups, means, strict=True)
            ]
        )
    torch.testing.assert_close(codebook.embedding.weight, means)
    assert torch.equal(codebook.embedding.embed_avg, codebook.embedding.weight)
    assert codebook.cluster_size.tolist() == [len(group) for group in groups]
    assert torch.equal(codebook.embedding.cluster_size, codebook.cluster_size)
    assert codebook.embedding.initted == 1


def test_only_the_first_batch_starts_the_codes():
    codebook = fresh()
    codebook(torch.randn(30, WIDTH))
    codes = codebook.embedding.weight.clone()
    codebook(torch.randn(30, WIDTH))
    assert torch.equal(codebook.embedding.weight, codes)
    again = fresh()
    again.load_state_dict(codebook.state_dict())
    again(torch.randn(30, WIDTH))
    assert torch.equal(again.embedding.weight, codes)


def test_fewer_vectors_than_codes():
    codebook, vectors = fresh(), torch.randn(5, WIDTH)
    quantized = codebook(vectors)
    torch.testing.assert_close(quantized.vectors, unit(vectors))
    torch.testing.assert_close(codebook.embedding.weight.norm(dim=1), torch.ones(CODES))


def test_nothing_changes_in_evaluation():
    codebook = fresh().eval()
    before = state(codebook)
    codebook(torch.randn(9, WIDTH))
    assert codebook.revive(torch.Generator()) == 0
    for name, value in state(codebook).items():
        assert torch.equal(value, before[name]), name


def test_no_parameters_and_straight_gradients():
    codebook = started()
    assert not list(codebook.parameters())
    vectors = torch.randn(6, WIDTH, requires_grad=True)
    upstream = torch.randn(6, WIDTH)
    (codebook(vectors).vectors * upstream).sum().backward()
    straight = vectors.grad
    vectors.grad = None
    (F.normalize(vectors, dim=1) * upstream).sum().backward()  # as if nothing was replaced
    torch.testing.assert_close(straight, vectors.grad)
    assert not any(value.requires_grad for value in codebook.buffers())


def test_commitment_pulls_the_vectors_to_their_codes():
    codebook = started()
    vectors = unit(torch.randn(6, WIDTH)).requires_grad_()
    before = codebook(vectors)
    codes = codebook.embedding.weight[before.tokens]
    expected = (unit(vectors) - codes).square().sum() / (6 * WIDTH)
    torch.testing.assert_close(before.commitment, expected)
    before.commitment.backward()
    assert codebook(vectors - vectors.grad).commitment < before.commitment


def test_zero_vectors_leave_everything_finite():
    codebook, vectors = fresh(), torch.zeros(8, WIDTH, requires_grad=True)
    for _ in range(2):
        quantized = codebook(vectors)
        (quantized.vectors.sum() + quantized.commitment).backward()
        codebook.update()
        codebook.revive(torch.Generator())
        assert quantized.commitment.isfinite()
    assert vectors.grad.isfinite().all()
    assert all(value.isfinite().all() for value in codebook.buffers())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_does_not_change_the_tokens(dtype):
    codebook, vectors = started(512).eval(), unit(torch.randn(256, WIDTH))
    tokens = codebook(vectors).tokens
    codes = codebook.embedding.weight
    assert not torch.equal((vectors.to(dtype) @ codes.to(dtype).t()).argmax(dim=1), tokens)
    with torch.autocast("cpu", dtype=dtype):
        quantized = codebook(vectors)
        assert torch.equal(quantized.tokens, tokens)
        assert torch.equal(codebook.nearest(vectors), tokens)
    assert torch.equal(
        codebook(vectors.to(dtype)).tokens, codebook(vectors.to(dtype).float()).tokens
    )
    assert quantized.vectors.dtype == quantized.commitment.dtype == torch.float32


def test_dead_codes_are_revived_where_vectors_are():
    codebook, vectors = started(), torch.randn(20, WIDTH)
    codebook(vectors)
    codebook.cluster_size.copy_(torch.tensor([4.0, 0.0, 0.05] + [4.0] * (CODES - 3)))
    before = state(codebook)["embedding.weight"]
    assert codebook.revive(torch.Generator().manual_seed(3), threshold=0.02) == 2
    moved = (codebook.embedding.weight != before).any(dim=1)
    assert moved.nonzero().flatten().tolist() == [1, 2]
    revived = codebook.embedding.weight[[1, 2]]
    assert not torch.equal(*revived)
    for code in revived:
        assert (F.normalize(vectors, dim=1) == code).all(dim=1).any()
    assert {1, 2} <= set(codebook.nearest(vectors).tolist())
    assert codebook.cluster_size[1] == codebook.cluster_size[2] > 0.05
    codebook.update()
    codebook(vectors)
    codebook.update()
    assert codebook.revive(torch.Generator()) == 0  # they came into use


def test_the_generator_decides_who_is_revived():
    codebook = started()
    codebook(torch.randn(50, WIDTH))
    drawn = []
    for seed in (1, 1, 2):
        codebook.cluster_size.copy_(torch.tensor([0.0] * 3 + [1.0] * (CODES - 3)))
        codebook.revive(torch.Generator().manual_seed(seed))
        drawn.append(codebook.embedding.weight[:3].clone())
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_revival_waits_for_a_batch():
    codebook = started()
    codebook.cluster_size[3:] = 1
    before = state(codebook)
    assert codebook.revive(torch.Generator()) == 0
    assert torch.equal(codebook.embedding.weight, before["embedding.weight"])


def trained(batches) -> dict[str, torch.Tensor]:
    """Start, three updates and a revival."""
    codebook = fresh()
    for batch in batches:
        codebook(batch)
        codebook.update()
    codebook.cluster_size[:4] = 0
    assert codebook.revive(torch.Generator().manual_seed(5)) == 4
    return codebook.state_dict()


def one_of_two(rank: int, folder: str, first: int) -> None:
    """A process that sees the first rows of every batch, or the others."""
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2
    )
    torch.manual_seed(rank)  # whatever is random differs
    batches = torch.load(f"{folder}/batches.pt")
    torch.save(
        trained([batch.split([first, len(batch) - first])[rank] for batch in batches]),
        f"{folder}/{rank}.pt",
    )
    distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("first", [16, 5])
def test_two_processes_have_the_codes_of_one(tmp_path: Path, first: int):
    batches = list(torch.randn(3, 32, WIDTH))
    torch.save(batches, tmp_path / "batches.pt")
    multiprocessing.spawn(one_of_two, args=(str(tmp_path), first), nprocs=2)
    alone = trained(batches)
    states = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]
    for name, value in alone.items():
        assert torch.equal(states[0][name], states[1][name]), name
        torch.testing.assert_close(states[0][name], value, msg=lambda m, n=name: f"{n}: {m}")
