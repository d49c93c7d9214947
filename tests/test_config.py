"""Configs refuse what is wrong by name, and survive JSON, changes and comparison."""

from __future__ import annotations

import inspect
import json
import math
import reprlib
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from beit.config import (
    AugmentConfig,
    BlockMasking,
    ClassifiedConfig,
    DalleConfig,
    DiscreteVAEConfig,
    EvaluateConfig,
    FinetuneRunConfig,
    FixedMasking,
    HeadConfig,
    InferenceConfig,
    JointConfig,
    LoaderConfig,
    MaskingConfig,
    PretrainRunConfig,
    ProbeConfig,
    PublishedBlockMasking,
    RandomProjectionConfig,
    ReconstructConfig,
    RunConfig,
    SegmentedConfig,
    SegmentRunConfig,
    TokenizerRunConfig,
    TrainingConfig,
    UniformMasking,
    UperNetConfig,
    ViewConfig,
    VisionTransformerConfig,
)
from beit.config.artifact import (
    BackboneArchitecture,
    ClassifierArchitecture,
    MaskedArchitecture,
    PoolingHead,
    SegmenterArchitecture,
    TokenizerArchitecture,
)
from beit.config.tree import TYPES, differences, from_json, leaves, override, to_json
from beit.config.validation import field_types
from beit.errors import BeitError, ConfigError, nearest
from beit.training.run_folder import read_run_config
from changes import changes

TRAINING = TrainingConfig(steps=100, batch=8, lr=1e-3)
PRETRAIN = PretrainRunConfig(training=TRAINING, model=VisionTransformerConfig())
RUNS = [
    PRETRAIN,
    TokenizerRunConfig(training=TRAINING, tokenizer=DiscreteVAEConfig()),
    FinetuneRunConfig(training=TRAINING, model=VisionTransformerConfig()),
    SegmentRunConfig(training=TRAINING, model=VisionTransformerConfig()),
]
ARCHITECTURES = [
    TokenizerArchitecture(tokenizer=DiscreteVAEConfig()),
    BackboneArchitecture(backbone=VisionTransformerConfig()),
    MaskedArchitecture(backbone=VisionTransformerConfig(), outputs=9),
    PoolingHead(pooling="cls"),
    ClassifierArchitecture(
        backbone=VisionTransformerConfig(), head=PoolingHead(pooling="mean"), outputs=9
    ),
    SegmenterArchitecture(backbone=VisionTransformerConfig(), head=UperNetConfig(), outputs=9),
]
GIVEN = {"TrainingConfig": TRAINING, "RunConfig": None} | {
    type(each).__name__: each for each in [*RUNS, *ARCHITECTURES]
}
CONCRETE = [
    GIVEN.get(name) or kind()
    for name, kind in TYPES.items()
    if not inspect.isabstract(kind) and name != "RunConfig"
]


@pytest.mark.parametrize(
    "config",
    [
        *CONCRETE,
        replace(PRETRAIN, masking=FixedMasking(hidden_patches=(3, 1))),
        replace(PRETRAIN, masking=PublishedBlockMasking()),
        VisionTransformerConfig(channels=1, mean=(0.2,), std=(0.1,), layer_scale=None),
    ],
    ids=lambda config: type(config).__name__,
)
def test_json_round_trip(config):
    written = json.dumps(to_json(config))
    assert from_json(json.loads(written), type(config)) == config


def test_base_type_reads_its_subclasses():
    config = UniformMasking(mask_ratio=0.3)
    assert from_json(to_json(config), MaskingConfig) == config


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"type": "PretrainRunConfg"}, "Confg' is not a known .*\n.*'PretrainRunConfig'"),
        ({"type": "ViewConfig"}, "'ViewConfig' is not a known PretrainRunConfig"),
        ({"lables": ""}, "no option 'lables'.*\n.*'labelled'"),
        ({"masking": {"type": "BlockMaskin"}}, "skin' is not a known MaskingConfig.*\n.*Block"),
        ({"masking": {"type": "ViewConfig"}}, "'ViewConfig' is not a known MaskingConfig"),
        ({"masking": {"type": "BlockMasking", "ratio": 1}}, "BlockMasking has no option 'ratio'"),
        ({"masking": {"type": "MaskingConfig"}}, "MaskingConfig cannot be made"),
        ({"masking": 3}, "masking is 3"),
        ({"training": {"type": "TrainingConfig", "lr": 1.0}}, "cannot be made.*'steps'"),
        ({"data": {"type": "ViewConfig"}}, "data is {"),
    ],
)
def test_wrong_json_is_refused(change, problem):
    with pytest.raises(ConfigError, match=problem):
        from_json(to_json(PRETRAIN) | change, PretrainRunConfig)


def test_override_anywhere_in_the_tree():
    changed = override(PRETRAIN, {"data": "d", "mask_ratio": 0.5, "lr": 1, "size": [32, 64]})
    assert changed.data == "d"
    assert changed.masking == BlockMasking(mask_ratio=0.5)
    assert changed.training.lr == 1.0
    assert isinstance(changed.training.lr, float)
    assert changed.model.size == (32, 64)
    assert changed.views == PRETRAIN.views


def test_override_nothing():
    assert override(PRETRAIN, {}) == PRETRAIN


@pytest.mark.parametrize("node_first", [True, False])
def test_override_a_node_and_its_options(node_first):
    options = {"masking": FixedMasking(), "hidden_patches": (7,), "drop_path": 0.1}
    order = options if node_first else dict(reversed(options.items()))
    changed = override(PRETRAIN, order)
    assert changed.masking == FixedMasking(hidden_patches=(7,))
    assert changed.model.drop_path == 0.1


def test_override_checks_options_together():
    """No order of these is legal one by one."""
    long = override(PRETRAIN, {"steps": 1000, "warmup_steps": 500})
    assert override(long, {"steps": 100, "warmup_steps": 10}).training.steps == 100
    assert override(PRETRAIN, {"size": (28, 28), "patch": 14}).model.grid == (2, 2)
    grey = {"channels": 1, "mean": (0.5,), "std": (0.5,)}
    assert override(PRETRAIN, grey).model.channels == 1


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"mask_ration": 0.5}, "no option 'mask_ration'.*\n.*'mask_ratio'"),
        ({"maskin": UniformMasking()}, "no node 'maskin'.*\n.*'masking'"),
        ({"masking": ViewConfig()}, "masking is ViewConfig.*\n.*MaskingConfig"),
        ({"steps": "many"}, "steps is 'many'.*\n.*int"),
        ({"steps": True}, "steps is True"),
        ({"steps": 2.5}, "steps is 2.5"),
        ({"lr": "1e-3"}, "lr is '1e-3'.*\n.*float"),
        ({"size": (1, 2, 3)}, r"size is \(1, 2, 3\)"),
        ({"relative_position": "shard"}, "relative_position is 'shard'.*\n.*'shared'"),
        ({"cache": 1}, "cache is 1"),
        ({"masking": FixedMasking(), "mask_ratio": 0.5}, "no option 'mask_ratio'"),
        ({"heads": 7}, "768 cannot be divided among 7 heads"),
    ],
)
def test_wrong_override_is_refused(options, problem):
    with pytest.raises(ConfigError, match=problem):
        override(PRETRAIN, options)


def test_differences():
    assert differences(PRETRAIN, PRETRAIN) == {}
    changed = override(PRETRAIN, {"lr": 2e-3, "masking": PublishedBlockMasking(mask_ratio=0.5)})
    assert differences(PRETRAIN, changed) == {
        "masking.mask_ratio": (75 / 196, 0.5),
        "masking.type": ("BlockMasking", "PublishedBlockMasking"),
        "training.lr": (1e-3, 2e-3),
    }


def rejections():
    """A legal config and the change of one option that makes it illegal."""
    vit, dvae, dalle = VisionTransformerConfig(), DiscreteVAEConfig(), DalleConfig()
    blocks, uniform, fixed = BlockMasking(), UniformMasking(), FixedMasking()
    views, augment, loader = ViewConfig(), AugmentConfig(), LoaderConfig()
    reconstruct, head = ReconstructConfig(), HeadConfig()
    pretrain, tokenizer, finetune, segment = RUNS
    return [
        *[(vit, {name: 0}) for name in ("patch", "channels", "width", "depth", "heads", "hidden")],
        (vit, {"size": (224, 230)}),
        (vit, {"size": (0, 224)}),
        (vit, {"heads": 7}),
        (vit, {"drop_path": 1.0}),
        (vit, {"layer_scale": 0.0}),
        (vit, {"mean": (0.5,)}),
        (vit, {"std": (0.5, 0.5)}),
        (vit, {"std": (0.5, 0.0, 0.5)}),
        *[(dvae, {name: 0}) for name in ("stride", "width", "narrowest", "blocks")],
        (dvae, {"codebook_width": 0}),
        (dvae, {"stride": 1}),
        (dvae, {"size": (112, 116)}),
        (dvae, {"codes": 1}),
        (dvae, {"codes": 8193}),
        (dvae, {"channels": 0}),
        *[(dalle, {name: 0}) for name in ("hidden", "decoder_input", "blocks_per_group")],
        *[(config, {"mask_ratio": ratio}) for config in (blocks, uniform)
          for ratio in (-0.1, 1.1, math.nan)],
        (blocks, {"largest_aspect": 0.5}),
        (blocks, {"smallest_block": 0}),
        (fixed, {"hidden_patches": (1, 2, 1)}),
        *[(TRAINING, {name: 0}) for name in
          ("steps", "batch", "lr", "epsilon", "log_every", "save_every", "keep", "layer_decay")],
        (TRAINING, {"layer_decay": 1.5}),
        (TRAINING, {"min_lr": 1.0}),
        (TRAINING, {"warmup_steps": 100}),
        (TRAINING, {"evaluate_every": -1}),
        (TRAINING, {"weight_decay": -1.0}),
        (TRAINING, {"average": 1.0}),
        (TRAINING, {"clip": 0.0}),
        (TRAINING, {"micro_batch": 3}),
        (TRAINING, {"micro_batch": 0}),
        *[(config, {"crop_scale": scale}) for config in (views, augment)
          for scale in ((0.0, 1.0), (0.5, 0.1), (0.5, 1.5))],
        (views, {"crop_ratio": (2.0, 1.0)}),
        (views, {"jitter": -0.1}),
        *[(augment, {name: 1.5}) for name in ("erasing", "smoothing", "jitter")],
        (augment, {"mixup": -1.0}),
        (augment, {"cutmix": -1.0}),
        (loader, {"bad_limit": 2.0}),
        (loader, {"workers": -1}),
        (loader, {"worker_timeout": 0.0}),
        *[(reconstruct, {name: 0.0}) for name in ("first_temperature", "final_temperature")],
        *[(reconstruct, {name: 1.5}) for name in ("annealing", "kl_warmup", "usage_decay")],
        *[(reconstruct, {name: -1}) for name in
          ("kl_weight", "balance_weight", "revive_every")],
        (head, {"head_scale": 0.0}),
        (finetune, {"split": 1.5}),
        (finetune, {"per_class": 0}),
        (finetune, {"evaluation_crop": 0.0}),
        (pretrain, {"evaluation_crop": 1.5}),
        (tokenizer, {"held_out": -0.1}),
        (segment, {"split": 1.5}),
        (segment, {"auxiliary_weight": 0.0}),
        *[(JointConfig(), {"resize_ratio": ratio}) for ratio in ((0.0, 1.0), (2.0, 1.0))],
        (JointConfig(), {"largest_class": 1.5}),
        (JointConfig(), {"base_side": 0}),
        *[(InferenceConfig(), {"scales": scales}) for scales in ((), (0.0, 1.0))],
        (InferenceConfig(), {"short_side": 0}),
        *[(InferenceConfig(whole=True), {name: (4, 4)}) for name in ("window", "stride")],
        *[(EvaluateConfig(), {name: -1}) for name in ("batch", "workers")],
        (ClassifiedConfig(), {"crop": 0.0}),
        (ProbeConfig(), {"crop": 1.5}),
        (ProbeConfig(), {"split": -0.5}),
        *[(ProbeConfig(), {name: 0}) for name in ("epochs", "batch", "seeds")],
        *[(ProbeConfig(), {name: -1}) for name in ("weight_decay", "attentive_epochs")],
        *[(ProbeConfig(), {name: values}) for name in
          ("learning_rates", "neighbours", "temperatures") for values in ((), (1, 0))],
        (ProbeConfig(), {"shots": (5, 0)}),
        (SegmentedConfig(), {"scales": ()}),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("config", "given"),
    rejections(),
    ids=lambda part: str(part) if isinstance(part, dict) else type(part).__name__,
)
def test_rules_reject_and_say_what_was_given(config, given):
    ((name, value),) = given.items()
    with pytest.raises(ConfigError) as caught:
        replace(config, **given)
    shown = [value, len(value), *value] if isinstance(value, tuple) else [value]
    assert name in caught.value.problem
    assert any(str(part) in caught.value.problem for part in shown)
    assert caught.value.remedy


def test_a_window_that_does_not_fit_is_refused_before_training():
    segment = next(run for run in RUNS if isinstance(run, SegmentRunConfig))
    for options, problem in (
        ({"window": (30, 32)}, "window 30 is not a multiple of 16"),
        ({"stride": (225, 8)}, r"stride \(225, 8\) does not fit window \(224, 224\)"),
    ):
        with pytest.raises(ConfigError, match=problem):
            replace(segment, inference=InferenceConfig(**options))


@pytest.mark.parametrize(
    "run", [*RUNS, EvaluateConfig(), ProbeConfig()], ids=lambda run: type(run).__name__
)
@pytest.mark.parametrize("masking", [BlockMasking(), UniformMasking(), FixedMasking()])
def test_option_names_are_unique(run, masking):
    """So that a command-line option needs no prefix."""
    if isinstance(run, PretrainRunConfig):
        run = replace(run, masking=masking)
    names = [path[-1] for path, _ in leaves(run)]
    assert sorted(set(names)) == sorted(names)


def test_nearest_word():
    assert nearest("bach", ["batch", "steps"]) == "did you mean 'batch'?"
    assert nearest("zzz", ["steps", "batch"]) == "known: batch, steps"


def test_errors_carry_a_remedy_and_their_own_exit_code():
    error = BeitError("it broke", remedy="mend it")
    assert str(error) == "it broke\n  remedy: mend it"
    assert str(BeitError("it broke")) == "it broke"
    codes = [kind.exit_code for kind in [BeitError, *BeitError.__subclasses__()]]
    assert len(set(codes)) == len(codes)
    assert 0 not in codes


@pytest.mark.parametrize("config", CONCRETE, ids=lambda config: type(config).__name__)
def test_no_field_takes_another_type_however_it_is_set(config):
    """By constructor, by `replace`, from JSON: the Literal, the float and the length, too."""
    for item in fields(config):
        for value in (object(), {1}, b"x", math.nan, "no such word \x1b", ((),), LoaderConfig):
            if isinstance(value, str) and field_types(type(config))[item.name] is str:
                continue
            with pytest.raises(ConfigError) as caught:
                replace(config, **{item.name: value})
            assert item.name in caught.value.problem
            assert caught.value.remedy


@pytest.mark.parametrize(
    ("config", "change", "problem"),
    [
        (ViewConfig(), {"symmetry": "flip"}, "symmetry is 'flip'"),
        (TRAINING, {"betas": (0.9,)}, "betas is .*of length 1"),
        (TRAINING, {"betas": (0.9, 1.0)}, "betas is .*entry 1 is 1.0"),
        (TRAINING, {"lr": math.inf}, "lr is inf"),
        (TRAINING, {"steps": 10**30}, "steps is 10000"),
        (TRAINING, {"seed": -1}, "seed is -1"),
        (VisionTransformerConfig(), {"depth": 10**9}, "depth is 1000000000"),
        (VisionTransformerConfig(), {"size": (65_536, 65_536)}, "16,777,216 patches"),
        (VisionTransformerConfig(), {"size": (3_200, 3_200)}, "index of 1,600,080,001"),
        (RandomProjectionConfig(), {"patch": 65_536, "size": (65_536, 65_536)}, "matrix of"),
        (LoaderConfig(), {"workers": 10**6}, "workers is 1000000"),
        (PRETRAIN, {"model": ViewConfig()}, "model is ViewConfig"),
    ],
)
def test_what_python_used_to_let_in(config, change, problem):
    with pytest.raises(ConfigError, match=problem):
        replace(config, **change)


def test_values_that_stand_for_others_become_what_is_annotated():
    training = TrainingConfig(steps=np.int64(3), batch=np.int32(2), lr=1, betas=[0, 0.5])
    assert training == TrainingConfig(steps=3, batch=2, lr=1.0, betas=(0.0, 0.5))
    assert [type(v) for v in (training.steps, training.lr, training.betas[0])] == [
        int, float, float,
    ]  # fmt: skip
    assert replace(PRETRAIN, data=Path("images")).data == "images"


@pytest.mark.parametrize("run", RUNS, ids=lambda run: type(run).__name__)
def test_the_config_of_a_run_changed_at_every_place(run, tmp_path):
    """Refused in words, or right: read again it is the same."""
    refused, remedies = 0, set()
    for path, value, document in changes(to_json(run)):
        shown = (path, reprlib.repr(value))
        try:
            read = from_json(document, RunConfig)
            assert from_json(to_json(read), RunConfig) == read, shown
        except ConfigError as error:
            refused += 1
            remedies.add(error.remedy)
    assert refused > 1000
    assert "" not in remedies
    for text in ("", "[" * 100_000, "{", '{"type": "RunConfig", "type": "RunConfig"}', "\xff"):
        (tmp_path / "config.json").write_text(text, encoding="latin-1")
        with pytest.raises(BeitError):
            read_run_config(tmp_path)


def test_options_are_read_under_their_old_names():
    from beit.recipes import find_recipe

    for verb, kind, before, now in (
        ("pretrain", PretrainRunConfig, "neighbour_pictures", "knn_images"),
        ("pretrain", PretrainRunConfig, "token_bank", "token_cache"),
        ("finetune", FinetuneRunConfig, "subset_seed", "split_seed"),
    ):
        config = find_recipe(verb, "tiny", kind)
        values = to_json(config)
        values[before] = values.pop(now)
        assert from_json(values, kind) == config
