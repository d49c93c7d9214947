"""What a file of weights is: its network, what it is for, and what its config adds.

`detect` takes the file as it was read (`Foreign`), and returns its tensors under published names
with what is known about them (`Detected`).

Wrappers put prefixes before the names of a network: DDP `module.`, `torch.compile` `_orig_mod.`,
Lightning the attribute (`model.`, `net.`), averages `ema_model.` or `teacher.`, or all of them at
once. No list of them is needed: every network has one patch embedding, and what stands before its
name is the prefix of the trunk. A head lies in the trunk, or at one of the levels above it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from beit.errors import CheckpointError
from beit.weights.foreign import Foreign
from beit.weights.keymap import (
    OF_HEADS,
    TABLE,
    Family,
    Located,
    Naming,
    Tensors,
    below,
    from_dalle,
    listed,
    summed_bias,
    to_published_names,
    without_config,
    without_head,
)
from beit.weights.library_configs import (
    DEFAULT_EPSILON,
    DEFAULT_HEADS,
    as_read,
    check_architecture,
    read_processor,
    read_timm,
    read_transformers,
)
from beit.weights.overrides import Overrides
from beit.weights.published import is_published_hub, recognise_name
from beit.weights.read import OF_TRAINING, read_contents

FAMILY = "give a file of the BEiT family"
MERGE = "merge it first: PeftModel.merge_and_unload(), then save_pretrained()"
PLAIN = "make them plain first: prune.remove, remove_parametrizations or dequantize, then save"
ADAPTED = r"\.(lora|ia3|hada|lokr|oft|vera)_|\.base_layer\."
COMPUTED = (
    r"\.parametrizations\.|\.weight_(orig|mask|g|v|scale|qdata)$"
    r"|\.(SCB|qweight|_packed_params|weight\.(absmax|quant_map|quant_state\..*))$"
)
OTHERS: tuple[tuple[str, str, str], ...] = (
    (ADAPTED, "an adapter (LoRA or another of PEFT) to other weights", MERGE),
    (COMPUTED, "weights computed from other tensors (pruned, normalised or quantised)", PLAIN),
    (r"decoder_embed", "a masked autoencoder (MAE)", FAMILY),
    (r"visual\.|vision_model\.", "a CLIP model", FAMILY),
    (r"beit3\.", "BEiT-3, which has another architecture", FAMILY),
    (r"(reg_token|register_tokens|storage_tokens)$", "a model with register tokens", FAMILY),
    (
        r"attn\.(qkv\.bias|in_proj_)|key\.bias|k_proj\.bias",
        "a Vision Transformer whose keys have a bias",
        FAMILY,
    ),
    (r"patch_embed\.proj", "a transformer without the blocks of BEiT", FAMILY),
    (r"student\.", "a DINO training", FAMILY),
    (r"backbone\.", "a network of no family that is known here", FAMILY),
    (r"running_mean", "a convolutional network", FAMILY),
)
"""What else a file may be, by a part of a name, the most telling first, and what to do."""
OTHER_BLOCKS = re.compile(
    r"attn\.(qkv\.bias|in_proj_)|attention\.(attention\.key|k_proj)\.bias|decoder_embed"
    rf"|(reg_token|register_tokens|storage_tokens)$|{ADAPTED}|{COMPUTED}"
)
BLOCKS: dict[Naming, re.Pattern[str]] = {
    "published": re.compile(r"blocks\.\d+\."),
    "transformers": re.compile(r"(encoder\.layer|layers)\.\d+\.[a-z]+"),
}
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
WRAPPED = re.compile(
    r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_fpw_module)\."
)
"""What `torch.compile`, FSDP and activation checkpointing put before the names of a module, also of
a single block."""
LATER = re.compile(r"ema|averaged?|avg|shadow|momentum|target|k")
"""Words for an average; trained weights are preferred to it."""


class Detected(NamedTuple):
    """Weights under published names, what they are for, and what is known about them."""

    family: Family
    tensors: Tensors
    known: Overrides
    notes: list[str]
    """How they were read, and what is assumed about them."""


def detect(foreign: Foreign, overrides: Overrides) -> Detected:
    """Find out what the weights are. `overrides` take precedence over what their files say.

    Raises:
        CheckpointError: They are of another architecture, or have something BEiT has no place for.
    """
    check_architecture(foreign.config)
    notes = foreign.notes
    located = locate(_in_float32(foreign.tensors, notes), notes)
    if located is None or _is_unknown(located):
        raise _unknown(foreign.tensors)
    empty = [name for name, tensor in located.trunk.items() if not tensor.numel()]
    if empty:
        raise CheckpointError(
            f"the file names weights without their values, such as {empty[0]}: its training has "
            "divided them among several files",
            remedy="gather them first, e.g. with the zero_to_fp32.py that DeepSpeed puts beside it",
        )
    family, tensors = to_published_names(located)
    if family == "dalle":
        return Detected(family, _with_decoder(tensors, foreign), overrides, notes)
    tensors = summed_bias(tensors, notes)
    known = _known(foreign, family)
    transformers = located.naming == "transformers"
    if transformers and not foreign.config.content:
        known = known.over(Overrides(epsilon=DEFAULT_EPSILON))
        notes.append(f"norms with an epsilon of {DEFAULT_EPSILON}, its library's default")
    elif transformers and not any(name.endswith(TABLE) for name in foreign.tensors):
        known = known.over(Overrides(heads=DEFAULT_HEADS))
    known = overrides.over(known)
    if transformers:
        tensors = as_read(tensors, known.size, notes)
    if family == "classifier":
        return _classifier(Detected(family, tensors, known, notes))
    return Detected(family, tensors, known, notes)


def _in_float32(tensors: Tensors, notes: list[str]) -> Tensors:
    """Floating tensors in float32, in which all models here keep their weights."""
    found = {name: each.float() if each.is_floating_point() else each
             for name, each in tensors.items()}  # fmt: skip
    types = {str(each.dtype).removeprefix("torch.") for name, each in tensors.items()
             if each.dtype != found[name].dtype}  # fmt: skip
    if "float64" in types:
        notes.append("weights are brought to float32")
    elif types:
        notes.append(f"weights of {', '.join(sorted(types))} are widened to float32")
    return found


def _is_unknown(located: Located) -> bool:
    """A Vision Transformer with a patch embedding like BEiT's, but other blocks, or an adapter."""
    if any(OTHER_BLOCKS.search(name) for name in located.trunk if not OF_HEADS.match(name)):
        return True
    blocks = BLOCKS.get(located.naming)
    return blocks is not None and not any(map(blocks.match, located.trunk))


def _unknown(tensors: Tensors) -> CheckpointError:
    what, remedy = next(
        ((what, remedy) for part, what, remedy in OTHERS
         if any(re.search(part, name) for name in tensors)),
        ("no model that is known here", FAMILY),
    )  # fmt: skip
    first = ", ".join(sorted(tensors)[:3])
    return CheckpointError(
        f"the file holds {what} ({len(tensors)} tensors: {first}, ...)", remedy=remedy
    )


def _known(foreign: Foreign, family: Family) -> Overrides:
    """What the configs beside the weights say, or the name and the entries of a file."""
    config, processor = foreign.config, foreign.preprocessor
    if "model_type" in config.content:
        known = read_transformers(config, family, foreign.name, foreign.notes)
        if processor is None or known.size is None:
            return known
        # A published classifier keeps the resizing and crop that it was published with.
        fixed = family != "segmenter" and not is_published_hub(foreign.name)
        channels = config.integer("num_channels") or 3
        return read_processor(processor, known.size, channels, fixed=fixed).over(known)
    if config.content:
        return read_timm(config)
    classes = Overrides(classes=_class_names(foreign.metadata))
    published = recognise_name(foreign.name, foreign.sha256)
    if published is None:
        return classes
    foreign.notes.append(f"known as the published {published.name}")
    return Overrides(mean=published.mean, std=published.std).over(classes)


def _class_names(metadata: Mapping[str, object]) -> tuple[str, ...] | None:
    """The class names that files of OpenMMLab carry."""
    meta = metadata.get("meta", metadata)
    for place in (meta, meta.get("dataset_meta") if isinstance(meta, Mapping) else None):
        for key in ("CLASSES", "classes"):
            names = place.get(key) if isinstance(place, Mapping) else None
            if (
                isinstance(names, list | tuple)
                and names
                and all(isinstance(name, str) for name in names)
            ):
                return tuple(names)
    return None


def _classifier(found: Detected) -> Detected:
    """Leave out a head that does not tell classes apart: it has one output, or predicts values.

    Raises CheckpointError for a head that reads the mean of patches that were normalised.
    """
    known, tensors = found.known, found.tensors
    if known.pooling == "cls":  # for one token, norms before and after pooling are the same
        tensors = {re.sub(r"^fc_norm\.", "norm.", name): value for name, value in tensors.items()}
    elif known.pooling == "mean" and "fc_norm.weight" not in tensors:
        raise CheckpointError(
            "its head reads the mean of the patches after their norm, where BEiT has the norm "
            "after the mean",
            remedy="take the head out of the file: the backbone alone serves --init, embed, probe",
        )
    head = tensors["head.weight"]
    if not known.regression and (head.ndim != 2 or len(head) != 1 or known.multi_label):
        return found._replace(tensors=tensors)
    what = "gives values (regression)" if known.regression else "has one output"
    found.notes.append(
        f"its head {what} and tells no classes apart, which is not answered here; left out"
    )
    return found._replace(family="backbone", tensors=without_head(tensors))


def _with_decoder(tensors: Tensors, foreign: Foreign) -> Tensors:
    """The encoder of DALL-E's tokenizer, with the decoder that lies beside it, if one does."""
    path = foreign.place
    entrance = tensors.get("encoder.blocks.input.weight")
    if entrance is None or entrance.ndim != 4 or entrance.shape[-1] == 1:
        raise CheckpointError(
            f"{path} holds the decoder of the DALL-E tokenizer, which gives no tokens",
            remedy="give the encoder; a decoder.pkl beside it is read with it",
        )
    decoder = path.parent / "decoder.pkl"
    if "decoder.blocks.input.weight" in tensors:
        return tensors
    if path.name == "encoder.pkl" and decoder.is_file():
        foreign.notes.append(f"images are decoded by {decoder.name}")
        return tensors | from_dalle(read_contents(decoder).tensors, "decoder")
    foreign.notes.append("without a decoder.pkl beside it: it gives tokens, but cannot decode them")
    return tensors


# -- where the network lies ----------------------------------------------------------------------


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
    if (
        root == "backbone."
        and {*left} == {"norm.weight", "norm.bias"}
        and "norm.weight" not in trunk
    ):
        raise without_config()
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
    """Trained weights come before their average, a teacher before its student."""
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
