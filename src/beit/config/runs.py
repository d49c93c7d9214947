"""One config per verb that trains: everything a run needs, and everything its folder records."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from beit.config.data import (
    AugmentConfig,
    BalanceConfig,
    DividedDataConfig,
    Division,
    Fold,
    LoaderConfig,
    ViewConfig,
    check_pattern,
)
from beit.config.masking import BlockMasking, MaskedConfig, MaskingConfig, PretrainObjectiveConfig
from beit.config.model import VisionTransformerConfig, published_crop
from beit.config.tokenizer import (
    DiscreteVAEConfig,
    PatchCodebookConfig,
    QuantisedConfig,
    TokenizerConfig,
    VQKDConfig,
)
from beit.config.training import Precision, TrainingConfig
from beit.config.validation import (
    Config,
    Crop,
    Depth,
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveFraction,
    PositiveInt,
    Range,
    require,
    seconds_of,
)

Pooling = Literal["mean", "cls"]
Folds = Annotated[int, Range(2, 10)]
ThresholdRule = Literal["f1", "recall", "precision"]


@dataclass(frozen=True, kw_only=True)
class TokenizerObjectiveConfig(Config):
    """How a tokenizer is trained."""


@dataclass(frozen=True, kw_only=True)
class ReconstructConfig(TokenizerObjectiveConfig):
    """The objective of the discrete VAE: reconstruct through sampled codes (eq. 1)."""

    first_temperature: PositiveFloat = 1.0
    """Gumbel-softmax temperature at the start."""
    final_temperature: PositiveFloat = 1 / 16
    """Gumbel-softmax temperature once annealed (DALL-E, appendix A.2)."""
    annealing: Fraction = 0.5
    """Fraction of the run over which the temperature falls, along a cosine."""
    kl_weight: NonNegativeFloat = 0.0
    """Weight of the KL divergence from uniform codes, in nats per token, added to the mean loss."""
    kl_warmup: Fraction = 0.1
    """Fraction of the run over which the KL weight rises."""
    balance_weight: NonNegativeFloat = 0.0
    """Weight of a penalty against collapse: ln K minus the entropy of the batch's mean code
    distribution."""
    revive_every: NonNegativeInt = 100
    """Steps between revivals of dead codes, each of which takes over half of a busy code; 0 never
    revives."""
    usage_decay: Fraction = 0.96
    """Decay of the running usage of each code, by which dead codes are found."""


@dataclass(frozen=True, kw_only=True)
class QuantiseConfig(TokenizerObjectiveConfig):
    """The objective of a quantised tokenizer (BEiT v2, eq. 4): rebuild what its tokens stand for,
    the features of a teacher for VQ-KD and pixels for VQ."""

    commitment_weight: NonNegativeFloat = 1.0
    """Weight of the commitment loss: the mean squared distance between unit vectors and their
    codes."""
    revive_every: NonNegativeInt = 100
    """Steps between revivals of dead codes, which become vectors of the batch; 0 never revives."""


@dataclass(frozen=True, kw_only=True)
class AggregationConfig(Config):
    """Patch aggregation: a second prediction through the last class token (BEiT v2, section
    2.3)."""

    early_layer: PositiveInt | None = None
    """Block, counted from 1, whose patches patch aggregation reads: 9 for base, 21 for large; None:
    no patch aggregation."""
    blocks: Depth = 2
    """Blocks of patch aggregation, over those patches and the class token; only pre-training uses
    them."""
    shared_head: bool = True
    """Share norm and head with the main prediction, instead of having separate ones."""

    def __post_init__(self) -> None:
        super().__post_init__()
        usual = self.blocks == AggregationConfig.blocks and self.shared_head
        require(
            self.early_layer is not None or usual,
            f"blocks is {self.blocks} and shared_head {self.shared_head}, but without "
            "early_layer there is no patch aggregation",
            "name the block to read with --early-layer, or leave both out",
        )


@dataclass(frozen=True, kw_only=True)
class HeadConfig(Config):
    """The classification head (section 2.6)."""

    pooling: Pooling = "mean"
    """`mean` averages the patch vectors and normalises the mean; `cls` normalises and takes the
    class token."""
    head_scale: PositiveFloat = 0.001
    """Factor on the head's initial weights, so that training starts near uniform predictions."""


@dataclass(frozen=True, kw_only=True)
class ThresholdConfig(Config):
    """The probability from which a multi-label model predicts a label, chosen per label on
    validation."""

    threshold_by: ThresholdRule = "f1"
    """How the threshold of each label is chosen on validation, if images have several labels: `f1`:
    the best F1; `recall`: the largest with at least `threshold_level` of recall; `precision`: the
    smallest with at least that precision."""
    threshold_level: PositiveFraction = 0.9
    """Recall or precision that `threshold_by` requires."""


@dataclass(frozen=True, kw_only=True)
class AdaptationConfig(Config):
    """How much of a pre-trained backbone is trained; the head always is."""

    freeze: bool = False
    """Freeze the backbone and train only the head."""
    freeze_blocks: NonNegativeInt = 0
    """Freeze the embedding and this many blocks, counted from the first."""
    lora: NonNegativeInt = 0
    """Rank of LoRA adapters, which are trained instead of the weights of attention and MLP and
    merged into the saved model; 0 trains the weights."""
    lora_alpha: PositiveFloat | None = None
    """LoRA adapters are scaled by this value over their rank; None: by 2."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            not (self.freeze and (self.lora or self.freeze_blocks)),
            "freeze was given, which trains nothing of the backbone, together with lora or "
            "freeze_blocks, which train a part of it",
            "give one of them",
        )
        require(
            self.lora_alpha is None or self.lora > 0,
            f"lora_alpha is {self.lora_alpha}, but there is no LoRA",
            "add --lora 8, or leave --lora-alpha out",
        )

    def check_fits(
        self, model: VisionTransformerConfig, init: str, training: TrainingConfig
    ) -> None:
        """Check that these options make sense for a run.

        Args:
            model: The backbone to adapt.
            init: The model whose weights it starts from; empty: they are random.
            training: How it is trained; LoRA excludes sharding.

        Raises:
            ConfigError: The backbone has too few blocks, its weights are random and thus not worth
                freezing, or LoRA and sharding are combined.
        """
        require(
            self.freeze_blocks < model.depth,
            f"freeze_blocks is {self.freeze_blocks}, and the backbone has {model.depth} blocks",
            f"use fewer than {model.depth}, or --freeze for all of it",
        )
        kept = self.freeze or self.freeze_blocks > 0 or self.lora > 0
        require(
            not kept or bool(init),
            "a part of the backbone is to stay as it is, but its weights are random",
            "name the model to start from with --init",
        )
        require(
            not self.lora or training.sharding == "off",
            "LoRA does not work with sharded weights",
            "use --sharding off: a frozen backbone has no optimizer state to shard",
        )


@dataclass(frozen=True, kw_only=True)
class RunConfig(Config):
    """What every run has."""

    recipe: str = ""
    """Name of the recipe that provides the other values."""
    data: str = ""
    """Images: a folder, a label file, shards, hf:NAME or Parquet; for segmentation, with masks."""
    out: str = ""
    """Folder of the run: created here, never overwritten."""
    time: str = ""
    """Choose everything you do not set so that the run ends in about this time on this machine:
    15m, 1h, 8h. The plan is printed before it starts."""
    accept_changed_data: bool = False
    """Resume although images were added, removed, relabelled or resized since the last save."""
    loader: LoaderConfig = field(default_factory=LoaderConfig)
    training: TrainingConfig

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.time:
            seconds_of(self.time)

    @property
    def division(self) -> Division | None:
        """How data without splits is divided; None: this kind of run has no options for it."""
        return None


def _check_cache(name: str, views: int, cache: str, kept: str) -> None:
    """Raise ConfigError unless these views can be kept, and a cache is named only if some are."""
    require(
        views > 0 or not cache,
        f"{name}_cache is {cache}, and {name}_views 0 keeps no {kept}",
        f"add --{name}-views, or leave --{name}-cache out",
    )


@dataclass(frozen=True, kw_only=True)
class TokenizerRunConfig(DividedDataConfig, RunConfig):
    """Train a visual tokenizer."""

    tokenizer: TokenizerConfig
    teacher: str = ""
    """Model whose features VQ-KD reconstructs: clip, dino, timm:NAME, hf:ORG/NAME, a folder of timm
    or transformers, or a run or model of ours."""
    teacher_views: NonNegativeInt = 0
    """Fixed views of each image whose teacher features are computed once and stored on disk. 0
    stores none: every epoch has new views, and the teacher runs in every step."""
    teacher_cache: str = ""
    """Folder for the stored features, which runs may share; empty: `features` in the run folder."""
    views: ViewConfig = field(default_factory=ViewConfig)
    objective: TokenizerObjectiveConfig = field(default_factory=ReconstructConfig)
    held_out: Fraction = 0.05
    """Fraction of the images held out to measure reconstruction and code usage."""

    def __post_init__(self) -> None:
        super().__post_init__()
        quantised = isinstance(self.tokenizer, QuantisedConfig | PatchCodebookConfig)
        require(
            quantised or isinstance(self.tokenizer, DiscreteVAEConfig),
            f"a {type(self.tokenizer).__name__} is not trained",
            "pre-train with it: --tokenizer MODULE:FUNCTION, a function that returns the tokenizer",
        )
        require(
            isinstance(self.objective, QuantiseConfig if quantised else ReconstructConfig),
            f"a {type(self.tokenizer).__name__} is not trained by {type(self.objective).__name__}",
            "use QuantiseConfig for VQKDConfig, VQConfig and PatchCodebookConfig, and "
            "ReconstructConfig for DiscreteVAEConfig",
        )
        require(
            not self.teacher or isinstance(self.tokenizer, VQKDConfig),
            f"the teacher {self.teacher} was given, and a {type(self.tokenizer).__name__} has none",
            "leave --teacher out, or use a recipe of VQ-KD",
        )
        _check_cache("teacher", self.teacher_views, self.teacher_cache, "features")
        require(
            self.teacher_views == 0 or isinstance(self.tokenizer, VQKDConfig),
            f"teacher_views is {self.teacher_views}, and a {type(self.tokenizer).__name__} has no "
            "teacher",
            "leave --teacher-views out, or use a recipe of VQ-KD",
        )


@dataclass(frozen=True, kw_only=True)
class PretrainRunConfig(DividedDataConfig, RunConfig):
    """Pre-training: masked image modeling, or another objective on hidden patches."""

    tokenizer: str = ""
    """Trained tokenizer: a run or its `model` folder, a released file, or `module:function` for
    code of your own that returns a VisualTokenizer."""
    tokenizer_recipe: str = "small"
    """Recipe of the tokenizer that is trained first if none is named: small, kmeans (seconds) or
    tiny."""
    tokenizer_precision: Precision = "auto"
    """Number format in which the tokenizer encodes; `auto` is fp16 on a GPU, bf16 on a CPU that
    supports it, otherwise fp32. In half precision a few tokens in a thousand differ; the log
    reports how many."""
    token_views: NonNegativeInt = 0
    """Fixed views of each image whose tokens are computed once and stored on disk, each under new
    masks in every epoch. 0 stores none: every epoch has new views, which are encoded anew."""
    token_cache: str = ""
    """Folder for the stored tokens, which runs may share; empty: `tokens` in the run folder."""
    accept_collapsed: bool = False
    """Use the tokenizer even if it has collapsed."""
    init: str = ""
    """Model to start from instead of random weights: a run, an artifact or a released file; the
    prediction head is kept if the tokenizer is the same."""
    model: VisionTransformerConfig
    masking: MaskingConfig = field(default_factory=BlockMasking)
    views: ViewConfig = field(default_factory=ViewConfig)
    objective: PretrainObjectiveConfig = field(default_factory=MaskedConfig)
    aggregation: AggregationConfig = field(default_factory=AggregationConfig)
    labelled: str = ""
    """Class folders for the nearest-neighbour score during training; empty: `data`, if it has
    classes."""
    knn_images: NonNegativeInt = 2000
    """Most images per split for the nearest-neighbour score during training; 0 switches it off."""
    evaluation_crop: Crop = 0.875
    """Fraction of the side kept by the centre crop for the nearest-neighbour score."""

    def __post_init__(self) -> None:
        super().__post_init__()
        early_layer, depth = self.aggregation.early_layer, self.model.depth
        require(
            early_layer is None or early_layer < depth,
            f"early_layer is {early_layer}, and the backbone has {depth} blocks",
            f"read an early block: 1 to {depth - 1}",
        )
        require(
            early_layer is None or self.objective.shows_hidden,
            f"early_layer is {early_layer}, and patch aggregation reads hidden patches in the "
            "backbone",
            "leave --early-layer out, or use a recipe of masked image modeling",
        )
        self.objective.check_fits(self.model, self.masking)
        _check_cache("token", self.token_views, self.token_cache, "tokens")
        require(
            self.token_views == 0 or self.objective.target == "tokens",
            f"token_views is {self.token_views}, and pixels are to be predicted",
            "leave --token-views out, or use --target tokens",
        )


@dataclass(frozen=True, kw_only=True)
class FinetuneRunConfig(DividedDataConfig, RunConfig):
    """Classification, from a pre-trained model or from scratch."""

    init: str = ""
    """Model to start from: a run, an artifact or a released file; empty trains from scratch. The
    head is kept if the classes are the same."""
    model: VisionTransformerConfig
    adaptation: AdaptationConfig = field(default_factory=AdaptationConfig)
    head: HeadConfig = field(default_factory=HeadConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    split: Fraction = 0.2
    """Fraction of each class held out for validation if the data has no `val` folder."""
    groups: str = ""
    """Regular expression that finds an image's group in its name, such as 'patient_([0-9]+)':
    images of one patient, place or video are held out together or not at all."""
    folds: Folds | None = None
    """Cross-validation: train this many classifiers, each measured on another part of the images,
    with one table and one page of the results. None: one classifier."""
    only_fold: PositiveInt | None = None
    """Train only this one of the folds, counted from 1."""
    per_class: PositiveInt | None = None
    """Use only this many labelled images per class, drawn by `split_seed`."""
    balance: BalanceConfig = field(default_factory=BalanceConfig)
    split_seed: NonNegativeInt = 0
    """Seed by which `per_class` and `split` draw labelled images."""
    multi_label: bool = False
    """Take the same file in several class folders (linked or copied), or in several rows of a list,
    as one image with several labels. Label files with several labels need no option."""
    thresholds: ThresholdConfig = field(default_factory=ThresholdConfig)
    evaluation_crop: Crop | None = None
    """Fraction of the side kept by the centre crop for evaluation; None: 0.875 below 384 pixels,
    otherwise 1."""
    baselines: bool = True
    """Measure trivial baselines for the report (colours, a thumbnail, an untrained backbone), which
    any model must beat."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.adaptation.check_fits(self.model, self.init, self.training)
        require(
            self.only_fold is None or (self.folds is not None and self.only_fold <= self.folds),
            f"only_fold is {self.only_fold}, of {self.folds or 'no'} folds",
            "name one of the folds, as with --folds 5 --only-fold 1",
        )
        check_pattern("groups", self.groups)

    @property
    def division(self) -> Division:
        """How data without splits is divided; with folds, one fold is held out."""
        fold = None
        if self.folds is not None and self.only_fold is not None:
            fold = Fold(self.only_fold - 1, self.folds)
        return Division(self.split, self.split_seed, self.per_class, fold, self.groups)

    @property
    def crop(self) -> float:
        """The evaluation crop, with the default worked out."""
        return self.evaluation_crop or published_crop(min(self.model.size))
