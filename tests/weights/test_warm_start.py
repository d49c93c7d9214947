"""What a model keeps of the one it starts from: kind by kind, and what is said of the rest."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch

from beit.config import (
    AggregationConfig,
    HeadConfig,
    LinearHeadConfig,
    SETRConfig,
    UperNetConfig,
    VisibleConfig,
)
from beit.models.heads import Classifier, MaskedImageModel, PretrainedBackbone
from beit.models.segmenter import Segmenter
from beit.objectives.visible import VisibleOnlyModel
from beit.recipes.finetune import for_finetuning
from beit.weights.load import open_artifact
from beit.weights.overrides import Overrides
from beit.weights.store import Artifact, Details
from beit.weights.warm_start import WarmStart, warm_start
from miniature import BACKBONE
from reference import close, disturb, from_published

FINE = replace(BACKBONE, relative_position="per-block", mask_token=False)
ABSOLUTE = replace(BACKBONE, relative_position="none")
UPER = UperNetConfig(head_channels=8, auxiliary_channels=4, out_indices=(0, 0, 1, 1), pools=(1, 2))
CLASSES = ("ant", "bee", "cat")
IMAGES = torch.randn(2, 3, 16, 16)
MASK = torch.arange(16).expand(2, -1) % 3 == 0


def artifact(model: Any, kind: str = "", **details: Any) -> Artifact:
    """A source whose every weight differs from its initial value."""
    disturb(model)
    return Artifact(kind=kind, model=model.eval(), details=Details(**details))


def classifier(classes: tuple[str, ...] = CLASSES, pooling: str = "mean") -> Any:
    return Classifier(FINE, len(classes), HeadConfig(pooling=pooling)).eval()


def masked(outputs: int = 12, aggregation: AggregationConfig | None = None) -> Any:
    return MaskedImageModel(BACKBONE, outputs, aggregation).eval()


def segmenter(classes: tuple[str, ...] = CLASSES, head: Any = UPER) -> Any:
    return Segmenter(FINE, len(classes), head).eval()


# -- classification ------------------------------------------------------------------------------


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_a_classifier_of_the_same_classes_answers_the_same(pooling):
    source, model = classifier(pooling=pooling), classifier(pooling=pooling)
    start = warm_start(model, Details(classes=CLASSES), artifact(source, classes=CLASSES))
    assert start == WarmStart(("backbone", "final norm", "head for 3 classes"), (), ())
    assert torch.equal(model(IMAGES), source(IMAGES))


def test_classes_in_another_order_answer_the_same_by_name():
    there, here = ("bee", "cat", "ant"), ("ant", "bee", "cat")
    source, model = classifier(), classifier()
    start = warm_start(model, Details(classes=here), artifact(source, classes=there))
    assert start.taken[-1] == "head for 3 classes (rows in the order of the classes here)"
    answers = dict(zip(there, source(IMAGES).T, strict=True))
    for name, logits in zip(here, model(IMAGES).T, strict=True):
        assert torch.equal(logits, answers[name])


def test_intermediate_fine_tuning_keeps_the_norm_and_starts_the_head_anew():
    """22k to 1k as published: backbone, tables of the blocks and fc_norm, but another head."""
    source, model = classifier(("a", "b", "c", "ant", "bee")), classifier()
    fresh = model.head.weight.detach().clone()
    start = warm_start(
        model, Details(classes=CLASSES), artifact(source, classes=("a", "b", "c", "ant", "bee"))
    )
    assert start.taken == ("backbone", "final norm")
    assert start.left == (
        "head for 5 classes (its classes are others: it lacks 'cat' and it has besides 'a', 'b', "
        "'c')",
    )
    assert start.new == ("head for 3 classes",)
    assert torch.equal(model.embed(IMAGES), source.embed(IMAGES))
    assert torch.equal(model.head.weight, fresh)


@pytest.mark.parametrize(("here", "there"), [("mean", "cls"), ("cls", "mean")])
def test_another_pooling_has_another_norm_and_head(here, there):
    source, model = classifier(pooling=there), classifier(pooling=here)
    start = warm_start(model, Details(classes=CLASSES), artifact(source, classes=CLASSES))
    assert start.taken == ("backbone",)
    assert all(f"--pooling {there} keeps it" in part for part in start.left)
    assert start.new == ("final norm", "head for 3 classes")
    assert torch.equal(model.norm.weight, torch.ones(24))


def test_one_answer_and_several_are_not_the_same_head():
    source, model = classifier(), classifier()
    start = warm_start(
        model,
        Details(classes=CLASSES),
        artifact(source, classes=CLASSES, multi_label=True),
    )
    assert "answers several classes for an image, this run learns one class" in start.left[0]
    assert start.new == ("head for 3 classes",)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_from_pre_training_the_norm_goes_to_the_class_token_only(pooling):
    """`norm` is not copied to `fc_norm`, as published (beit-reference, trap 14)."""
    source, model = (
        masked(aggregation=AggregationConfig(early_layer=1)),
        classifier(pooling=pooling),
    )
    start = warm_start(model, Details(classes=CLASSES), artifact(source, tokenizer="x"))
    assert start.taken[0] == "backbone (shared relative position bias copied into every block)"
    assert ("final norm" in start.taken) == (pooling == "cls")
    assert torch.equal(model.norm.weight, source.norm.weight) == (pooling == "cls")
    assert start.left[0] == "mask token (this backbone sees no masked patches)"
    assert start.left[-2:] == (
        "prediction head (of another task)",
        "patch aggregation (of another task)",
    )
    assert start.new[-1] == "head for 3 classes"


def test_names_from_outside_are_printed_safely():
    source = artifact(classifier(), classes=("\x1b[31m", "b", "c"))
    start = warm_start(classifier(), Details(classes=CLASSES), source)
    assert "'\\x1b[31m'" in start.left[0]
    assert all("\x1b" not in line for line in start.lines("run\x1b"))


# -- pre-training --------------------------------------------------------------------------------

TAP = AggregationConfig(early_layer=1)
APART = AggregationConfig(early_layer=1, shared_head=False)


@pytest.mark.parametrize("aggregation", [None, TAP, APART], ids=["v1", "v2", "v2 own head"])
def test_pre_training_goes_on_where_it_ended(aggregation):
    source, model = masked(aggregation=aggregation), masked(aggregation=aggregation)
    start = warm_start(model, Details(tokenizer="abc"), artifact(source, tokenizer="abc"))
    assert start.taken[:3] == ("backbone", "final norm", "prediction head")
    assert (start.left, start.new) == ((), ())
    pairs = zip(model.predictions(IMAGES, MASK), source.predictions(IMAGES, MASK), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)


def test_released_files_are_taken_by_their_vocabulary_with_a_note():
    source, model = masked(), masked()
    start = warm_start(model, Details(tokenizer="abc"), artifact(source))
    assert start.taken[-1].startswith("prediction head (by its vocabulary of 12 codes")
    assert torch.equal(model(IMAGES, MASK), source(IMAGES, MASK))


@pytest.mark.parametrize(
    ("here", "there", "outputs", "why"),
    [
        ("abc", "def", 12, "it predicts another tokenizer's codes"),
        ("abc", "", 13, "it predicts 13 codes, this tokenizer has 12"),
        ("abc", "", 48, "it predicts pixels, not tokens"),
        ("", "abc", 12, "it predicts tokens"),
    ],
)
def test_another_target_has_another_head(here, there, outputs, why):
    source, model = masked(outputs, TAP), masked(48 if not here else 12, TAP)
    start = warm_start(model, Details(tokenizer=here), artifact(source, tokenizer=there))
    assert start.taken == ("backbone", "final norm")
    assert start.left == (f"prediction head ({why})", f"patch aggregation ({why})")
    assert start.new == ("prediction head", "patch aggregation")


def test_pixels_are_the_same_target_only_under_the_same_statistics():
    source = artifact(masked(48))
    assert "prediction head" in warm_start(masked(48), Details(), source).taken
    other = MaskedImageModel(replace(BACKBONE, mean=(0.1, 0.2, 0.3)), 48)
    assert warm_start(other, Details(), source).left == (
        "prediction head (it predicts pixels of another mean and std)",
    )


@pytest.mark.parametrize(
    ("here", "there", "left", "new"),
    [
        (None, TAP, "--early-layer 1 keeps it", ()),
        (TAP, None, "", ("patch aggregation",)),
        (TAP, APART, "this recipe has another", ("patch aggregation",)),
        (replace(TAP, blocks=1), TAP, "--early-layer 1 --blocks 2", ("patch aggregation",)),
    ],
)
def test_the_tap_is_the_recipe_s(here, there, left, new):
    start = warm_start(
        masked(aggregation=here),
        Details(tokenizer="abc"),
        artifact(masked(aggregation=there), tokenizer="abc"),
    )
    assert "prediction head" in start.taken
    assert left in "".join(start.left)
    assert bool(start.left) == bool(left)
    assert start.new == new


def test_tables_of_the_aggregation_are_resized_as_those_of_the_backbone():
    apart = replace(BACKBONE, relative_position="per-block")
    source = MaskedImageModel(apart, 12, TAP)
    model = MaskedImageModel(replace(apart, size=(24, 24)), 12, TAP)
    start = warm_start(model, Details(tokenizer="a"), artifact(source, tokenizer="a"))
    assert "patch aggregation" in start.taken
    assert "positions resized from (4, 4) to (6, 6) patches" in start.taken[0]


def test_visible_only_prediction_and_masked_image_modeling_share_backbone_and_norm():
    light = VisibleConfig(decoder_width=8, decoder_depth=1, decoder_heads=2)
    bare = artifact(PretrainedBackbone(ABSOLUTE))
    model = VisibleOnlyModel(replace(ABSOLUTE, mask_token=False), 12, light)
    start = warm_start(model, Details(tokenizer="a"), bare)
    assert start.taken == ("backbone", "final norm")
    assert start.new == ("decoder",)
    start = warm_start(MaskedImageModel(ABSOLUTE, 12), Details(tokenizer="a"), bare)
    assert start.taken == ("backbone", "final norm")
    assert start.new == ("prediction head",)


# -- segmentation --------------------------------------------------------------------------------


def test_a_segmenter_of_the_same_classes_answers_the_same_by_name():
    there = ("cat", "ant", "bee")
    source, model = artifact(segmenter(), classes=there), segmenter()
    start = warm_start(model, Details(classes=CLASSES), source)
    assert [part.split(" (")[0] for part in start.taken] == [
        "backbone", "neck", "decode head for 3 classes", "auxiliary head for 3 classes",
    ]  # fmt: skip
    assert (start.left, start.new) == ((), ())
    for mine, theirs in zip(model.logits(IMAGES), source.model.logits(IMAGES), strict=True):
        for index, name in enumerate(CLASSES):
            assert torch.equal(mine[:, index], theirs[:, there.index(name)])


def test_other_classes_take_all_but_the_last_layers():
    source = artifact(segmenter(("a", "b")), classes=("a", "b"))
    model = segmenter()
    fresh = model.decode_head.conv_seg.weight.detach().clone()
    start = warm_start(model, Details(classes=CLASSES), source)
    assert "decode head without its last layer" in start.taken
    assert start.new == ("last layer of the decode head", "last layer of the auxiliary head")
    assert "its classes are others" in start.left[0]
    assert torch.equal(model.decode_head.conv_seg.weight, fresh)
    theirs = source.model.decode_head.bottleneck.state_dict()
    for name, value in model.decode_head.bottleneck.state_dict().items():
        assert torch.equal(value, theirs[name])


@pytest.mark.parametrize(
    ("head", "why"),
    [
        (LinearHeadConfig(), "it is a UperNet, this recipe has a LinearHead"),
        (
            replace(UPER, out_indices=(0, 1, 1, 1)),
            "its out_indices is (0, 0, 1, 1), here (0, 1, 1, 1)",
        ),
        (replace(UPER, pools=(1, 3)), "its pools is (1, 2), here (1, 3)"),
        (replace(UPER, head_channels=6), "its head_channels is 8, here 6"),
    ],
)
def test_the_head_is_the_recipe_s(head, why):
    source = artifact(segmenter(), classes=CLASSES)
    start = warm_start(segmenter(head=head), Details(classes=CLASSES), source)
    assert start.taken == ("backbone",)
    assert start.left[0] == f"neck ({why})"
    assert "decode head" in start.new


def test_dropout_is_training_and_no_part_of_a_head():
    source = artifact(segmenter(), classes=CLASSES)
    start = warm_start(segmenter(head=replace(UPER, dropout=0.5)), Details(classes=CLASSES), source)
    assert not start.left


def test_an_auxiliary_head_of_another_kind_is_new():
    source = artifact(segmenter(), classes=CLASSES)
    other = replace(UPER, auxiliary_level=1)
    start = warm_start(segmenter(head=other), Details(classes=CLASSES), source)
    assert start.left == ("auxiliary head (this recipe has another or none)",)
    assert start.new == ("auxiliary head",)
    none = segmenter(head=replace(UPER, auxiliary=False))
    start = warm_start(none, Details(classes=CLASSES), source)
    assert start.left == ("auxiliary head (this recipe has another or none)",)
    assert not start.new


# -- all of them ---------------------------------------------------------------------------------

MODELS = {
    "masked": lambda: masked(aggregation=TAP),
    "backbone": lambda: PretrainedBackbone(BACKBONE),
    "mean": classifier,
    "cls": lambda: classifier(pooling="cls"),
    "upernet": segmenter,
    "setr": lambda: segmenter(head=SETRConfig(head_channels=8)),
}


WITH_A_SHARED_TABLE = ("masked", "backbone")
PAIRS = [
    (here, there)
    for here, there in product(MODELS, MODELS)
    if here not in WITH_A_SHARED_TABLE or there in WITH_A_SHARED_TABLE  # others cannot be joined
]


@pytest.mark.parametrize(("here", "there"), PAIRS)
def test_every_tensor_is_taken_or_its_part_is_named_as_new(here, there):
    """Between any two kinds that fit: what changed is in a part that is said to be taken, what did
    not is in one that is said to be new."""
    source, model = artifact(MODELS[there](), classes=CLASSES), MODELS[here]()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    others = {name: value.clone() for name, value in source.model.state_dict().items()}
    start = warm_start(model, Details(classes=CLASSES, tokenizer="a"), source)
    words = {"norm": "final norm", "aggregation": "patch aggregation", "neck": "neck",
             "decode_head": "decode head", "auxiliary_head": "auxiliary head",
             "head": "prediction head" if here == "masked" else "head for"}  # fmt: skip
    for name, value in model.state_dict().items():
        part, *_ = name.split(".")
        if part == "backbone":
            continue
        if value.is_floating_point() and "running" not in name:
            kept = start.taken if not torch.equal(value, before[name]) else start.new
            assert any(each.startswith(words[part]) for each in kept), name
    assert all(torch.equal(source.model.state_dict()[name], value)
               for name, value in others.items())  # fmt: skip
    told = list(start.lines("there"))
    assert told[0].startswith("taken from there: backbone")
    assert told[1].startswith("not taken from there: ")
    assert len(told) == 2 + bool(start.new)


# -- released files ------------------------------------------------------------------------------


def test_a_released_file_of_beit_v2_goes_on_as_it_was_published(golden, tmp_path):
    """Both predictions of the released code, before the first step of a run of ours."""
    facts = golden("v2_mim_cls_shared")
    torch.save({"model": facts["model"]}, tmp_path / "released.pth")
    source = open_artifact(tmp_path / "released.pth", overrides=Overrides(early_layer=2))
    model = MaskedImageModel(source.backbone, 64, AggregationConfig(early_layer=2)).eval()
    start = warm_start(model, Details(tokenizer="of its 64 codes"), source)
    assert start.taken[1:3] == (
        "final norm",
        "prediction head (by its vocabulary of 64 codes: the file does not say by which tokenizer "
        "it was trained)",
    )
    assert (start.left, start.new) == ((), ())
    main, aggregated = model.predictions(facts["image"], facts["mask"])
    close(main, facts["logits"], 1e-5)
    close(aggregated, facts["logits_cls"], 1e-5)


def test_a_released_pre_training_becomes_the_published_classifier(golden, tmp_path):
    """Resized from 80 to 112 pixels, with the norm and head of the released code's fine-tuning."""
    torch.save({"model": golden("transfer_source")["model"]}, tmp_path / "released.pth")
    facts = golden("transfer_112")
    source = open_artifact(tmp_path / "released.pth", overrides=Overrides(heads=6))
    fine = for_finetuning(replace(source.backbone, size=(112, 112)), drop_path=0.0)
    model = Classifier(fine, 9).eval()
    start = warm_start(model, Details(classes=tuple("abcdefghi")), source)
    assert "positions resized from (5, 5) to (7, 7) patches" in start.taken[0]
    assert start.new == ("final norm", "head for 9 classes")
    tuned = from_published(facts["model"])
    head = {name: value for name, value in tuned.items() if not name.startswith("backbone.")}
    model.load_state_dict(head, strict=False)
    close(model(facts["image"]), facts["logits"], 1e-4)
