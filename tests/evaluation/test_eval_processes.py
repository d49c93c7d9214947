"""Scores of several processes are those of one: no image twice and none skipped."""

from __future__ import annotations

import pytest
import torch

from beit.batch import SegmentedBatch
from beit.config import InferenceConfig, LinearHeadConfig, LoaderConfig
from beit.config.segment_run import MaskConfig
from beit.data.segmentation_transforms import WholeView
from beit.data.segmented import SegmentationData
from beit.data.sources import select
from beit.evaluation.eval_loader import EvalLoader
from beit.evaluation.segment import score_segmenter
from beit.models.segmenter import Segmenter
from miniature import BACKBONE
from reference import disturb
from segmented_folder import write_folder

MOST = 17


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    root = write_folder(tmp_path_factory.mktemp("segmented"), train=1, validation=MOST)
    return SegmentationData(str(root), MaskConfig()).divide(split=0.2, seed=0).validation


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
