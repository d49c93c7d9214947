"""Into the layouts of others and back: they load it strictly and compute the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from beit.config import HeadConfig, UperNetConfig, VQKDConfig, sized
from beit.errors import CheckpointError, ConfigError, RunFolderError
from beit.models.heads import Classifier, MaskedImageModel, PretrainedBackbone
from beit.models.segmenter import Segmenter
from beit.recipes.finetune import for_finetuning
from beit.tokenizers import build_tokenizer
from beit.weights.convert import convert, published
from beit.weights.keymap import CLASSIFIER, MASKED, from_published
from beit.weights.load import open_artifact
from beit.weights.overrides import Overrides
from beit.weights.read import read_contents
from beit.weights.store import Details, save_artifact
from beit.weights.transfer import rebiased
from reference import FINE, TINY, close, disturb

GOLDEN = Path(__file__).parents[1] / "golden"
IMAGES = torch.linspace(-2, 2, 2 * 3 * 64 * 64).sin().reshape(2, 3, 64, 64)
MASK = torch.arange(32).reshape(2, 16) % 3 == 0


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BEIT_HOME", str(tmp_path / "home"))


def kept(folder: Path, model, **details) -> Path:
    disturb(model)
    return save_artifact(folder / "ours", model.eval(), Details(**details))


def same_weights(first, second) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


CLASSES = ("cat", "dog", "emu")
MODELS = {
    "masked": lambda: MaskedImageModel(TINY, 11),
    "masked, absolute": lambda: MaskedImageModel(replace(TINY, absolute_position=True), 11),
    "classifier": lambda: Classifier(FINE, 3),
    "classifier, cls": lambda: Classifier(FINE, 3, HeadConfig(pooling="cls")),
    "classifier, not square": lambda: Classifier(replace(FINE, size=(64, 32)), 3),
    "segmenter": lambda: Segmenter(
        replace(FINE, depth=5), 3, UperNetConfig(out_indices=(0, 1, 2, 3), auxiliary_channels=8)
    ),
}


@pytest.mark.parametrize(("kind", "to"), [
    *((kind, "unilm") for kind in MODELS),
    *((kind, "hf") for kind in MODELS if "not square" not in kind),
    ("classifier", "timm"),
    ("classifier, cls", "timm"),
    ("classifier, not square", "timm"),
])  # fmt: skip
def test_round_trips_are_identical_bit_for_bit(tmp_path, kind, to):
    model = MODELS[kind]()
    named = {} if kind.startswith("masked") else {"classes": CLASSES}
    ours = kept(tmp_path, model, crop=0.9, **named)
    there, left_out = convert(ours, tmp_path / "there", to=to)
    unsaid = ["crop 0.901"] if to == "unilm" else []
    if kind == "segmenter":
        unsaid = ["std (0.5, 0.5, 0.5)"] * (to == "unilm") + ["short_side None"]
    assert [note.partition(": ")[2].split("; ")[-1] for note in left_out] == unsaid
    size = model.backbone.config.size
    read = (
        Overrides(out_indices=(0, 1, 2, 3)) if (kind, to) == ("segmenter", "unilm") else Overrides()
    )
    back = open_artifact(there, overrides=read)
    same_weights(model.state_dict(), back.model.state_dict())
    assert back.backbone.size == size
    if to != "unilm" and kind != "segmenter":  # which reads images of any size
        assert back.details.crop == pytest.approx(0.9, abs=0.01)
        assert back.details.resize == "cover"
    if to != "unilm":
        assert back.backbone == replace(model.backbone.config, drop_path=0.0,
                                        initialisation="pretrain")  # fmt: skip
    if named and (to != "unilm" or kind == "segmenter"):
        assert back.details.classes == CLASSES
    if to == "unilm":
        again, _ = convert(there, tmp_path / "again", to="unilm", overrides=read)
        same_weights(read_contents(there).tensors, read_contents(again).tensors)


def test_the_published_file_comes_back_as_it_was(golden, tmp_path):
    for name in ("mim_shared_rel", "cls_rel_mean", "v2_mim_cls_shared"):
        weights = golden(name)["model"]
        torch.save({"model": weights}, tmp_path / f"{name}.pth")
        back, _ = convert(tmp_path / f"{name}.pth", tmp_path / f"{name}-again.pth", to="unilm")
        same_weights(weights, torch.load(back, weights_only=True)["model"])


def test_vqkd_comes_back_as_it_was(golden, tmp_path):
    weights = golden("v2_vqkd")["model"]
    torch.save({"model": weights}, tmp_path / "vqkd.pth")
    heads = Overrides(heads=3)
    ours, _ = convert(tmp_path / "vqkd.pth", tmp_path / "ours", to="beit", overrides=heads)
    back, _ = convert(ours, tmp_path / "again.pth", to="unilm")
    same_weights(weights, torch.load(back, weights_only=True)["model"])


def test_what_no_released_file_says_is_listed_and_restored_by_stating_it(tmp_path):
    """Whoever opens it without would get other answers, and no warning."""
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    plain = {"relative_position": "none", "absolute_position": True, "mean": mean, "std": std}
    model = Classifier(replace(FINE, **plain), 3)
    ours = kept(tmp_path, model, classes=CLASSES, resize="stretch", value_range=(0.0, 4095.0))
    there, (to_state, lost) = convert(ours, tmp_path / "there.pth", to="unilm")
    for value in ("size (64, 64)", "heads 3", f"mean {mean}", f"std {std}", "crop 1.0"):
        assert value in to_state
    for value in ("resize stretch", "value_range (0.0, 4095.0)"):
        assert value in lost
    stated = Overrides(heads=3, mean=mean, std=std, crop=1.0, resize="stretch")
    back = open_artifact(there, overrides=stated)
    assert back.details.classes == CLASSES
    assert back.backbone == replace(model.backbone.config, initialisation="pretrain")
    same_weights(model.state_dict(), back.model.state_dict())


@pytest.mark.parametrize("to", ["timm", "hf"])
def test_folders_say_all_but_the_range_of_values(tmp_path, to):
    ours = kept(tmp_path, Classifier(FINE, 3), crop=0.9, value_range=(0.0, 4095.0))
    there, notes = convert(ours, tmp_path / to, to=to)
    assert [note.partition(": ")[2] for note in notes] == ["value_range (0.0, 4095.0)"]
    assert open_artifact(there).details.classes == ("class 0", "class 1", "class 2")


def test_what_a_layout_cannot_hold_is_refused(tmp_path):
    head = UperNetConfig(pools=(1, 2), auxiliary_channels=8)
    ours = kept(tmp_path, Segmenter(replace(FINE, depth=4), 3, head), classes=CLASSES)
    with pytest.raises(ConfigError, match="does not hold this model"):
        convert(ours, tmp_path / "there.pth", to="unilm")


# -- timm ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [kind for kind in MODELS if kind.startswith("classifier")])
def test_timm_loads_it_and_computes_the_same(tmp_path, kind):
    import timm

    model = MODELS[kind]()
    folder, _ = convert(kept(tmp_path, model, classes=CLASSES), tmp_path / "timm", to="timm")
    theirs = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    images = IMAGES[..., : model.backbone.config.size[1]]
    close(theirs(images), model(images), 1e-5)
    assert tuple(theirs.pretrained_cfg["mean"]) == (model.backbone.config.mean)


def test_timm_takes_the_trunk_of_a_pre_trained_model(tmp_path):
    import timm

    model = MODELS["masked, absolute"]()
    folder, left_out = convert(kept(tmp_path, model), tmp_path / "timm", to="timm")
    assert "lm_head.weight" in left_out[0]
    theirs = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    close(theirs.forward_features(IMAGES)[:, 1:], model.norm(model.backbone(IMAGES).patches), 1e-5)


def test_timm_takes_a_backbone_alone_and_others_refuse_it(tmp_path):
    import timm

    model = PretrainedBackbone(replace(TINY, absolute_position=True, mask_token=False)).eval()
    disturb(model)
    ours = kept(tmp_path, model)
    folder, left_out = convert(ours, tmp_path / "timm", to="timm")
    assert left_out == []
    theirs = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    close(theirs.forward_features(IMAGES)[:, 1:], model(IMAGES), 1e-5)
    for to in ("unilm", "hf"):
        with pytest.raises(ConfigError, match="PretrainedBackbone") as caught:
            convert(ours, tmp_path / to, to=to)
        assert "--to beit" in caught.value.remedy


def test_what_timm_saved_opens(tmp_path):
    import timm
    from timm.models import save_for_hf

    theirs = timm.create_model(
        "beit_base_patch16_224", img_size=64, embed_dim=48, depth=2, num_heads=3, num_classes=4
    ).eval()
    disturb(theirs)
    save_for_hf(theirs, tmp_path / "hub", safe_serialization="both")
    artifact = open_artifact(tmp_path / "hub")
    close(artifact.model(IMAGES), theirs(IMAGES), 1e-5)
    assert artifact.details.crop == 0.9
    assert artifact.backbone.mean == (0.5, 0.5, 0.5)
    torch.save(theirs.state_dict(), tmp_path / "plain.pth")
    close(open_artifact(tmp_path / "plain.pth").model(IMAGES), theirs(IMAGES), 1e-5)


# -- transformers --------------------------------------------------------------------------------


def loaded(kind, folder):
    """A model of transformers, loaded without missing, unexpected or unequal keys."""
    import transformers

    name = {"masked": "BeitForMaskedImageModeling", "classifier": "BeitForImageClassification",
            "segmenter": "BeitForSemanticSegmentation"}[kind]  # fmt: skip
    model, info = getattr(transformers, name).from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]
    return model.eval()


@pytest.mark.parametrize("kind", [kind for kind in MODELS if "square" not in kind])
def test_transformers_loads_it_and_computes_the_same(tmp_path, kind):
    model = MODELS[kind]()
    folder, _ = convert(kept(tmp_path, model), tmp_path / "hf", to="hf")
    theirs = loaded(kind.split(",")[0], folder)
    with torch.no_grad():
        if kind.startswith("masked"):
            expected = theirs(IMAGES, bool_masked_pos=MASK).logits[MASK]
            close(model(IMAGES, MASK), expected, 1e-5)
        elif kind == "segmenter":
            close(model.logits(IMAGES).main, theirs(IMAGES).logits, 1e-4)
        else:
            close(model(IMAGES), theirs(IMAGES).logits, 1e-5)


@pytest.mark.parametrize("kind", [kind for kind in MODELS if "square" not in kind])
def test_what_transformers_saved_opens_whole_or_in_shards(tmp_path, kind):
    model = MODELS[kind]()
    folder, _ = convert(kept(tmp_path, model), tmp_path / "hf", to="hf")
    theirs = loaded(kind.split(",")[0], folder)
    for size in ("1GB", "50KB"):
        theirs.save_pretrained(tmp_path / size, max_shard_size=size)
        same_weights(model.state_dict(), open_artifact(tmp_path / size).model.state_dict())
    assert len(list((tmp_path / "50KB").glob("*.safetensors"))) > 1
    state = read_contents(folder / "model.safetensors").tensors
    (tmp_path / "1GB" / "model.safetensors").unlink()
    torch.save(state, tmp_path / "1GB" / "pytorch_model.bin")
    same_weights(model.state_dict(), open_artifact(tmp_path / "1GB").model.state_dict())


def test_the_image_processor_of_transformers_prepares_the_same_image(tmp_path):
    import numpy as np
    from transformers import BeitImageProcessor

    model = Classifier(FINE, 3)
    folder, _ = convert(kept(tmp_path, model, crop=0.8), tmp_path / "hf", to="hf")
    processor = BeitImageProcessor.from_pretrained(folder)
    image = np.arange(80 * 80 * 3, dtype=np.uint8).reshape(80, 80, 3)
    theirs = processor(image, return_tensors="pt")["pixel_values"]
    ours = model.backbone.normalise(torch.from_numpy(image[8:72, 8:72]).permute(2, 0, 1)[None])
    close(theirs, ours, 1e-5)


def test_flava_codebook_is_the_dalle_encoder(golden, tmp_path):
    from transformers import FlavaImageCodebook

    (tmp_path / "encoder.pkl").write_bytes((GOLDEN / "dalle_encoder.pkl").read_bytes())
    folder, left_out = convert(tmp_path / "encoder.pkl", tmp_path / "flava", to="hf")
    assert left_out == []
    theirs, info = FlavaImageCodebook.from_pretrained(folder, output_loading_info=True)
    assert not any(info[keys] for keys in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    facts = golden("dalle_expected")
    mapped = 0.8 * facts["image"] + 0.1
    assert torch.equal(theirs.get_codebook_indices(mapped), facts["ids"])
    back = open_artifact(folder)
    assert torch.equal(back.model.encode(facts["image"]), facts["ids"].flatten(1))
    whole = {f"image_codebook.{name}": value for name, value in theirs.state_dict().items()}
    torch.save(whole | {"text_model.x": torch.zeros(1)}, tmp_path / "flava.bin")
    same_weights(back.model.state_dict(), open_artifact(tmp_path / "flava.bin").model.state_dict())


# -- full size -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["base", "large"])
@pytest.mark.parametrize("size", [224, 384])
def test_full_size_keys_and_shapes_are_those_of_timm_and_transformers(name, size):
    """Without memory: every key and shape of the published layout, strictly, both ways."""
    import timm
    from transformers import BeitForImageClassification

    from beit.weights.convert import beit_config
    from beit.weights.detect import locate
    from beit.weights.keymap import to_published, to_published_names, to_transformers

    with torch.device("meta"):
        ours = Classifier(for_finetuning(sized(name, size=size), drop_path=0.0), 1000)
        theirs = timm.create_model(f"beit_{name}_patch16_{size}")
    tensors = to_published(ours.state_dict(), CLASSIFIER["mean"])
    theirs.load_state_dict(tensors, strict=True, assign=True)
    back = from_published(theirs.state_dict(), CLASSIFIER["mean"])
    ours.load_state_dict(back, strict=True, assign=True)
    from transformers import BeitConfig

    with torch.device("meta"):
        hub = BeitForImageClassification(
            BeitConfig(**beit_config(ours.backbone.config), num_labels=1000)
        )
    named = to_transformers(tensors, "classifier")
    _, restored = to_published_names(locate(named, []))
    assert {key: value.shape for key, value in restored.items()} == {
        key: value.shape for key, value in tensors.items()
    }
    assert sum(value.numel() for value in named.values()) == sum(
        value.numel() for value in hub.state_dict().values()
        if value.dtype != torch.int64
    )  # fmt: skip


# -- bias ----------------------------------------------------------------------------------------


def test_shared_bias_to_every_block_and_back():
    model = MaskedImageModel(TINY, 5)
    disturb(model)
    before, weights = model(IMAGES), {k: v.clone() for k, v in model.state_dict().items()}
    close(rebiased(model, "per-block")(IMAGES), before, 1e-6)
    assert model.backbone.config.relative_position == "per-block"
    same_weights(weights, rebiased(model, "shared").state_dict())


def test_class_names_from_a_file_of_any_editor(tmp_path, capsys):
    from beit.cli import main

    torch.save(published(Classifier(FINE, 2)), tmp_path / "weights.pth")
    (tmp_path / "names.txt").write_bytes("Käfer\r\nHund \r\n\r\n".encode("utf-8-sig"))
    words = ["convert", "weights.pth", "ours", "--to", "beit", "--classes", "names.txt"]
    assert main([str(tmp_path / word) if word in ("weights.pth", "ours", "names.txt") else word
                 for word in words]) == 0  # fmt: skip
    assert open_artifact(tmp_path / "ours").details.classes == ("Käfer", "Hund")


def test_unequal_tables_cannot_be_shared():
    model = Classifier(FINE, 3)
    disturb(model)
    with pytest.raises(CheckpointError, match=r"blocks.1.* differs from the table of the first"):
        rebiased(model, "shared")
    plain = Classifier(replace(FINE, relative_position="none"), 3)
    with pytest.raises(ConfigError, match="no relative position bias"):
        rebiased(plain, "shared")


# -- refusals ------------------------------------------------------------------------------------


def test_nothing_is_written_over_and_nothing_is_left_behind(tmp_path):
    ours = kept(tmp_path, MODELS["segmenter"]())
    (tmp_path / "there").write_text("mine")
    with pytest.raises(RunFolderError, match="nothing is overwritten"):
        convert(ours, tmp_path / "there", to="hf")
    assert (tmp_path / "there").read_text() == "mine"
    with pytest.raises(ConfigError, match="timm has no model for a segmenter"):
        convert(ours, tmp_path / "new", to="timm")
    small = VQKDConfig(size=(32, 32), width=24, depth=1, decoder_depth=1, heads=2, hidden=24,
                       codes=4, codebook_width=4, teacher_width=4)  # fmt: skip
    vqkd = build_tokenizer(small)
    place = save_artifact(tmp_path / "vqkd", vqkd, Details())
    with pytest.raises(ConfigError, match="transformers has no model"):
        convert(place, tmp_path / "new", to="hf")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ours", "there", "vqkd"]


def test_published_names_have_the_index(tmp_path):
    names = published(MaskedImageModel(TINY, 5)).keys()
    assert "rel_pos_bias.relative_position_index" in names
    assert from_published({"lm_head.weight": torch.zeros(1)}, MASKED).keys() == {"head.weight"}
