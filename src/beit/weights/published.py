"""Every weights file that the authors of BEiT, BEiT v2 and DALL-E published, and what it is.

Names, addresses and accuracies are those that microsoft/unilm states (folders beit and beit2), ids
those of transformers and timm. What could not be found stated is empty. The authors published no
SHA-256: those here were measured by others, whom `hash_source` names. The names of the VQ-KD files
carry the first eight digits of theirs, which unilm checks when it downloads them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from beit.config.model import HALF, IMAGENET_MEAN, IMAGENET_STD

Family = Literal["beit v1", "beit v2", "vqkd", "dall-e", "ade20k"]
Kind = Literal["pre-trained", "intermediate", "fine-tuned", "tokenizer", "segmenter"]
Statistics = tuple[float, float, float]

FIRST = "https://github.com/addf400/files/releases/download/v1.0"
SECOND = "https://github.com/addf400/files/releases/download/BEiT-v2"
PAGES = "https://github.com/microsoft/unilm/blob/master"
LIST = "beit/README.md"
GUIDE = "beit/get_started_for_image_classification.md"
ADE20K = "beit/semantic_segmentation/README.md"
SECOND_LIST = "beit2/README.md"
SECOND_GUIDE = "beit2/get_started_for_image_classification.md"
SECOND_ADE20K = "beit2/semantic_segmentation/README.md"
CLASSES: dict[Kind, int] = {"intermediate": 21841, "fine-tuned": 1000, "segmenter": 150}


@dataclass(frozen=True, kw_only=True)
class Published:
    """One published file."""

    name: str
    """File name as published."""
    family: Family
    kind: Kind
    backbone: str = ""
    """Row of the size table (`beit.config.model.SIZES`); DALL-E's networks are none of them."""
    size: int = 224
    """Side in pixels of the square image; for DALL-E, of the view that BEiT feeds it."""
    mean: Statistics | None = None
    """Mean per channel of pixels in [0, 1]; tokenizers map pixels in their own way."""
    std: Statistics | None = None
    """Standard deviation per channel of pixels in [0, 1]."""
    crop: float = 1.0
    """Share of the image that evaluation looks at: centre crop of size / crop."""
    url: str = ""
    """Where it lies; empty where only the Azure store is stated, which is closed."""
    sha256: str = ""
    hash_source: str = ""
    """GitHub repository of those who measured the hash."""
    expected: float | None = None
    """Per cent: top-1 accuracy on ImageNet-1k, or mIoU on ADE20K at a single scale."""
    source: str = ""
    """Page of microsoft/unilm that states `expected`."""
    licence: str = "MIT"
    """Of the repository that published it."""
    hub: str = ""
    """The same weights on the Hugging Face hub."""
    timm: str = ""
    """The same weights in timm."""

    @property
    def classes(self) -> int:
        """Classes C of its head, 0 without one."""
        return CLASSES.get(self.kind, 0)

    @property
    def hash_start(self) -> str:
        """What its SHA-256 begins with: all of it, the digits in the name, or nothing."""
        named = re.search(r"-([0-9a-f]{8})\.pth$", self.name)
        return self.sha256 or (named[1] if named else "")

    @property
    def metric(self) -> str:
        return "mIoU" if self.kind == "segmenter" else "top-1"

    @property
    def command(self) -> str:
        """What measures `expected`; empty where nothing is stated."""
        if not self.expected:
            return ""
        data = (
            "ADEChallengeData2016 --layout ade20k" if self.kind == "segmenter" else "imagenet/val"
        )
        return f"beit evaluate {self.name} --data {data}"


def _network(
    name: str, kind: Kind, *, at: str = "", size: int = 224, expected: float | None = None,
    source: str = "", hub: str = "", timm: str = "", sha256: str = "", hash_source: str = "",
) -> Published:  # fmt: skip
    """A network, with what its name and kind imply.

    Pixel statistics are those of its training: 0.5 for v1 on ImageNet-22k, ImageNet's for v1 on
    ImageNet-1k (unilm's flag --imagenet_default_mean_and_std), all of v2 and every segmenter. The
    crop is that of unilm's evaluation: 224/256 below 384 pixels, the whole image from there.
    """
    half = "_pt22k" in name and kind != "segmenter"
    family: Family = "beit v2" if name.startswith("beitv2") else "beit v1"
    return Published(
        name=f"{name}.pth",
        family="ade20k" if kind == "segmenter" else family,
        kind=kind,
        backbone="large" if "_large_" in name else "base",
        size=size,
        mean=HALF if half else IMAGENET_MEAN,
        std=HALF if half else IMAGENET_STD,
        crop=1.0 if kind == "segmenter" or size >= 384 else 0.875,
        url=at and f"{at}/{name}.pth",
        sha256=sha256,
        hash_source=hash_source,
        expected=expected,
        source=source,
        hub=hub and f"microsoft/{hub}",
        timm=timm,
    )


BEIT = (
    _network("beit_base_patch16_224_pt1k_800ep", "pre-trained"),
    _network("beit_base_patch16_224_pt22k", "pre-trained", at=FIRST,
             hub="beit-base-patch16-224-pt22k"),
    _network("beit_large_patch16_224_pt22k", "pre-trained", at=FIRST,
             hub="beit-large-patch16-224-pt22k"),
    _network("beit_base_patch16_224_pt22k_ft22k", "intermediate", at=FIRST,
             hub="beit-base-patch16-224-pt22k-ft22k",
             timm="beit_base_patch16_224.in22k_ft_in22k"),
    _network("beit_large_patch16_224_pt22k_ft22k", "intermediate", at=FIRST,
             hub="beit-large-patch16-224-pt22k-ft22k",
             timm="beit_large_patch16_224.in22k_ft_in22k"),
    _network("beit_base_patch16_224_pt22k_ft1k", "fine-tuned", expected=83.7, source=LIST),
    _network("beit_base_patch16_224_pt22k_ft22kto1k", "fine-tuned", at=FIRST,
             expected=85.2, source=LIST, hub="beit-base-patch16-224",
             timm="beit_base_patch16_224.in22k_ft_in22k_in1k"),
    _network("beit_base_patch16_384_pt22k_ft22kto1k", "fine-tuned", at=FIRST, size=384,
             expected=86.82, source=GUIDE, hub="beit-base-patch16-384",
             timm="beit_base_patch16_384.in22k_ft_in22k_in1k"),
    _network("beit_large_patch16_224_pt22k_ft1k", "fine-tuned", expected=86.0, source=LIST),
    _network("beit_large_patch16_224_pt22k_ft22kto1k", "fine-tuned", at=FIRST,
             expected=87.396, source=GUIDE, timm="beit_large_patch16_224.in22k_ft_in22k_in1k"),
    _network("beit_large_patch16_384_pt22k_ft22kto1k", "fine-tuned", at=FIRST, size=384,
             expected=88.408, source=GUIDE, hub="beit-large-patch16-384",
             timm="beit_large_patch16_384.in22k_ft_in22k_in1k"),
    _network("beit_large_patch16_512_pt22k_ft22kto1k", "fine-tuned", at=FIRST, size=512,
             expected=88.6, source=GUIDE, hub="beit-large-patch16-512",
             timm="beit_large_patch16_512.in22k_ft_in22k_in1k"),
)  # fmt: skip

BEIT_V2 = (
    _network("beitv2_base_patch16_224_pt1k", "pre-trained", at=SECOND,
             sha256="6d32a5f7626452c5226d4b181f599c85fe5442e5de2222f63e096705aaa6ae8c",
             hash_source="gatheluck/10YearVisualSSL"),
    _network("beitv2_base_patch16_224_pt1k_300e", "pre-trained", at=SECOND),
    _network("beitv2_large_patch16_224_pt1k", "pre-trained", at=SECOND),
    _network("beitv2_large_patch16_224_pt1k_300e", "pre-trained", at=SECOND),
    _network("beitv2_base_patch16_224_pt1k_ft21k", "intermediate", at=SECOND,
             timm="beitv2_base_patch16_224.in1k_ft_in22k"),
    _network("beitv2_large_patch16_224_pt1k_ft21k", "intermediate", at=SECOND,
             timm="beitv2_large_patch16_224.in1k_ft_in22k"),
    _network("beitv2_base_patch16_224_pt1k_300e_ft1k", "fine-tuned", at=SECOND,
             expected=85.0, source=SECOND_GUIDE),
    _network("beitv2_base_patch16_224_pt1k_ft1k", "fine-tuned", at=SECOND,
             expected=85.5, source=SECOND_LIST, timm="beitv2_base_patch16_224.in1k_ft_in1k"),
    _network("beitv2_base_patch16_224_pt1k_ft21kto1k", "fine-tuned", at=SECOND,
             expected=86.458, source=SECOND_GUIDE,
             timm="beitv2_base_patch16_224.in1k_ft_in22k_in1k"),
    _network("beitv2_large_patch16_224_pt1k_300e_ft1k", "fine-tuned", at=SECOND,
             expected=86.6, source=SECOND_GUIDE),
    _network("beitv2_large_patch16_224_pt1k_ft1k", "fine-tuned", at=SECOND,
             expected=87.3, source=SECOND_LIST, timm="beitv2_large_patch16_224.in1k_ft_in1k"),
    _network("beitv2_large_patch16_224_pt1k_ft21kto1k", "fine-tuned", at=SECOND,
             expected=88.37, source=SECOND_GUIDE,
             timm="beitv2_large_patch16_224.in1k_ft_in22k_in1k"),
)  # fmt: skip

SEGMENTERS = (
    _network("beit_base_patch16_640_pt22k_ft22ktoade20k", "segmenter", at=FIRST, size=640,
             expected=53.61, source=ADE20K, hub="beit-base-finetuned-ade-640-640",
             sha256="95bba2fea9f5f6e09293463d128d0f9958642c32605f8161f234cd85923be11a",
             hash_source="ruthapoom-sib/Smart-CCTV"),
    _network("beit_large_patch16_640_pt22k_ft22ktoade20k", "segmenter", size=640,
             expected=56.7, source=LIST, hub="beit-large-finetuned-ade-640-640"),
    _network("beitv2_base_patch16_224_pt1k_ftade20k", "segmenter", at=SECOND, size=512,
             expected=53.1, source=SECOND_LIST),
    _network("beitv2_base_patch16_224_pt1k_ft21ktoade20k", "segmenter", at=SECOND, size=512,
             expected=53.5, source=SECOND_LIST),
    _network("beitv2_large_patch16_224_pt1k_ftade20k", "segmenter", at=SECOND, size=512,
             expected=56.7, source=SECOND_LIST),
    _network("beitv2_large_patch16_224_pt1k_ft21ktoade20k", "segmenter", at=SECOND, size=512,
             expected=57.54, source=SECOND_ADE20K),
)  # fmt: skip

VQKD = tuple(
    Published(
        name=f"{name}.pth",
        family="vqkd",
        kind="tokenizer",
        backbone="base",
        url=f"{SECOND}/{name}.pth",
    )
    for name in (
        "vqkd_encoder_base_decoder_1x768x12_clip-d93179da",
        "vqkd_encoder_base_decoder_3x768x12_clip-d5036aa7",
        "vqkd_encoder_base_decoder_1x768x12_dino-663c55d7",
    )
)

DALLE = tuple(
    Published(
        name=name,
        family="dall-e",
        kind="tokenizer",
        size=112,
        url=f"https://cdn.openai.com/dall-e/{name}",
        sha256=sha256,
        hash_source=hash_source,
        licence="modified MIT",
    )
    for name, sha256, hash_source in (
        (
            "encoder.pkl",
            "96b0f478c2e8d912f745f1bdde186efaac4265d38568a52f33bd40d3a15935d4",
            "gatheluck/10YearVisualSSL",
        ),
        ("decoder.pkl", "", ""),
    )
)

PUBLISHED: tuple[Published, ...] = BEIT + BEIT_V2 + SEGMENTERS + VQKD + DALLE


def recognise_name(name: str, sha256: str = "") -> Published | None:
    """The published file with this hash, else the one with this name.

    Folders before the name and a query or fragment behind it do not matter. A hash that speaks
    against the file of that name rules it out.
    """
    sha256 = sha256.lower()
    plain = re.split(r"[?#]", name)[0].rsplit("/", 1)[-1]
    for file in PUBLISHED:
        if sha256 and file.sha256 == sha256:
            return file
    for file in PUBLISHED:
        if file.name == plain and (not sha256 or sha256.startswith(file.hash_start)):
            return file
    return None


def is_published_hub(reference: str) -> bool:
    """Whether a hub id (`hf:org/name`) is one that the authors' weights were put under."""
    plain = reference.removeprefix("hf:").split("@")[0]
    return any(plain == file.hub for file in PUBLISHED if file.hub)


def _hash_cell(file: Published) -> str:
    if file.sha256:
        by = f"[{file.hash_source}](https://github.com/{file.hash_source})"
        return f"`{file.sha256}`, measured by {by}"
    return f"begins with `{file.hash_start}`" if file.hash_start else ""


def as_markdown() -> str:
    """The table of `docs/checkpoints.md`."""
    rows = [
        "| file | what | size | SHA-256 | expected | stated in | command |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for file in PUBLISHED:
        cells = (
            f"[{file.name}]({file.url})" if file.url else file.name,
            f"{file.family}, {file.kind}",
            f"{file.backbone}, {file.size} px".removeprefix(", "),
            _hash_cell(file),
            f"{file.expected} % {file.metric}" if file.expected else "",
            f"[{file.source}]({PAGES}/{file.source})" if file.source else "",
            f"`{file.command}`" if file.command else "",
        )
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)
