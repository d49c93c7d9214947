"""The options of each verb in Python, as type checkers and editors know them.

Written by `python scripts/options.py` from the config classes, which say what each option means.
"""

from __future__ import annotations

from os import PathLike
from typing import Literal, TypedDict

from beit.config.data import (
    AugmentConfig,
    BalanceConfig,
    ClassFolderConfig,
    FolderConfig,
    LabelFileConfig,
    LoaderConfig,
    ViewConfig,
)
from beit.config.evaluate import ClassifiedConfig, SegmentedConfig
from beit.config.masking import MaskingConfig, PretrainObjectiveConfig
from beit.config.model import VisionTransformerConfig
from beit.config.runs import (
    AdaptationConfig,
    AggregationConfig,
    HeadConfig,
    ThresholdConfig,
    TokenizerObjectiveConfig,
)
from beit.config.segment_run import InferenceConfig, JointConfig, MaskConfig
from beit.config.segmentation import SegmentationHeadConfig
from beit.config.tokenizer import TokenizerConfig
from beit.config.training import TrainingConfig


class LoaderOptions(TypedDict, total=False):
    workers: int | None
    cache: bool | None
    cache_dir: str | PathLike[str]
    cache_size: float | None
    value_range: tuple[float, float] | None
    bad_limit: float
    worker_timeout: float
    worker_restarts: int


class ModelOptions(TypedDict, total=False):
    absolute_position: bool
    relative_position: Literal["none", "shared", "per-block"]
    layer_scale: float | None
    mask_token: bool
    drop_path: float
    initialisation: Literal["pretrain", "finetune", "xavier"]
    norm_epsilon: float


class ViewOptions(TypedDict, total=False):
    crop_scale: tuple[float, float]
    crop_ratio: tuple[float, float]
    jitter: float
    pipeline: Literal["parity", "fast"]


class FolderOptions(TypedDict, total=False):
    class_level: int | None
    label_pattern: str | PathLike[str]
    fold: str | PathLike[str]
    accept_missing_classes: bool


class LabelFileOptions(TypedDict, total=False):
    image_column: str | PathLike[str]
    label_column: str | PathLike[str]
    split_column: str | PathLike[str]
    validation_fold: str | PathLike[str]
    test_fold: str | PathLike[str]
    label_separator: Literal["auto", "none", "space", "comma", "semicolon", "pipe"]
    image_folder: str | PathLike[str]
    join: tuple[str | PathLike[str], ...]


class AdaptationOptions(TypedDict, total=False):
    freeze: bool
    freeze_blocks: int
    lora: int
    lora_alpha: float | None


class BalanceOptions(TypedDict, total=False):
    class_weights: Literal["none", "balanced", "root"]
    balanced_sampling: bool


class MaskOptions(TypedDict, total=False):
    layout: Literal["auto", "folders", "ade20k", "voc", "nnunet", "coco", "labelme"]
    annotations: str | PathLike[str]
    class_names: str | PathLike[str]
    legend: str | PathLike[str]
    mask_values: Literal["auto", "labels", "binary"]
    ignore_values: tuple[str | PathLike[str], ...]
    reduce_zero_label: bool
    mask_suffix: str | PathLike[str]
    image_suffix: str | PathLike[str]
    several_masks: Literal["auto", "object", "classes"]
    unmasked: Literal["refuse", "background", "skip"]


class RunOptions(LoaderOptions, total=False):
    data: str | PathLike[str]
    out: str | PathLike[str]
    time: str | PathLike[str]
    accept_changed_data: bool
    loader: LoaderConfig
    training: TrainingConfig
    steps: int
    batch: int
    micro_batch: int | None
    lr: float
    min_lr: float
    schedule: Literal["cosine", "linear"]
    warmup_steps: int
    weight_decay: float
    final_weight_decay: float | None
    betas: tuple[float, float]
    epsilon: float
    clip: float | None
    skip_spikes: float | None
    layer_decay: float
    average: float | None
    precision: Literal["auto", "fp32", "bf16", "fp16"]
    compile: Literal["auto", "off", "blocks"]
    recompute: Literal["off", "selective", "blocks"]
    sharding: Literal["off", "blocks"]
    device: Literal["auto", "cpu", "cuda", "mps"]
    seed: int
    order: Literal["auto", "full", "shards", "sorted"]
    log_every: int
    evaluate_every: int
    patience: int | None
    save_every: int
    keep: int
    tracker: tuple[Literal["tensorboard", "wandb", "mlflow", "trackio", "none"], ...]
    process_timeout: float
    size: tuple[int, int]
    channels: int
    width: int
    hidden: int
    patch: int
    depth: int
    heads: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    symmetry: Literal["none", "horizontal", "all"]


class TokenizerOptions(RunOptions, ViewOptions, FolderOptions, LabelFileOptions, total=False):
    folders: FolderConfig
    label_file: LabelFileConfig
    tokenizer: TokenizerConfig
    codes: int
    interpolation: Literal["bicubic", "lanczos", "bilinear"]
    stride: int
    narrowest: int
    blocks: int
    codebook_width: int
    likelihood: Literal["l2", "logit-laplace"]
    decoder_input: int
    blocks_per_group: int
    decoder: bool
    decoder_depth: int
    codebook_decay: float
    teacher_width: int
    compared: Literal["pixels", "gradients"]
    teacher: str | PathLike[str]
    teacher_views: int
    teacher_cache: str | PathLike[str]
    views: ViewConfig
    objective: TokenizerObjectiveConfig
    first_temperature: float
    final_temperature: float
    annealing: float
    kl_weight: float
    kl_warmup: float
    balance_weight: float
    revive_every: int
    usage_decay: float
    commitment_weight: float
    held_out: float


class PretrainOptions(
    RunOptions, ModelOptions, ViewOptions, FolderOptions, LabelFileOptions, total=False
):
    folders: FolderConfig
    label_file: LabelFileConfig
    tokenizer: str | PathLike[str]
    tokenizer_recipe: str | PathLike[str]
    tokenizer_precision: Literal["auto", "fp32", "bf16", "fp16"]
    token_views: int
    token_cache: str | PathLike[str]
    accept_collapsed: bool
    init: str | PathLike[str]
    model: VisionTransformerConfig
    masking: MaskingConfig
    mask_ratio: float
    smallest_block: int
    largest_aspect: float
    hidden_patches: tuple[int, ...]
    views: ViewConfig
    objective: PretrainObjectiveConfig
    target: Literal["tokens", "pixels"]
    predict: Literal["masked", "all"]
    pixel_loss: Literal["squared", "absolute"]
    contrast_weight: float
    temperature: float
    projection: int
    second_crop: tuple[float, float]
    second_jitter: float
    kept: float
    decoder_width: int
    decoder_depth: int
    decoder_heads: int
    normalise_patches: bool
    aggregation: AggregationConfig
    early_layer: int | None
    blocks: int
    shared_head: bool
    labelled: str | PathLike[str]
    knn_images: int
    evaluation_crop: float


class FinetuneOptions(
    RunOptions,
    ModelOptions,
    FolderOptions,
    LabelFileOptions,
    AdaptationOptions,
    BalanceOptions,
    total=False,
):
    folders: FolderConfig
    label_file: LabelFileConfig
    init: str | PathLike[str]
    model: VisionTransformerConfig
    adaptation: AdaptationConfig
    head: HeadConfig
    pooling: Literal["mean", "cls"]
    head_scale: float
    augment: AugmentConfig
    crop_scale: tuple[float, float]
    crop_ratio: tuple[float, float]
    rand_augment: str | PathLike[str]
    jitter: float
    erasing: float
    mixup: float
    cutmix: float
    smoothing: float
    split: float
    groups: str | PathLike[str]
    folds: int | None
    only_fold: int | None
    per_class: int | None
    balance: BalanceConfig
    split_seed: int
    multi_label: bool
    thresholds: ThresholdConfig
    threshold_by: Literal["f1", "recall", "precision"]
    threshold_level: float
    evaluation_crop: float | None
    baselines: bool


class SegmentOptions(
    RunOptions, ModelOptions, AdaptationOptions, BalanceOptions, MaskOptions, total=False
):
    init: str | PathLike[str]
    model: VisionTransformerConfig
    adaptation: AdaptationConfig
    head: SegmentationHeadConfig
    dropout: float
    out_indices: tuple[int, ...] | None
    head_channels: int | None
    pools: tuple[int, ...]
    auxiliary: bool
    auxiliary_channels: int
    auxiliary_level: int
    out_index: int | None
    masks: MaskConfig
    joint: JointConfig
    resize_ratio: tuple[float, float]
    base_side: int | None
    largest_class: float
    distortion: bool
    balance: BalanceConfig
    inference: InferenceConfig
    whole: bool
    window: tuple[int, int] | None
    stride: tuple[int, int] | None
    scales: tuple[float, ...]
    flip: bool
    short_side: int | None
    auxiliary_weight: float
    split: float
    groups: str | PathLike[str]
    split_seed: int
    per_class: int | None


class EvaluateOptions(FolderOptions, LabelFileOptions, MaskOptions, total=False):
    data: str | PathLike[str]
    split: str | PathLike[str]
    flip: bool
    batch: int | None
    device: str | PathLike[str]
    classified: ClassifiedConfig
    folders: ClassFolderConfig
    label_file: LabelFileConfig
    crop: float | None
    size: tuple[int, int] | None
    labels: str | PathLike[str]
    segmented: SegmentedConfig
    scales: tuple[float, ...] | None
    whole: bool
    window: tuple[int, int] | None
    stride: tuple[int, int] | None
    short_side: int | None
    masks: MaskConfig
    workers: int | None


class ProbeOptions(LoaderOptions, FolderOptions, LabelFileOptions, total=False):
    folders: FolderConfig
    label_file: LabelFileConfig
    data: str | PathLike[str]
    out: str | PathLike[str]
    crop: float | None
    split: float
    groups: str | PathLike[str]
    multi_label: bool
    seed: int
    learning_rates: tuple[float, ...]
    epochs: int
    batch: int
    weight_decay: float
    standardise: bool
    neighbours: tuple[int, ...]
    temperatures: tuple[float, ...]
    attentive_epochs: int
    shots: tuple[int, ...]
    seeds: int
    baselines: bool
    device: str | PathLike[str]
    memory: float | None
    loader: LoaderConfig
