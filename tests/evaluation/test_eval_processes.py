"""Scores of several processes are those of one: no image twice and none skipped."""

from __future__ import annotations

import shutil
from dataclasses import asdict

import pytest
import torch

import beit
from beit.batch import SegmentedBatch
from beit.config import HeadConfig, InferenceConfig, LinearHeadConfig, LoaderConfig
from beit.config.data import Division
from beit.config.segment_run import MaskConfig
from beit.data.augment import WholeView
from beit.data.segmented import SegmentationData
from beit.data.sources import select
from beit.evaluation.eval_loader import EvalLoader
from beit.evaluation.segment import score_segmenter
from beit.models.heads import Classifier
from beit.models.segmenter import Segmenter
from beit.weights.store import Details, save_artifact
from miniature import BACKBONE
from ranks import together
from reference import disturb
from segmented_folder import write_folder

MOST = 17


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    root = write_folder(tmp_path_factory.mktemp("segmented"), train=1, validation=MOST)
    return SegmentationData(str(root), MaskConfig()).divide(Division(split=0.2, seed=0)).validation


@pytest.fixture(scope="module")
def segmenter():
    torch.manual_seed(0)
    model = Segmenter(BACKBONE, 3, LinearHeadConfig())
    disturb(model)
    return model.eval()


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5, 8, MOST])
def test_any_number_of_images_among_any_number_of_processes(images, segmenter, number):
    """Parts may be empty, and none is filled up with images that others have."""
    chosen = select(images, range(number))

    def confusion(rank: int, world: int) -> torch.Tensor:
        part = EvalLoader(
            SegmentedBatch,
            chosen,
            WholeView(),
            batch=1,
            channels=3,
            loader=LoaderConfig(workers=0),
            rank=rank,
            world=world,
        )
        return score_segmenter(segmenter, part, InferenceConfig(whole=True)).confusion

    alone = confusion(0, 1)
    assert alone.sum() == sum(
        int((torch.from_numpy(chosen.read(index).labels) != 255).sum()) for index in range(number)
    )
    for world in (2, 3, 5):
        together = torch.stack([confusion(rank, world) for rank in range(world)])
        assert torch.equal(together.sum(dim=0), alone)


def _evaluated(_rank, cases):
    found = [beit.evaluate(model, data=data, device="cpu", workers=0, **options)
             for model, data, options in cases]  # fmt: skip
    return [asdict(one) for one in found]


def test_evaluate_gives_the_numbers_of_one_process(tmp_path, class_folders, segmenter):
    """To the last bit: the batches of the processes are those of one. What could not be read is
    named once, by whichever process met it."""
    data = tmp_path / "data" / "val"
    shutil.copytree(class_folders, data)
    (tmp_path / "data" / "train").mkdir()
    (data / "disc" / "broken.png").write_bytes(b"rubbish")
    classes = ("disc", "stripes", "tiles")
    torch.manual_seed(1)
    model = Classifier(BACKBONE, 3, HeadConfig(head_scale=50.0))
    one = save_artifact(tmp_path / "one", model, Details(classes=classes))
    several = save_artifact(tmp_path / "several", model, Details(classes=classes, multi_label=True))
    names = Details(classes=("ground", "disc", "bar"), inference=InferenceConfig(whole=True))
    maps = save_artifact(tmp_path / "maps", segmenter, names)
    root = write_folder(tmp_path / "segmented", train=1, validation=3)
    cases = [
        (str(one), str(tmp_path / "data"), {"batch": 5, "flip": True}),
        (str(several), str(tmp_path / "data"), {"batch": 5}),
        (str(maps), str(root), {}),
    ]
    alone = _evaluated(0, cases)
    assert alone[0]["images"] == 36
    assert together(_evaluated, cases) == [alone, alone]
