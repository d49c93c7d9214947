"""Models of transformers of any configuration: the same logits, or a word of what BEiT lacks."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

import beit
from beit.config.runs import FinetuneRunConfig
from beit.errors import BeitError, CheckpointError, ConfigError
from beit.models.heads import Classifier
from beit.recipes import find_recipe
from beit.tasks import Inputs, starting_from
from beit.weights.load import open_artifact
from beit.weights.overrides import Overrides
from beit.weights.store import Details
from reference import close

transformers = pytest.importorskip("transformers")


class Trial(NamedTuple):
    """A model of transformers, its settings, and whether its code can run at all."""

    kind: str
    settings: dict[str, object]


KINDS = ("Model", "ForMaskedImageModeling", "ForImageClassification", "ForSemanticSegmentation",
         "Backbone")  # fmt: skip


def trial(number: int) -> Trial:
    """One of endlessly many, always the same for its number."""
    draw = random.Random(number)
    kind = KINDS[number % len(KINDS)]
    patch = draw.choice((4, 8, 16))
    grid = draw.choice(((4, 4), (4, 4), (2, 2), (5, 5), (4, 6), (2, 8), (8, 2), (3, 5)))
    heads = draw.choice((2, 4))
    depth = draw.randrange(5, 8) if kind == "ForSemanticSegmentation" else draw.randrange(1, 5)
    width = heads * draw.choice((8, 12))
    settings: dict[str, object] = {
        "image_size": [grid[0] * patch, grid[1] * patch] if grid[0] != grid[1] else grid[0] * patch,
        "patch_size": patch,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "hidden_size": width,
        "intermediate_size": draw.choice((width, 2 * width, 3 * width + 1)),
        "num_channels": draw.choice((1, 3, 3, 3, 4)),
        "use_mask_token": draw.random() < 0.5 or kind == "ForMaskedImageModeling",
        "use_absolute_position_embeddings": draw.random() < 0.4,
        "use_relative_position_bias": draw.random() < 0.6,
        "use_shared_relative_position_bias": draw.random() < 0.4,
        "layer_scale_init_value": draw.choice((0.1, 1e-5, 0.0)),
        "use_mean_pooling": draw.random() < 0.8,
        "hidden_act": draw.choice(("gelu",) * 20 + ("relu", "gelu_new", "quick_gelu")),
        "layer_norm_eps": draw.choice((1e-12, 1e-6, 1e-5, 1e-3)),
        "drop_path_rate": draw.choice((0.0, 0.1)),
        "vocab_size": 17,
        "id2label": {index: f"name {index}" for index in range(3)},
        "label2id": {f"name {index}": index for index in range(3)},
    }
    if kind == "ForSemanticSegmentation":
        settings |= {
            "out_indices": sorted(draw.sample(range(draw.choice((1, 2, 2, 2)), depth + 1), 4)),
            "use_auxiliary_head": draw.random() < 0.7,
            "auxiliary_num_convs": draw.choice((1, 1, 2, 0)),
            "auxiliary_concat_input": draw.random() < 0.2,
            "auxiliary_channels": 8,
            "pool_scales": draw.choice(([1, 2, 3, 6], [1, 2])),
        }
    return Trial(kind, settings)


def lacks(found: Trial) -> str:
    """What BEiT has no place for, as a pattern of the refusal; empty if it can be expressed."""
    said = found.settings
    if said["hidden_act"] != "gelu":
        return "activation"
    if found.kind == "ForMaskedImageModeling" and not said["use_mean_pooling"]:
        return "ends with a norm"
    if found.kind == "ForSemanticSegmentation" and min(said["out_indices"]) == 1:
        return "reads the patch embedding"
    return ""


def theirs(found: Trial, family: str = "Beit"):
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**found.settings)
    model = getattr(transformers, f"{family}{found.kind}")(config).eval()
    for parameter in model.parameters():
        if parameter.ndim:
            torch.nn.init.normal_(parameter, std=0.2)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_var.uniform_(0.5, 1.5)
            module.running_mean.normal_(std=0.1)
    return model


def answers(model, images, mask):
    """Those of transformers; None where its own code fails."""
    with torch.no_grad():
        try:
            if mask is not None:
                return model(images, bool_masked_pos=mask)
            return model(images, output_hidden_states=True)
        except RuntimeError as error:
            # Absolute positions of a grid that is no square, images too small for its neck, an
            # auxiliary head without convolutions.
            known = ("invalid for input of size", "too small", "Given groups=1")
            if not any(word in str(error) for word in known):
                raise
            return None


def compare(artifact, kind, images, mask, said) -> None:
    ours = artifact.model
    with torch.no_grad():
        if kind == "ForMaskedImageModeling":
            assert artifact.kind == "masked"
            close(ours(images, mask), said.logits[mask], 1e-4)
        elif kind == "ForImageClassification":
            assert artifact.kind == "classifier"
            assert artifact.details.classes == ("name 0", "name 1", "name 2")
            close(ours(images), said.logits, 1e-4)
        elif kind == "ForSemanticSegmentation":
            assert artifact.kind == "segmenter"
            close(ours.logits(images).main, said.logits, 1e-4)
        else:
            assert artifact.kind == "backbone"
            features = ours.backbone(images)
            whole = torch.cat([features.cls[:, None], features.patches], dim=1)
            close(whole, said.hidden_states[-1], 1e-4)


def check(tmp_path: Path, found: Trial, family: str = "Beit") -> str:
    """Whether it loads equal or is refused, as a word; anything else fails."""
    model = theirs(found, family)
    model.save_pretrained(tmp_path / "model")
    side = found.settings["image_size"]
    height, width = (side, side) if isinstance(side, int) else side
    images = torch.randn(2, found.settings["num_channels"], height, width)
    patches = height * width // found.settings["patch_size"] ** 2
    mask = None
    if found.kind == "ForMaskedImageModeling":
        mask = torch.arange(2 * patches).reshape(2, patches) % 3 == 0
    cause = lacks(found)
    if cause:
        with pytest.raises(CheckpointError, match=cause):
            open_artifact(tmp_path / "model")
        return "refused"
    said = answers(model, images, mask)
    artifact = open_artifact(tmp_path / "model")
    assert artifact.backbone.norm_epsilon == found.settings["layer_norm_eps"]
    assert artifact.backbone.size == (height, width)
    if said is None:
        return "transformers fails"
    compare(artifact, found.kind, images, mask, said)
    wrapped = {f"module.{name}": value for name, value in model.state_dict().items()}
    torch.save({"state_dict": wrapped}, tmp_path / "state.pth")
    segments = artifact.kind == "segmenter"
    stated = Overrides(
        size=(height, width),
        heads=found.settings["num_attention_heads"],
        epsilon=found.settings["layer_norm_eps"],
        pools=artifact.model.config.pools if segments else None,
        out_indices=artifact.model.out_indices if segments else None,
        classes=artifact.details.classes or None,
    )
    again = open_artifact(tmp_path / "state.pth", overrides=stated)
    assert again.model.state_dict().keys() == artifact.model.state_dict().keys()
    for name, value in artifact.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], value), name
    return "equal"


@pytest.mark.parametrize("number", range(60))
def test_equal_logits_or_a_refusal(tmp_path, number):
    check(tmp_path, trial(number))


@pytest.mark.slow
@pytest.mark.parametrize("number", range(60, 400))
def test_equal_logits_or_a_refusal_of_many_more(tmp_path, number):
    check(tmp_path, trial(number))


def test_the_trials_are_of_every_sort():
    """Most of them can be expressed, also those that are not square."""
    found = [trial(number) for number in range(60)]
    expressed = [each for each in found if not lacks(each)]
    assert len(expressed) > 40
    assert {each.kind for each in expressed} == set(KINDS)
    assert sum(isinstance(each.settings["image_size"], list) for each in expressed) > 8


@pytest.mark.parametrize("kind", ["Model", "ForImageClassification", "ForSemanticSegmentation"])
@pytest.mark.parametrize("number", [2, 7, 13])
def test_data2vec_vision_is_beit_inside(tmp_path, kind, number):
    plain = {"hidden_act": "gelu", "use_shared_relative_position_bias": False}
    drawn = trial(number).settings | plain
    if kind == "ForSemanticSegmentation":
        drawn |= {"num_hidden_layers": 5, "out_indices": [2, 3, 4, 5], "image_size": 64,
                  "patch_size": 8}  # fmt: skip
    found = Trial(kind, drawn)
    if kind == "ForSemanticSegmentation":
        model = theirs(found, "Data2VecVision")
        model.save_pretrained(tmp_path / "model")
        assert open_artifact(tmp_path / "model").kind == "segmenter"
    else:
        check(tmp_path, found, "Data2VecVision")


# -- without a head: to start from, to embed with --------------------------------------------------


@pytest.mark.parametrize("kind", ["Model", "Backbone"])
@pytest.mark.parametrize("mean", [True, False])
def test_a_model_without_head_is_there_to_start_from_and_to_embed_with(tmp_path, kind, mean):
    model = theirs(Trial(kind, PLAIN | {"use_mean_pooling": mean}))
    model.save_pretrained(tmp_path / "model")
    predictor = beit.load(tmp_path / "model")
    image = torch.randint(0, 256, (32, 32, 3), dtype=torch.uint8).numpy()
    pixels = predictor.model.backbone.normalise(predictor.prepare(image)[None])
    with torch.no_grad():
        said = model(pixels, output_hidden_states=True).hidden_states[-1]
    close(predictor.embed([image]), said[:, 1:].mean(dim=1), 1e-4)
    config = starting_from(
        find_recipe("finetune", "base-in1k", FinetuneRunConfig), str(tmp_path / "model")
    )
    started = Classifier(config.model, 3)
    Inputs().take_over(started, Details(), str(tmp_path / "model"))
    close(started.backbone.eval()(pixels).patches, said[:, 1:], 1e-4)
    with pytest.raises(ConfigError, match="does not classify"):
        predictor.predict(image)


def test_the_pyramid_of_a_backbone_is_left_out(tmp_path):
    settings = {"num_hidden_layers": 4, "out_indices": [1, 2, 3, 4], "add_fpn": True}
    model = theirs(Trial("Backbone", PLAIN | settings))
    model.save_pretrained(tmp_path / "model")
    torch.save(model.state_dict(), tmp_path / "state.pth")
    for place in ("model", "state.pth"):
        artifact = open_artifact(
            tmp_path / place, overrides=Overrides(heads=PLAIN["num_attention_heads"])
        )
        assert artifact.kind == "backbone"
        assert any(
            re.search(r"left out: (backbone\.)?fpn", note)
            for note in artifact.details.trained["notes"]
        )


# -- configurations that somebody changed ----------------------------------------------------------

ODD = ("x", "", -1, 0, 3, 1e30, -0.5, float("nan"), float("inf"), True, None, [], [1], ["a", 2],
       [1, 2, 3, 4], {}, {"0": None}, {"x": 1}, "9" * 400, [[]], 10**400)  # fmt: skip


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory):
    place = tmp_path_factory.mktemp("changed") / "model"
    said = PLAIN | {"num_hidden_layers": 5, "out_indices": [2, 3, 4, 5], "pool_scales": [1, 2]}
    model = theirs(Trial("ForSemanticSegmentation", said))
    model.save_pretrained(place)
    size = {"height": 32, "width": 32}
    transformers.BeitImageProcessor(size=size, do_center_crop=True, crop_size=size).save_pretrained(
        place
    )
    return place


def remedy_of(place) -> str | None:
    """How opening is refused; None where it is not."""
    try:
        open_artifact(place)
    except BeitError as error:
        return error.remedy
    return None


@pytest.mark.parametrize("file", ["config.json", "preprocessor_config.json"])
@pytest.mark.parametrize("kind", ["classifier", pytest.param("segmenter", marks=pytest.mark.slow)])
def test_any_value_of_any_entry_is_read_or_refused(tmp_path, segmenter, file, kind):
    place = segmenter
    if kind == "classifier":
        place = saved(tmp_path)
        said = (segmenter / "preprocessor_config.json").read_bytes()
        (place / "preprocessor_config.json").write_bytes(said)
    whole = json.loads((place / file).read_text())
    remedies = []
    for name in whole:
        for value in ODD:
            (place / file).write_text(json.dumps(whole | {name: value}))
            remedies.append(remedy_of(place))
    (place / file).write_text(json.dumps(whole))
    assert "" not in remedies
    assert sum(remedy is not None for remedy in remedies) > len(whole)


def test_a_config_of_another_depth_or_problem(tmp_path):
    place = saved(tmp_path)
    whole = json.loads((place / "config.json").read_text())
    for change, problem in (
        ({"num_hidden_layers": 12}, "12 blocks are stated"),
        ({"problem_type": "multilabel"}, "problem_type 'multilabel'"),
        ({"hidden_act": "x" * 10**5}, "activation 'x{9}"),
    ):
        (place / "config.json").write_text(json.dumps(whole | change))
        with pytest.raises(CheckpointError, match=problem) as caught:
            open_artifact(place)
        assert caught.value.remedy
        assert len(caught.value.problem) < 1000


# -- what a head is for ----------------------------------------------------------------------------

PLAIN = trial(2).settings | {
    "hidden_act": "gelu", "use_shared_relative_position_bias": False, "num_channels": 3,
    "image_size": 32, "patch_size": 8,
}  # fmt: skip


def saved(tmp_path, **settings):
    model = theirs(Trial("ForImageClassification", PLAIN | settings))
    model.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_a_multi_label_head(tmp_path):
    place = saved(tmp_path, problem_type="multi_label_classification")
    assert open_artifact(place).details.multi_label
    assert not open_artifact(saved(tmp_path / "other")).details.multi_label


@pytest.mark.parametrize("labels", [1, 3])
def test_a_regression_head_is_not_answered_with_a_class(tmp_path, labels):
    named = {"id2label": {index: str(index) for index in range(labels)}, "label2id": {}}
    said = {"problem_type": "regression"} if labels == 3 else {}
    artifact = open_artifact(saved(tmp_path, **named, **said))
    assert artifact.kind == "backbone"
    assert any("tells no classes apart" in note for note in artifact.details.trained["notes"])


def test_a_config_without_heads_has_those_of_its_library(tmp_path):
    """Twelve, also where BEiT's would be as many as 64 divides the width."""
    said = {"hidden_size": 192, "num_attention_heads": 12, "use_relative_position_bias": False}
    place = saved(tmp_path, **said)
    whole = json.loads((place / "config.json").read_text())
    del whole["num_attention_heads"]
    (place / "config.json").write_text(json.dumps(whole))
    assert open_artifact(place).backbone.heads == 12


@pytest.mark.parametrize(
    ("absolute", "scale", "mean"), [(True, 0.1, 0.5), (True, 0.0, 0.485), (False, 0.1, 0.5)]
)
def test_dit_is_told_by_its_architecture(tmp_path, absolute, scale, mean):
    """Absolute positions with layer scale are DiT's, trained with 0.5; without it, BEiT's."""
    place = saved(
        tmp_path, use_absolute_position_embeddings=absolute, layer_scale_init_value=scale,
        use_relative_position_bias=not absolute,
    )  # fmt: skip
    assert open_artifact(place).backbone.mean[0] == mean
