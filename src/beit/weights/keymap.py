"""The names of weights: ours, the published ones, and those of transformers, OpenMMLab and OpenAI.

Released files and timm name the trunk as we do (ours under `backbone.`); what differs is the head,
and where a block keeps its relative table. transformers names everything in its own way and keeps
queries, keys and values apart; its version 5 has new names for the same modules. OpenMMLab differs
in a few prefixes. Every conversion goes through the published names; the tables are in
`names.toml`.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from beit.config.runs import Pooling
from beit.errors import CheckpointError

Tensors = dict[str, Tensor]
Pairs = tuple[tuple[str, str], ...]
Naming = Literal["published", "transformers", "openmmlab", "vqkd", "dalle"]
"""Whose names the tensors have. unilm, timm and the released files share the published ones."""
Family = Literal["masked", "backbone", "classifier", "segmenter", "vqkd", "dalle"]

TABLE = "relative_position_bias_table"
INDEX = "relative_position_index"
PARTS = ("query", "key", "value")
_NAMES = tomllib.loads(Path(__file__).with_name("names.toml").read_text(encoding="utf-8"))


def _pairs(library: str, *tables: str) -> Pairs:
    return tuple(pair for table in tables for pair in _NAMES[library][table].items())


MASKED, SEGMENTER, VQKD = (_pairs("ours", kind) for kind in ("masked", "segmenter", "vqkd"))
CLASSIFIER: dict[Pooling, Pairs] = {"mean": _pairs("ours", "mean"), "cls": _pairs("ours", "cls")}
TRUNK, BLOCK, FLAVA = (_pairs("transformers", part) for part in ("trunk", "block", "flava"))
NORMS = ("norm.weight", "fc_norm.weight")
OF_HEADS = re.compile(
    r"(head|head_dist|lm_head|decode_head|auxiliary_head|classifier|fc|linear|neck|pre_logits"
    r"|(backbone\.)?fpn\d*)\."
)


def from_published(tensors: Tensors, pairs: Pairs) -> Tensors:
    """Rename published names to ours; the index of the relative bias, which we do not store, is
    dropped."""
    return {
        _begin(name, _reversed(pairs)).replace(f"attn.{TABLE}", f"attn.rel_pos_bias.{TABLE}"): value
        for name, value in tensors.items()
        if not name.endswith(INDEX)
    }


def to_published(tensors: Tensors, pairs: Pairs) -> Tensors:
    """Rename our names to the published ones."""
    return {
        _begin(name.replace(f"attn.rel_pos_bias.{TABLE}", f"attn.{TABLE}"), pairs): value
        for name, value in tensors.items()
    }


def below(tensors: Tensors, prefix: str) -> Tensors:
    """The tensors whose names begin with `prefix`, under the names without it."""
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }


def listed(names: Sequence[str], most: int = 3) -> str:
    """The first few names, for a message."""
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def _reversed(pairs: Pairs) -> Pairs:
    return tuple((right, left) for left, right in pairs)


def _begin(name: str, pairs: Pairs) -> str:
    for old, new in pairs:
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


def _within(name: str, pairs: Pairs) -> str:
    for old, new in pairs:
        name = name.replace(old, new)
    return name


# -- transformers, OpenMMLab and OpenAI ------------------------------------------------------------


def to_transformers(tensors: Tensors, family: Family) -> Tensors:
    """Rename published names to those of transformers, which its versions 4 and 5 both read."""
    front = "backbone." if family == "segmenter" else ""
    trunk = tuple((f"beit.{theirs}", front + ours) for theirs, ours in TRUNK)
    pairs = _reversed(_pairs("transformers", family) + trunk)
    renamed: Tensors = {}
    for name, value in tensors.items():
        theirs = _within(_begin(name, pairs), _reversed(BLOCK))
        if name.endswith(".attn.qkv.weight"):
            for part, piece in zip(PARTS, value.chunk(3), strict=True):
                inner = theirs.replace("attn.qkv", f"attention.attention.{part}")
                renamed[inner] = piece.contiguous()
        else:
            renamed[theirs] = value
    return renamed


def to_flava(tensors: Tensors) -> Tensors:
    """Rename the tensors of our DALL-E encoder to those of transformers' FLAVA codebook."""
    return {
        _within(name.removeprefix("encoder."), _reversed(FLAVA)): value
        for name, value in tensors.items()
        if name.startswith("encoder.")
    }


def from_dalle(tensors: Tensors, part: Literal["encoder", "decoder"]) -> Tensors:
    """Rename the tensors of OpenAI's files (`.w`, `.b`), or of transformers' FLAVA codebook, to
    ours."""
    renamed = _renamed(tensors, _pairs("dalle", "rules"))
    return {f"{part}.{_within(name, FLAVA)}": value for name, value in renamed.items()}


def from_transformers(trunk: Tensors, heads: Tensors) -> tuple[Tensors, Tensors]:
    """Rename tensors of transformers, of a trunk and of what lies beside it, to the published
    names.

    Raises:
        CheckpointError: A block lacks its queries, keys or values.
    """
    trunk = {
        _within(_begin(name, TRUNK), BLOCK): value
        for name, value in _renamed(trunk, _pairs("transformers", "version_5")).items()
    }
    pairs = _pairs("transformers", "masked", "segmenter")
    beside = _renamed(heads, _pairs("transformers", "version_5_heads"))
    return _joined(trunk), {_begin(name, pairs): value for name, value in beside.items()}


def from_openmmlab(trunk: Tensors, heads: Tensors) -> tuple[Tensors, Tensors]:
    """Rename tensors of OpenMMLab, of a trunk and of what lies beside it, to the published
    names."""
    return (
        _renamed(trunk, _pairs("openmmlab", "trunk", "block")),
        _renamed(heads, _pairs("openmmlab", "heads", "block")),
    )


def _renamed(tensors: Tensors, rules: Pairs) -> Tensors:
    """The tensors with every rule applied to every name."""
    found: Tensors = {}
    for name, value in tensors.items():
        for old, new in rules:
            name = re.sub(old, new, name)
        found[name] = value
    return found


def _joined(tensors: Tensors) -> Tensors:
    """The tensors, with the queries, keys and values of each block joined into one matrix."""
    whole: Tensors = {}
    parts: dict[str, Tensors] = {}
    for name, value in tensors.items():
        block, inner, part = name.partition(".attention.attention.")
        if inner and part in [f"{each}.weight" for each in PARTS]:
            parts.setdefault(block, {})[part.removesuffix(".weight")] = value
        else:
            whole[name] = value
    for block, apart in parts.items():
        alike = len({value.shape for value in apart.values()}) == 1
        if apart.keys() != {*PARTS} or not alike or apart["query"].ndim != 2:
            raise CheckpointError(
                f"{block} has not three matrices of one shape for queries, keys and values",
                remedy="give a file with all of its blocks",
            )
        whole[f"{block}.attn.qkv.weight"] = torch.cat([apart[part] for part in PARTS])
    return whole


# -- a network under the names of its library ----------------------------------------------------


class Located(NamedTuple):
    """A network that was found in a file."""

    naming: Naming
    trunk: Tensors
    """The tensors under the prefix of the trunk, without it; including heads that lie there."""
    heads: Tensors
    """The tensors above the trunk that belong to its head, under names without a prefix."""
    head: str
    """Name of the head; empty without one."""
    guessed: bool
    """Whether the head is a custom one, so that nothing states what it reads."""
    notes: list[str]
    """How the file was read; each later step adds its own."""


def to_published_names(located: Located) -> tuple[Family, Tensors]:
    """What a network of any library is for, and its tensors under the published names.

    Raises:
        CheckpointError: The weights are our own, without the config that they need, or the trunk
            ends with a norm and the head begins with another.
    """
    trunk, heads = located.trunk, located.heads
    if located.naming == "vqkd":
        return "vqkd", trunk
    if located.naming == "dalle":
        ours = any(name.startswith("encoder.") for name in trunk)
        return "dalle", trunk if ours else from_dalle(trunk, "encoder")
    if located.naming == "transformers":
        trunk, heads = from_transformers(trunk, heads)
    elif located.naming == "openmmlab":
        trunk, heads = from_openmmlab(trunk, heads)
    _check_ours(trunk, heads)
    if "decode_head.conv_seg.weight" in heads:
        return "segmenter", _segmenter(trunk, heads, located.notes)
    if "lm_head.weight" not in trunk | heads:
        return _classifier(trunk, heads, located)
    if "norm.weight" in trunk and "norm.weight" in heads:
        raise CheckpointError(
            "the trunk of the model ends with a norm, and its head begins with another, which BEiT "
            "has no place for",
            remedy="give one that was trained with use_mean_pooling=True",
        )
    return "masked", trunk | heads


def _segmenter(trunk: Tensors, heads: Tensors, notes: list[str]) -> Tensors:
    """Put the trunk and neck under `backbone.`; drop a final norm, which the head does not read."""
    unread = [name for name in trunk if name.startswith(("norm.", "fc_norm."))]
    if unread:
        notes.append(f"left out: {', '.join(unread)}, which the head does not read")
    kept = {f"backbone.{name}": value for name, value in trunk.items() if name not in unread}
    return kept | heads


def _classifier(trunk: Tensors, heads: Tensors, located: Located) -> tuple[Family, Tensors]:
    """A classifier, if it has a linear head with the norm before it; else the backbone alone."""
    whole, head = trunk | heads, located.head
    if not head or trunk.keys() & heads.keys() or not whole.keys() & {*NORMS}:
        kept = without_head(whole)
        left = [name for name in whole if name not in kept]
        if left:
            located.notes.append(f"left out: {listed(left)}")
        return "backbone", kept
    named = {
        f"head.{name.removeprefix(f'{head}.')}" if name.startswith(f"{head}.") else name: value
        for name, value in whole.items()
    }
    if located.guessed:
        how = "the class token" if "norm.weight" in named else "the mean of the patches"
        located.notes.append(f"the head '{head}' beside the trunk reads {how}")
    return "classifier", named


def without_head(tensors: Tensors) -> Tensors:
    """The backbone alone, with the norm after it if there is one."""
    return {name: value for name, value in tensors.items() if not OF_HEADS.match(name)}


def _check_ours(trunk: Tensors, heads: Tensors) -> None:
    apart = {"norm.weight", "head.weight"} <= heads.keys() and not trunk.keys() & {*NORMS}
    neck = any(name.startswith(("neck.fpn", "neck.norm.")) for name in heads)
    if apart or neck or any(".attn.rel_pos_bias." in name for name in trunk):
        raise without_config()


def without_config() -> CheckpointError:
    """The error for weights of ours without their config."""
    return CheckpointError(
        "the file holds weights of ours without their config.json",
        remedy="give the folder with both",
    )


def summed_bias(tensors: Tensors, notes: list[str]) -> Tensors:
    """Add a relative bias that all blocks share to that of each block, as every library does."""
    shared = [name for name in tensors
              if name in (f"rel_pos_bias.{TABLE}", f"backbone.rel_pos_bias.{TABLE}")]  # fmt: skip
    own = [name for name in tensors if name.endswith(f".attn.{TABLE}")]
    if not shared or not own:
        return tensors
    table, front = tensors[shared[0]], shared[0].removesuffix(TABLE)
    found = {name: value for name, value in tensors.items() if not name.startswith(front)}
    for name in own:
        if found[name].shape == table.shape:
            found[name] = found[name] + table
    notes.append("the relative bias that all blocks share is added to that of each")
    return found
