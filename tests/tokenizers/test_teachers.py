"""Teachers: whose features, which tokens, with which statistics, on which grid."""

from __future__ import annotations

import json

import pytest
import timm
import torch
import transformers
from timm.models import save_for_hf
from torch import nn

from beit.errors import CheckpointError, ConfigError
from beit.models.heads import MaskedImageModel
from beit.tokenizers import build_tokenizer
from beit.tokenizers.teachers import OurTeacher, TimmTeacher
from beit.weights.load import open_teacher
from beit.weights.store import Details, save_artifact
from miniature import BACKBONE, VAE, draw_images
from reference import close

IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(2))
MEAN, STD = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)


def normalised(images, mean=MEAN, std=STD):
    return (images - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


def small_timm(name: str, **options: object) -> nn.Module:
    model = timm.create_model(name, pretrained=False, **options).eval()
    model.pretrained_cfg = model.pretrained_cfg | {"mean": MEAN, "std": STD}
    return model


def test_a_model_of_ours_with_its_statistics():
    model = MaskedImageModel(BACKBONE, 5).eval()
    teacher = OurTeacher("ours", model)
    assert (teacher.width, teacher.stride) == (BACKBONE.width, BACKBONE.patch)
    images = draw_images()
    wanted = model.norm(model.backbone(images).patches)
    close(teacher(images / 255, BACKBONE.grid), wanted, 1e-5)
    assert not teacher.train().training
    assert not any(module.training for module in teacher.modules())


def test_patches_of_timm_without_class_token_and_registers():
    model = small_timm("vit_tiny_patch16_224", img_size=64, reg_tokens=2)
    model.pretrained_cfg = model.pretrained_cfg | {"input_size": (3, 64, 64)}
    teacher = TimmTeacher("tiny", model)
    assert (teacher.width, teacher.stride) == (192, 16)
    wanted = model.forward_features(normalised(IMAGES))[:, 3:]
    close(teacher(IMAGES, (4, 4)), wanted, 1e-5)
    with pytest.raises(ConfigError, match=r"no grid of 5 x 5 patches for images of 80 x 80"):
        teacher.check((5, 5), 3)


def test_clip_is_projected():
    model = small_timm("vit_tiny_patch16_224", img_size=64, num_classes=7)
    model.pretrained_cfg = model.pretrained_cfg | {"input_size": (3, 64, 64)}
    teacher = TimmTeacher("clip", model, project=True)
    wanted = model.head(model.forward_features(normalised(IMAGES))[:, 1:])
    close(teacher(IMAGES, (4, 4)), wanted, 1e-5)
    assert teacher.width == 7


def test_presets_are_the_published_models(monkeypatch):
    """With initial weights, as nothing is downloaded here, and few blocks."""
    asked = []

    def create(name, *, pretrained, **options):
        asked.append((name, pretrained))
        return timm_create(name, pretrained=False, depth=2, **options)

    timm_create = timm.create_model
    monkeypatch.setattr(timm, "create_model", create)
    clip, dino = open_teacher("clip"), open_teacher("dino")
    assert asked == [
        ("vit_base_patch16_clip_quickgelu_224.openai", True), ("vit_base_patch16_224.dino", True)
    ]  # fmt: skip
    assert (clip.width, dino.width) == (512, 768)
    assert (clip.stride, dino.stride) == (16, 16)
    # OpenAI's preprocessing, and ImageNet's statistics for DINO.
    close(clip.mean.flatten(), torch.tensor((0.48145466, 0.4578275, 0.40821073)), 1e-7)
    close(clip.std.flatten(), torch.tensor((0.26862954, 0.26130258, 0.27577711)), 1e-7)
    close(dino.mean.flatten(), torch.tensor((0.485, 0.456, 0.406)), 1e-7)
    for teacher in (clip, dino):
        teacher.check((14, 14), 3)
        teacher.check((4, 6), 3)  # another size than its own


def test_a_image_is_brought_to_the_teachers_grid():
    model = small_timm("resnet18")
    teacher = TimmTeacher("resnet18", model)
    assert (teacher.width, teacher.stride) == (512, 32)
    assert teacher(IMAGES, (4, 4)).shape == (2, 16, 512)
    assert teacher(IMAGES, (2, 2)).shape == (2, 4, 512)
    close(teacher(IMAGES, (2, 2)), model.forward_features(normalised(IMAGES)).flatten(2).mT, 1e-5)


def test_a_folder_of_timm(tmp_path):
    model = small_timm("vit_tiny_patch16_224")
    save_for_hf(model, tmp_path, safe_serialization=True)
    teacher = open_teacher(str(tmp_path))
    assert isinstance(teacher, TimmTeacher)
    close(teacher.mean.flatten(), torch.tensor(MEAN), 1e-7)
    images = torch.rand(1, 3, 224, 224)
    close(teacher(images, (14, 14)), model.forward_features(normalised(images))[:, 1:], 1e-5)


SMALL = {
    "hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
    "image_size": 64, "patch_size": 16,
}  # fmt: skip


def folder_of(model: nn.Module, place) -> str:
    model.save_pretrained(place)
    (place / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": MEAN, "image_std": STD})
    )
    return str(place)


def test_dinov2_of_transformers(tmp_path):
    model = transformers.Dinov2WithRegistersModel(
        transformers.Dinov2WithRegistersConfig(**SMALL, num_register_tokens=3)
    ).eval()
    teacher = open_teacher(folder_of(model, tmp_path))
    assert (teacher.width, teacher.stride) == (24, 16)
    with torch.no_grad():
        wanted = model(normalised(IMAGES)).last_hidden_state[:, 4:]
    close(teacher(IMAGES, (4, 4)), wanted, 1e-5)


def test_clip_of_transformers_is_normed_and_projected(tmp_path):
    config = transformers.CLIPVisionConfig(**SMALL, projection_dim=9)
    model = transformers.CLIPVisionModelWithProjection(config).eval()
    teacher = open_teacher(folder_of(model, tmp_path))
    with torch.no_grad():
        hidden = model.vision_model(normalised(IMAGES)).last_hidden_state[:, 1:]
        wanted = model.visual_projection(model.vision_model.post_layernorm(hidden))
    close(teacher(IMAGES, (4, 4)), wanted, 1e-5)
    assert teacher.width == 9


@pytest.mark.parametrize(("file", "change"), [
    ("config.json", {"hidden_size": 0}),
    ("config.json", {"hidden_size": 12}),
    ("config.json", {"dtype": True}),
    ("config.json", {"hidden_dropout_prob": "a"}),
    ("config.json", {"num_attention_heads": 0}),
    ("config.json", {"image_size": None}),
    ("preprocessor_config.json", {"image_mean": "abc"}),
    ("preprocessor_config.json", {"image_mean": [0.5] * 2}),
    ("preprocessor_config.json", {"image_std": [0.5, "a", 0.5]}),
])  # fmt: skip
def test_a_folder_of_transformers_that_somebody_changed(tmp_path, file, change):
    model = transformers.ViTModel(transformers.ViTConfig(**SMALL))
    folder_of(model, tmp_path)
    (tmp_path / file).write_text(json.dumps(json.loads((tmp_path / file).read_text()) | change))
    with pytest.raises(CheckpointError) as caught:
        open_teacher(str(tmp_path))
    assert caught.value.remedy


def test_pixels_that_a_teacher_does_not_normalise(tmp_path):
    folder = folder_of(transformers.ViTModel(transformers.ViTConfig(**SMALL)), tmp_path)
    said = {"image_mean": MEAN, "image_std": STD, "do_normalize": False}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(said))
    teacher = open_teacher(folder)
    assert (teacher.mean.unique().tolist(), teacher.std.unique().tolist()) == ([0.0], [1.0])


@pytest.mark.parametrize("change", [{"mean": None}, {"mean": "abc"}, {"input_size": 3}])
def test_a_folder_of_timm_that_somebody_changed(tmp_path, change):
    save_for_hf(small_timm("vit_tiny_patch16_224", depth=1), tmp_path)
    said = json.loads((tmp_path / "config.json").read_text())
    said["pretrained_cfg"] |= change
    (tmp_path / "config.json").write_text(json.dumps(said))
    with pytest.raises(CheckpointError, match="does not come from timm"):
        open_teacher(str(tmp_path))


def test_runs_and_artifacts(tmp_path):
    model = MaskedImageModel(BACKBONE, 5)
    teacher = open_teacher(str(save_artifact(tmp_path / "model", model, Details())))
    assert isinstance(teacher, OurTeacher)
    tokenizer = save_artifact(tmp_path / "tokenizer", build_tokenizer(VAE), Details())
    with pytest.raises(CheckpointError, match="has no backbone whose features"):
        open_teacher(str(tokenizer))


def test_names_that_are_none(tmp_path):
    with pytest.raises(CheckpointError, match="no-such-model does not come from timm"):
        open_teacher("timm:no-such-model")
    unknown = r"there is no file or folder 'clap'(?s:.*)give clip, dino or timm:NAME; or"
    with pytest.raises(CheckpointError, match=unknown):
        open_teacher("clap")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit"}))
    with pytest.raises(CheckpointError, match="cannot be opened"):
        open_teacher(str(tmp_path))
