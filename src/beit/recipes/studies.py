"""Recipes of the studies: the arms that are compared, as data, and the budget that they share.

An arm is a change to one recipe, that of BEiT on a plain backbone. All else is the same for every
arm: images, steps, batch, augmentation, and the search on validation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

from beit.config import (
    AggregationConfig,
    BlockMasking,
    FinetuneRunConfig,
    LinearHeadConfig,
    LoaderConfig,
    MaskConfig,
    MaskedConfig,
    PretrainRunConfig,
    QuantiseConfig,
    SegmentationHeadConfig,
    SegmentRunConfig,
    TokenizerRunConfig,
    UniformMasking,
    UperNetConfig,
    ViewConfig,
    VisibleConfig,
    VisionTransformerConfig,
    VQConfig,
    VQKDConfig,
)
from beit.config.model import HALF
from beit.config.validation import require
from beit.recipes import demo
from beit.recipes.finetune import for_finetuning

TokenizerName = Literal["", "dvae", "vq", "vqkd", "kmeans"]
Change = Callable[[PretrainRunConfig], PretrainRunConfig]
RATIO = 0.4
"""The fraction of hidden patches, as in the paper."""


Run = TypeVar("Run", TokenizerRunConfig, PretrainRunConfig, FinetuneRunConfig, SegmentRunConfig)


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way to obtain the weights that are fine-tuned."""

    name: str
    change: str
    """What differs from BEiT, in words."""
    pretrain: Change = lambda config: config
    """The change to the config of pre-training, from which arms without pre-training take their
    backbone."""
    tokenizer: TokenizerName = "kmeans"
    """The tokenizer whose tokens are predicted; empty if pixels are."""
    pretrained: bool = True
    """Whether the backbone is pre-trained on images without labels."""
    supervised: bool = False
    """Whether it is then trained on labels of other objects, before the labels that count."""
    init: str = ""
    """A finished model to start from instead."""
    longer: int = 1
    """The factor on the updates of fine-tuning."""


@dataclass(frozen=True, kw_only=True)
class StudyPlan:
    """The budget of all arms."""

    tokenizers: dict[TokenizerName, TokenizerRunConfig]
    pretrain: PretrainRunConfig
    """The config of BEiT itself, which arms change."""
    finetune: FinetuneRunConfig
    segment: dict[str, SegmentRunConfig]
    labels: tuple[int, ...]
    """Numbers of labels per class; 0 stands for all."""
    searched: int
    """The number of labels per class at which learning rates and layer decays are searched, and
    training is prolonged."""
    rates: tuple[float, ...]
    decays: tuple[float, ...]
    doublings: int
    """How often the updates are doubled at most, as long as the validation score still rises."""
    seeds: int = 2
    draws: int = 2

    def scaled(self, length: float) -> StudyPlan:
        """The plan with all trainings longer or shorter by this factor."""
        require(length > 0, f"length is {length}", "use a factor above 0")
        return replace(
            self,
            tokenizers={name: prolonged(run, length) for name, run in self.tokenizers.items()},
            pretrain=prolonged(self.pretrain, length),
            finetune=prolonged(self.finetune, length),
            segment={name: prolonged(run, length) for name, run in self.segment.items()},
        )


def number_of(labels: int) -> str:
    """A number of labels as tables show it."""
    return f"{labels} labels" if labels else "all labels"


def prolonged(run: Run, factor: float) -> Run:
    """The same training with more or fewer updates, warm-up and evaluations in proportion."""
    training = run.training
    steps = max(round(training.steps * factor), 1)
    return replace(
        run,
        training=replace(
            training,
            steps=steps,
            warmup_steps=steps // 10,
            save_every=steps,
            evaluate_every=max(round(training.evaluate_every * factor), 1)
            if training.evaluate_every
            else 0,
        ),
    )


def _model(config: PretrainRunConfig, model: VisionTransformerConfig) -> PretrainRunConfig:
    return replace(config, model=model)


def _objective(
    config: PretrainRunConfig, objective: MaskedConfig, *, masking: float | None = None
) -> PretrainRunConfig:
    """The config with another objective and, if a fraction is given, uniform masks of it."""
    masks = config.masking if masking is None else UniformMasking(mask_ratio=masking)
    return replace(config, objective=objective, masking=masks)


def _uniform(config: PretrainRunConfig) -> PretrainRunConfig:
    return replace(config, masking=UniformMasking(mask_ratio=RATIO))


def _unmasked(config: PretrainRunConfig) -> PretrainRunConfig:
    return _objective(config, MaskedConfig(predict="all"), masking=0.0)


def _pixels(config: PretrainRunConfig) -> PretrainRunConfig:
    return _objective(config, MaskedConfig(target="pixels"))


def _mae(config: PretrainRunConfig) -> PretrainRunConfig:
    """arXiv:2111.06377: three quarters hidden, a light decoder, pixels normalised by patch."""
    objective = VisibleConfig(
        target="pixels",
        normalise_patches=True,
        decoder_width=config.model.width // 2,
        decoder_depth=2,
        decoder_heads=config.model.heads,
    )
    return replace(
        config,
        model=replace(config.model, mask_token=False),
        masking=UniformMasking(mask_ratio=0.75),
        objective=objective,
    )


def _relative(config: PretrainRunConfig) -> PretrainRunConfig:
    return _model(config, replace(config.model, relative_position="shared"))


def _layer_scale(config: PretrainRunConfig) -> PretrainRunConfig:
    return _model(config, replace(config.model, layer_scale=0.1))


def _published_draw(config: PretrainRunConfig) -> PretrainRunConfig:
    return _model(config, replace(config.model, initialisation="pretrain"))


def _larger(config: PretrainRunConfig) -> PretrainRunConfig:
    model = config.model
    wide = replace(model, width=2 * model.width, hidden=2 * model.hidden, heads=2 * model.heads)
    return _model(config, wide)


def _aggregation(config: PretrainRunConfig) -> PretrainRunConfig:
    """BEiT v2's patch aggregation, from the block at three quarters of the depth, as in base (9 of
    12)."""
    return replace(
        config, aggregation=AggregationConfig(early_layer=3 * config.model.depth // 4, blocks=1)
    )


SCRATCH, BEIT, UNTRAINED = "from scratch", "BEiT", "untrained"
CORE = (SCRATCH, BEIT, "pixels", "uniform masks", "MAE")
PAPER_ARMS = (
    Arm(name=SCRATCH, change="no pre-training", pretrained=False),
    Arm(name=BEIT, change="block masks, tokens of k-means of patches, plain backbone"),
    Arm(name="uniform masks", change="patches hidden one by one", pretrain=_uniform),
    Arm(name="pixels", change="pixels instead of tokens", pretrain=_pixels, tokenizer=""),
    Arm(
        name="MAE",
        change="visible patches only, light decoder, pixels normalised by patch, 75 % hidden",
        pretrain=_mae,
        tokenizer="",
    ),
    Arm(name="from scratch, x3", change="no pre-training, three times the updates",
        pretrained=False, longer=3),
    Arm(name="supervised", change="labels of other objects instead of tokens",
        pretrained=False, supervised=True),
    Arm(name="BEiT, intermediate", change="labels of other objects after pre-training",
        supervised=True),
    Arm(name="all tokens", change="the tokens of all patches are predicted",
        pretrain=lambda config: _objective(config, MaskedConfig(predict="all"))),
    Arm(name="no masking", change="nothing is hidden, all tokens are predicted",
        pretrain=_unmasked),
    Arm(name="pixels, uniform masks", change="pixels, patches hidden one by one",
        pretrain=lambda config: _uniform(_pixels(config)), tokenizer=""),
    Arm(name="SimMIM", change="pixels, absolute error, 60 % hidden one by one", tokenizer="",
        pretrain=lambda config: _objective(
            config, MaskedConfig(target="pixels", pixel_loss="absolute"), masking=0.6)),
    Arm(name="BEiT, x0.5", change="half of the updates",
        pretrain=lambda config: prolonged(config, 0.5)),
    Arm(name="BEiT, x2", change="twice the updates",
        pretrain=lambda config: prolonged(config, 2)),
    Arm(name="BEiT, x4", change="four times the updates",
        pretrain=lambda config: prolonged(config, 4)),
    Arm(name="uniform masks, x4", change="patches hidden one by one, four times the updates",
        pretrain=lambda config: prolonged(_uniform(config), 4)),
    Arm(name="no masking, x4", change="nothing is hidden, four times the updates",
        pretrain=lambda config: prolonged(_unmasked(config), 4)),
    Arm(name="published initial weights", change="positions, too, drawn as BEiT's code does",
        pretrain=_published_draw),
    Arm(name="relative bias", change="a shared relative position bias", pretrain=_relative),
    Arm(name="layer scale", change="gains of 0.1 on every branch", pretrain=_layer_scale),
    Arm(name="relative bias and layer scale", change="both, as the released BEiT+ has",
        pretrain=lambda config: _layer_scale(_relative(config))),
    Arm(name="from scratch, larger", change="no pre-training, twice the width",
        pretrain=_larger, pretrained=False),
    Arm(name="BEiT, larger", change="twice the width", pretrain=_larger),
    Arm(name="discrete VAE", change="tokens of a discrete VAE, as the paper has", tokenizer="dvae"),
    Arm(name="VQ", change="tokens of VQ", tokenizer="vq"),
    Arm(name="VQ-KD", change="tokens of VQ-KD, whose teacher is BEiT", tokenizer="vqkd"),
    Arm(name="VQ-KD, aggregation", change="and patch aggregation, as BEiT v2",
        tokenizer="vqkd", pretrain=_aggregation),
)  # fmt: skip


def paper() -> StudyPlan:
    """Object scenes of 80 pixels seen at 64; BEiT as in the paper's tables, at the demo's scale.

    The plain backbone, since it learns fastest within minutes; `relative bias` and `layer scale`
    are arms. Tokens are those of the demo, k-means of patches, which cost seconds: the discrete VAE
    of the paper is an arm. Views, rates and batches are the demo's.
    """
    model = demo.backbone()
    loader = LoaderConfig(workers=0, cache=True)
    dvae = replace(demo.dvae(), loader=loader, held_out=0.02)
    vq, vqkd = (
        kind(
            size=model.size, patch=model.patch, width=96, depth=3, decoder_depth=1, heads=4,
            hidden=384, codes=256, codebook_width=16,
        )
        for kind in (VQConfig, VQKDConfig)
    )  # fmt: skip
    pretrain = replace(
        demo.pretrain(),
        recipe="study",
        masking=BlockMasking(mask_ratio=RATIO, smallest_block=12),
        loader=loader,
        knn_images=0,
        accept_collapsed=True,  # a collapse would be a result, too
    )
    finetune = demo.finetune()
    finetune = replace(
        finetune,
        recipe="study",
        loader=loader,
        training=replace(finetune.training, evaluate_every=30),
    )
    heads: dict[str, SegmentationHeadConfig] = {
        "linear head": LinearHeadConfig(),
        "UperNet": UperNetConfig(head_channels=64, auxiliary_channels=32),
    }
    segmenter = replace(
        demo.segment(),
        recipe="study",
        masks=MaskConfig(),
        training=replace(finetune.training, lr=2e-3, evaluate_every=0),
    )
    return StudyPlan(
        tokenizers={
            "dvae": dvae,
            "kmeans": replace(demo.tokenizer(), loader=loader),
            "vq": replace(dvae, tokenizer=vq, objective=QuantiseConfig(revive_every=20)),
            "vqkd": replace(dvae, tokenizer=vqkd, objective=QuantiseConfig(revive_every=20)),
        },
        pretrain=prolonged(pretrain, 600 / pretrain.training.steps),
        finetune=finetune,
        segment={
            name: replace(prolonged(segmenter, 600 / segmenter.training.steps), head=head)
            for name, head in heads.items()
        },
        labels=(5, 10, 40),
        searched=10,
        rates=(1e-3, 3e-3),
        decays=(0.75, 1.0),
        doublings=3,
    )


OWN_ARMS = (
    Arm(name=SCRATCH, change="no pre-training", pretrained=False),
    Arm(
        name="pre-trained here",
        change="tokens of k-means, uniform masks, on the training images without labels",
        pretrain=_uniform,
    ),
)


def own(size: int = 64) -> StudyPlan:
    """Any images, seen at a small size: the backbone and the updates of `paper`.

    Crops and mirroring are for images that have an upright orientation; pixel statistics are 0.5.
    """
    plan = paper()
    sides = (size, size)
    views = ViewConfig(crop_scale=(0.4, 1.0))
    model = replace(plan.pretrain.model, size=sides, mean=HALF, std=HALF)
    kmeans = plan.tokenizers["kmeans"]
    codebook = replace(kmeans.tokenizer, size=sides)
    finetune = plan.finetune
    augment = replace(
        finetune.augment, crop_scale=(0.4, 1.0), crop_ratio=(3 / 4, 4 / 3), symmetry="horizontal"
    )
    return replace(
        plan,
        tokenizers={"kmeans": replace(kmeans, tokenizer=codebook, views=views)},
        pretrain=replace(plan.pretrain, model=model, views=views, evaluation_crop=0.875),
        finetune=replace(
            finetune,
            model=for_finetuning(model, finetune.model.drop_path),
            augment=augment,
            evaluation_crop=0.875,
        ),
        segment={},
        labels=(5, 20, 0),
        searched=20,
    )
