"""Where in a file the network lies: behind which prefixes its names begin, and those of its heads.

Wrappers put their own names before those of a network: DDP `module.`, `torch.compile` `_orig_mod.`,
Lightning the attribute (`model.`, `net.`), averages `ema_model.` or `teacher.`, and all of them at
once. No list of them is needed: every network has one patch embedding, and what stands before its
name is the prefix of the trunk. A head lies in the trunk, or at one of the levels above it.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

from beit.weights.names import Tensors

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
    notes: tuple[str, ...]


def locate(tensors: Tensors) -> Located | None:
    """Find the network; None where nothing could be one of the BEiT family.

    Of several, such as a model and its average, one is taken, and the others are noted.
    """
    for naming, anchor in ANCHORS:
        roots = sorted({found["root"] for found in map(anchor.fullmatch, tensors) if found})
        if roots:
            return _within(tensors, naming, _parent(roots) if naming == "dalle" else roots)
    return None


def _within(tensors: Tensors, naming: Naming, roots: list[str]) -> Located:
    root, *others = sorted(roots, key=lambda each: (_rank(each), each))
    trunk = _below(tensors, root)
    level, weight = _head(tensors, root, HEADS[naming])
    if not weight and naming == "transformers":
        level = next((root.removesuffix(base) for base in BASES if root.endswith(base)), root)
    head = weight.removesuffix("weight")
    beside = {} if level == root else _below(tensors, level)
    heads = {
        name: value
        for name, value in beside.items()
        if not (level + name).startswith(root)
        and (BESIDE.match(name) or (head and name.startswith(head)))
    }
    taken = {level + name for name in heads}
    left = [name for name in tensors if name not in taken and not name.startswith(tuple(roots))]
    return Located(naming, trunk, heads, head.rstrip("."), tuple(_notes(root, others, left)))


def _notes(root: str, others: list[str], left: list[str]) -> list[str]:
    notes = [f"the prefix '{root}' is taken off the names"] if root not in ("", *BASES) else []
    notes += [f"the network under '{root}' is taken, not that under '{other}'" for other in others]
    if left:
        listed = ", ".join(left[:3]) + (", ..." if len(left) > 3 else "")
        notes.append(f"left out: {len(left)} tensors outside the network ({listed})")
    return notes


def _below(tensors: Tensors, prefix: str) -> Tensors:
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }


def _head(tensors: Tensors, root: str, heads: tuple[str, ...]) -> tuple[str, str]:
    """The nearest level at or above the trunk that has a head, and the name of its weight."""
    level = root
    while True:
        for head in heads:
            if level + head in tensors:
                return level, head
        if not level:
            return root, ""
        level = level[: level.rstrip(".").rfind(".") + 1]


def _rank(root: str) -> int:
    """What was trained comes before its average, a teacher before its student."""
    words = set(re.split(r"[._]", root))
    if words & {"student", "online"}:
        return 3
    if any(map(LATER.fullmatch, words)):
        return 2
    return 1 if "teacher" in words else 0


def _parent(roots: list[str]) -> list[str]:
    """Encoder and decoder of DALL-E's tokenizer under our names are one network."""
    parents = [root.removesuffix("encoder.") for root in roots if root.endswith("encoder.")]
    return [parent for parent in parents if f"{parent}decoder." in roots] or roots
