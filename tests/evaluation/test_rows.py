"""A table on disk gives what the table in memory gives, and shuffles stretches of itself."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from beit.batch import LabelledBatch
from beit.config.evaluate import ProbeConfig
from beit.errors import ResourceError
from beit.evaluation import rows as rows_module
from beit.evaluation.features import FeatureTable, PatchStream, extract_patches
from beit.evaluation.neighbours import neighbour_votes
from beit.evaluation.probe import attentive_accuracies, train_attentive, train_heads
from beit.evaluation.rows import Rows, on_disk
from beit.evaluation.sweeps import BOTH, MEAN, Stored, sweep_linear
from beit.models.vit import VisionTransformer
from miniature import BACKBONE, labelled_batch

CONFIG = ProbeConfig(epochs=3, batch=16, learning_rates=(1e-3, 1e-2), attentive_epochs=3)
CLASSES = 3


def table(images):
    targets = torch.arange(images) % CLASSES
    features, tokens = 5 * torch.randn(2, images, 2, 6) + 3
    features[:, 1, :CLASSES] += 2 * torch.eye(CLASSES)[targets]
    return FeatureTable(features, targets, (), tokens)


def stored(values, folder):
    found = on_disk(tuple(values.shape), folder)
    found[:] = values
    return found


@pytest.mark.parametrize("method", [MEAN, BOTH])
def test_a_block_on_disk_scores_as_among_all_in_memory(tmp_path, method):
    tables = {part: table(images) for part, images in (("train", 60), ("validation", 30))}
    whole = sweep_linear(method, tables, classes=CLASSES, config=CONFIG)
    parts = {
        part: each._replace(
            features=stored(each.features[:, 1:], tmp_path), cls=stored(each.cls[:, 1:], tmp_path)
        )
        for part, each in tables.items()
    }
    alone = sweep_linear(method, parts, classes=CLASSES, config=CONFIG, stored=Stored(2, (1,)))
    assert alone.blocks == whole.blocks[1:]
    assert list(tmp_path.iterdir()) == []  # nothing is left, however the process ends


def test_heads_of_a_block_on_disk_are_those_of_all(tmp_path):
    each = table(60)
    whole = train_heads(each.features, each.targets, classes=CLASSES, config=CONFIG)
    rows = Rows(stored(each.features[:, 1:], tmp_path), on_disk=True)
    alone = train_heads(rows, each.targets, classes=CLASSES, config=CONFIG, some=(2, (1,)))
    torch.testing.assert_close(alone.weights[0], whole.weights[1])
    torch.testing.assert_close(alone.bias[0], whole.bias[1])


def test_a_long_table_on_disk_is_shuffled_in_stretches(monkeypatch):
    monkeypatch.setattr(rows_module, "STRETCH", 8)
    monkeypatch.setattr(rows_module, "MIXED", 32)
    rows = Rows(torch.zeros(100, 1, 1), on_disk=True)
    order = list(rows.shuffled(torch.Generator().manual_seed(0), 10))
    assert sorted(torch.cat(order).tolist()) == list(range(100))
    first = torch.cat(order)[:32]
    assert len((first // 8).unique()) == 4
    assert first.diff().abs().float().mean() > 5
    other = torch.cat(list(rows.shuffled(torch.Generator().manual_seed(1), 10)))
    assert not torch.equal(other, torch.cat(order))


def test_a_disk_without_room_is_reported(tmp_path):
    with pytest.raises(ResourceError, match="takes 4503599"):
        on_disk((2**40, 1024), tmp_path)


def test_neighbours_by_stretches_are_exact(monkeypatch):
    known, queries = table(70), table(40)
    parts = known.features[:, 1], known.targets, queries.features[:, 1]
    settings = {"neighbours": (1, 5, 50), "temperatures": (0.07, 1.0)}
    whole = neighbour_votes(*parts, **settings)
    monkeypatch.setattr("beit.evaluation.neighbours.KNOWN", 9)
    monkeypatch.setattr("beit.evaluation.neighbours.QUERIES", 7)
    assert torch.equal(neighbour_votes(*parts, **settings), whole)


def test_patches_read_again_train_what_patches_in_memory_train():
    backbone, batch = VisionTransformer(BACKBONE).eval(), labelled_batch(0)
    cpu = torch.device("cpu")
    kept = extract_patches(backbone, [batch], block=1, device=cpu)

    def read(places, size):
        for some in torch.as_tensor(places).split(size):
            keys = tuple(batch.keys[at] for at in some.tolist())
            yield LabelledBatch(batch.images[some], batch.targets[some], keys)

    again = PatchStream(backbone, read, torch.arange(8).numpy(), block=1, device=cpu)
    config = replace(CONFIG, batch=3)
    probes = [
        train_attentive(each, heads=2, classes=CLASSES, config=config) for each in (kept, again)
    ]
    for one, other in zip(*probes, strict=True):
        torch.testing.assert_close(one.state_dict(), other.state_dict())
    assert attentive_accuracies(probes[0], kept) == attentive_accuracies(probes[1], again)
