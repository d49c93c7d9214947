"""Images that stream through a model: in bounded memory, in batches that it can take."""

from __future__ import annotations

import io
import multiprocessing
import resource
from types import MappingProxyType, SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from beit.config.bulk import EmbedConfig, Part
from beit.data.augment import EvaluationView
from beit.data.sources import Record
from beit.errors import ResourceError
from beit.inference.bulk import Answers, Job
from beit.inference.images import Place, Places
from beit.inference.outputs import Column, Output
from beit.inference.parts import open_parts, rows_in_part

PNG = io.BytesIO()
Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(PNG, "PNG")
WIDTH = 768


class Endless:
    """As many images as wanted, which are one."""

    classes, targets = (), None

    def __init__(self, length):
        self.length = length

    def __len__(self):
        return self.length

    def key(self, index):
        return f"{index // 1000:05}/{index:09}.png"

    def read(self, index):
        return Record(PNG.getvalue(), None, self.key(index))

    def fingerprint(self):
        return str(self.length)


class Stub(Output):
    """A model that answers zeros; it counts, and fails as it is told."""

    columns = MappingProxyType({"features": Column("float32", WIDTH)})

    def __init__(self, most=10**9):
        self.predictor = SimpleNamespace(
            device=torch.device("cpu"), channels=3, value_range=None, size=(8, 8)
        )
        self.view = EvaluationView((8, 8), 1.0, labelled=False)
        self.sizes, self.most = [], most

    def compute(self, images):
        self.sizes.append(len(images))
        if len(images) > self.most:
            raise torch.OutOfMemoryError("none is left")
        return images.float().flatten(1).mean(1, keepdim=True).expand(-1, WIDTH)

    def cells(self, rows, images, names):
        return {"features": rows.numpy()}


def _growth(number, out) -> int:
    """Bytes that the peak of memory grows by, from a tenth of the rows to all of them."""
    made = Job(SimpleNamespace(), Places([Place("", Endless(number))]), EmbedConfig(workers=0))
    vars(made).update(output=Stub(), batch=64)
    plan = {"images": number, "part_rows": rows_in_part(number), "format": "parquet"}
    parts = open_parts(out, plan, Stub.columns)
    first = done = 0
    for rows in made.write(parts, range(parts.count), Part(1, 1)):
        done += len(rows.keys)
        if done >= number // 10 and not first:
            first = _peak()
    assert done == number
    assert not parts.missing()
    return _peak() - first


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _report_growth(number, out, connection):
    connection.send(_growth(number, out))


@pytest.mark.parametrize(
    ("number", "limit"), [(6_000, 40e6), pytest.param(1_000_000, 200e6, marks=pytest.mark.slow)]
)
@pytest.mark.timeout(3600)
def test_memory_does_not_grow_with_the_rows(tmp_path, number, limit):
    """Of 6,000 rows the features alone are 18 MB, of a million 3 GB; in a process of its own, as
    the peak of this one is that of other tests."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=_report_growth, args=(number, tmp_path / "out", theirs)
    )
    process.start()
    theirs.close()
    assert ours.recv() < limit
    process.join()


def test_a_batch_is_halved_where_memory_runs_out():
    output = Stub(most=3)
    answers = Answers(output)
    cells = answers.cells(torch.zeros(10, 3, 8, 8, dtype=torch.uint8), [""] * 10, [""] * 10)
    assert np.array_equal(cells["features"], np.zeros((10, WIDTH)))
    answers.cells(torch.zeros(10, 3, 8, 8, dtype=torch.uint8), [""] * 10, [""] * 10)
    assert output.sizes == [10, 5, 3, 3, 3, 1, 3, 3, 3, 1]
    with pytest.raises(ResourceError, match="single image"):
        Answers(Stub(most=0)).cells(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), [""] * 2, [""] * 2)


def test_a_compiled_model_sees_one_number_of_images():
    output = Stub()
    cells = Answers(output, 4).cells(torch.ones(3, 3, 8, 8), [""] * 3, [""] * 3)
    assert output.sizes == [4]
    assert cells["features"].shape == (3, WIDTH)


def test_what_is_not_finite_is_no_answer():
    errors = ["", "broken", ""]
    images = torch.stack([torch.ones(3, 8, 8), torch.full((3, 8, 8), torch.inf)])
    cells = Answers(Stub()).cells(images, ["a", "b", "c"], errors)
    assert errors == ["", "broken", "the model gave numbers that are not finite"]
    assert cells["features"].shape == (3, WIDTH)
    assert cells["features"][0].tolist() == [1.0] * WIDTH
