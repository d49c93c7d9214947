"""Every recipe is a documented config that is valid and can be built."""

from __future__ import annotations

import json

import pytest

from beit.config import (
    FinetuneRunConfig,
    PretrainRunConfig,
    RunConfig,
    SegmentRunConfig,
    TokenizerRunConfig,
)
from beit.config.tree import from_json, to_json
from beit.errors import ConfigError
from beit.models.vit import VisionTransformer
from beit.recipes import RECIPES, find_recipe
from beit.tokenizers import build_tokenizer

KINDS = {
    "tokenizer": TokenizerRunConfig,
    "pretrain": PretrainRunConfig,
    "finetune": FinetuneRunConfig,
    "segment": SegmentRunConfig,
}


EVERY = [(verb, name) for verb, recipes in RECIPES.items() for name in recipes]


@pytest.mark.parametrize(("verb", "name"), EVERY)
def test_every_recipe_is_a_documented_valid_config(verb, name):
    function = RECIPES[verb][name]
    assert function.__doc__
    config = find_recipe(verb, name, KINDS[verb])
    assert config.recipe == name
    assert from_json(json.loads(json.dumps(to_json(config))), RunConfig) == config


@pytest.mark.parametrize("verb", KINDS)
@pytest.mark.parametrize("name", ["tiny", "small"])
def test_small_recipes_build(verb, name):
    config = find_recipe(verb, name, KINDS[verb])
    trains = isinstance(config, TokenizerRunConfig)
    model = build_tokenizer(config.tokenizer) if trains else VisionTransformer(config.model)
    assert sum(parameter.numel() for parameter in model.parameters()) > 1000


def test_recipes_of_one_s_own(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "from beit.recipes.pretrain import tiny\n"
        "from beit.recipes.tokenizers import tiny as other\n"
        "def broken(): return {}['lost']\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    config = find_recipe("pretrain", "mine:tiny", PretrainRunConfig)
    assert config.recipe == "mine:tiny"
    with pytest.raises(ConfigError, match=r"returns TokenizerRunConfig[\s\S]*PretrainRunConfig"):
        find_recipe("pretrain", "mine:other", PretrainRunConfig)
    with pytest.raises(ConfigError, match=r"'mine:broken' fails: KeyError: 'lost'"):
        find_recipe("pretrain", "mine:broken", PretrainRunConfig)
    for name in ("mine:nothing", "nowhere:tiny"):
        with pytest.raises(ConfigError, match="cannot be found"):
            find_recipe("pretrain", name, PretrainRunConfig)
    (tmp_path / "torn.py").write_text("def tiny(:")
    with pytest.raises(ConfigError, match=r"SyntaxError: [\s\S]*mend the module"):
        find_recipe("pretrain", "torn:tiny", PretrainRunConfig)
    with pytest.raises(ConfigError, match="no 'borken'\n  remedy: did you mean 'broken'"):
        find_recipe("pretrain", "mine:borken", PretrainRunConfig)
