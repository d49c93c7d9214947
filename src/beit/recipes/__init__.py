"""Recipes: named functions that return complete configs, each number with its source.

Your own recipe is a function in any module, chosen as `module:function`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import TypeVar

from beit.config import ProbeConfig, RunConfig
from beit.config.plugins import call_outside, find_outside
from beit.errors import ConfigError, nearest
from beit.recipes import finetune, pretrain, segment, tokenizers
from beit.recipes.finetune import PROBES

Recipe = TypeVar("Recipe", bound=RunConfig | ProbeConfig)
Recipes = Mapping[str, Callable[[], RunConfig]]

RECIPES: dict[str, Recipes] = {
    "tokenizer": tokenizers.RECIPES,
    "pretrain": pretrain.RECIPES,
    "finetune": finetune.RECIPES,
    "segment": segment.RECIPES,
}
DEFAULT = "small"


def find_recipe(verb: str, name: str, kind: type[Recipe]) -> Recipe:
    """The config of a recipe of this package, or of a function outside of it.

    Args:
        verb: The verb that runs it, such as "pretrain" or "probe".
        name: The name of the recipe, or `module:function`.
        kind: The type of config that the verb needs.

    Raises:
        ConfigError: There is no such recipe, or it returns another kind of config.
    """
    recipes: Mapping[str, Callable[[], object]] = PROBES if verb == "probe" else RECIPES[verb]
    if name in recipes:
        function = recipes[name]
    elif ":" in name:
        found = find_outside(name, "recipe")
        if not callable(found):
            raise ConfigError(f"recipe '{name}' is not a function", remedy="name a function")
        function = partial(call_outside, found, name, "recipe")
    else:
        raise ConfigError(f"{verb} has no recipe '{name}'", remedy=nearest(name, recipes))
    config = function()
    if not isinstance(config, kind):
        raise ConfigError(
            f"recipe '{name}' returns {type(config).__name__}",
            remedy=f"return a {kind.__name__} for `beit {verb}`",
        )
    return replace(config, recipe=name)
