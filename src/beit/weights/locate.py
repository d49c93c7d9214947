"""Where in a file the network lies, and what it is for.

Wrappers put their own names before those of a network: DDP `module.`, `torch.compile` `_orig_mod.`,
Lightning the attribute (`model.`, `net.`), averages `ema_model.` or `teacher.`, and all of them at
once. No list of them is needed: every network has one patch embedding, and what stands before its
name is the prefix of the trunk. A head lies in the trunk, or at one of the levels above it.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

from beit.errors import CheckpointError
from beit.weights.keymap import (
    TABLE,
    Family,
    Tensors,
    below,
    from_dalle,
    from_openmmlab,
    from_transformers,
    listed,
)
from beit.weights.read import OF_TRAINING

Naming = Literal["published", "transformers", "openmmlab", "vqkd", "dalle"]
"""Whose names the tensors have. unilm, timm and the released files share the published ones."""

ANCHORS: tuple[tuple[Naming, re.Pattern[str]], ...] = (
    ("vqkd", re.compile(r"(?P<root>((?!target_generator).*\.)?)quantize\.embedding\.weight")),
    ("dalle", re.compile(r"(?P<root>(.*\.)?)blocks\.input\.(w|weight)")),
    ("openmmlab", re.compile(r"(?P<root>(.*\.)?)layers\.0\.ffn\.layers\.0\.0\.weight")),
    (
        "transformers",
        re.compile(r"(?P<root>(.*\.)?)embeddings\.patch_embeddings\.projection\.weight"),
    ),
    ("published", re.compile(r"(?P<root>(.*\.)?)patch_embed\.proj\.weight")),
)
BASES = ("beit.", "data2vec_vision.")
"""What transformers calls the trunk of a model with a head."""
OWN_HEADS = ("head.weight", "classifier.weight", "fc.weight", "linear.weight", "head.fc.weight")
HEADS: dict[Naming, tuple[str, ...]] = {
    "published": ("lm_head.weight", "decode_head.conv_seg.weight", *OWN_HEADS),
    "transformers": ("lm_head.weight", "decode_head.classifier.weight", *OWN_HEADS),
    "openmmlab": (
        "head.cls_head.weight", "cls_head.weight", "head.layers.head.weight",
        "decode_head.conv_seg.weight", *OWN_HEADS,
    ),
    "vqkd": (),
    "dalle": (),
}  # fmt: skip
"""The weight of a head, wherever it lies; the first that is there is taken."""
BESIDE = re.compile(r"(norm|fc_norm|layernorm)\.|cls_pt_|(decode_head|auxiliary_head|neck)\.|fpn")
"""What else beside a trunk belongs to its head."""
NORMS = ("norm.weight", "fc_norm.weight")
OF_HEADS = re.compile(
    r"(head|head_dist|lm_head|decode_head|auxiliary_head|classifier|fc|linear|neck|pre_logits"
    r"|(backbone\.)?fpn\d*)\."
)
WRAPPED = re.compile(
    r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_fpw_module)\."
)
"""What `torch.compile`, FSDP and the recomputing of activations put before the names of a module,
also of a single block."""
LATER = re.compile(r"ema|averaged?|avg|shadow|momentum|target|k")
"""Words for an average, which is taken after what was trained."""


class Located(NamedTuple):
    """A network in a file."""

    naming: Naming
    trunk: Tensors
    """What lies below the prefix of the trunk, without it; also its heads, if they lie there."""
    heads: Tensors
    """What lies above the trunk and belongs to its head, under names without prefix."""
    head: str
    """What the head is called; empty without one."""
    guessed: bool
    """Whether the head is somebody's own, so that nothing says what it reads."""
    notes: list[str]
    """On how the file is read; each later step adds its own."""


def locate(tensors: Tensors, notes: list[str]) -> Located | None:
    """Find the network; None where nothing could be one of the BEiT family.

    Of several, such as a model and its average, one is taken, and the notes name the others.
    """
    unwrapped = {WRAPPED.sub("", name): value for name, value in tensors.items()}
    if len(unwrapped) == len(tensors):
        tensors = unwrapped
    for naming, anchor in ANCHORS:
        roots = sorted({found["root"] for found in map(anchor.fullmatch, tensors) if found})
        if naming == "dalle":
            roots = _parents(roots)
        if roots:
            return _within(tensors, naming, roots, notes)
    return None


def _within(tensors: Tensors, naming: Naming, roots: list[str], notes: list[str]) -> Located:
    root, *others = sorted(roots, key=lambda each: (_rank(each), each))
    trunk = below(tensors, root)
    level, weight, above = _head(tensors, root, HEADS[naming])
    base = next((base for base in BASES if root.endswith(base)), "")
    if not weight and naming == "transformers":
        level = root.removesuffix(base)
    head = weight.removesuffix("weight")
    beside = {} if level == root else below(tensors, level)
    heads = {
        name: value
        for name, value in beside.items()
        if not (level + name).startswith(root)
        and (BESIDE.match(name) or (head and name.startswith(head)))
    }
    taken = {level + name for name in heads}
    left = [name for name in tensors if name not in taken and not name.startswith(tuple(roots))]
    if root not in ("", *BASES):
        notes.append(f"the prefix '{root}' is taken off the names")
    notes += [f"the network under '{root}' is taken, not that under '{other}'" for other in others]
    if left:
        notes.append(f"left out: {len(left)} tensors outside the network ({listed(left)})")
    if weight in OWN_HEADS:
        # What may stand between a trunk and the head beside it: all weights but those of a loss.
        between = above if level == root else [
            name for name in left
            if tensors[name].is_floating_point() and not OF_TRAINING.search(name)
        ]  # fmt: skip
        if between:
            notes.append(
                f"its head '{head.rstrip('.')}' is left out, as its answers may not be those of "
                f"the whole network, which has {', '.join(between[:3])} too"
            )
            head = ""
    theirs = naming == "transformers" and weight == "classifier.weight" and root == level + base
    guessed = level != root and not theirs and naming != "openmmlab"
    return Located(naming, trunk, heads, head.rstrip("."), guessed, notes)


def _head(tensors: Tensors, root: str, heads: tuple[str, ...]) -> tuple[str, str, list[str]]:
    """The nearest level at or above the trunk that has a head, the name of its weight, and the
    heads at levels above that one."""
    levels = [root]
    while levels[-1]:
        levels.append(levels[-1][: levels[-1].rstrip(".").rfind(".") + 1])
    found = [(level, head) for level in levels for head in heads if level + head in tensors]
    if not found:
        return root, "", []
    level, weight = found[0]
    return level, weight, [above + head for above, head in found if above != level]


def _rank(root: str) -> int:
    """What was trained comes before its average, a teacher before its student."""
    words = set(re.split(r"[._]", root))
    if words & {"student", "online"}:
        return 3
    if any(map(LATER.fullmatch, words)):
        return 2
    return 1 if "teacher" in words else 0


def _parents(roots: list[str]) -> list[str]:
    """Encoder and decoder of DALL-E's tokenizer under our names are one network."""
    parents = [root.removesuffix("encoder.") for root in roots if root.endswith("encoder.")]
    return [parent for parent in parents if f"{parent}decoder." in roots] or roots


# -- what it is for --------------------------------------------------------------------------------


def to_published_names(located: Located) -> tuple[Family, Tensors]:
    """What a network of any library is for, and its tensors under the published names.

    Raises CheckpointError for weights of ours, whose config says what their names do not, and for
    a norm after a norm.
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
    """The trunk and neck go below `backbone.`; a last norm is not read by the head."""
    unread = [name for name in trunk if name.startswith(("norm.", "fc_norm."))]
    if unread:
        notes.append(f"left out: {', '.join(unread)}, which the head does not read")
    kept = {f"backbone.{name}": value for name, value in trunk.items() if name not in unread}
    return kept | heads


def _classifier(trunk: Tensors, heads: Tensors, located: Located) -> tuple[Family, Tensors]:
    """With a linear head and the norm before it; else it is a backbone alone."""
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
    if apart or any(".attn.rel_pos_bias." in name for name in trunk):
        raise CheckpointError(
            "the file holds weights of ours without their config.json",
            remedy="give the folder with both",
        )


def summed_bias(tensors: Tensors, notes: list[str]) -> Tensors:
    """A relative bias of each block and one for all are added up, as every library does."""
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
