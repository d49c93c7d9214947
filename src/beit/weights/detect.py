"""What a file of weights is: its network, what it is for, and what its config adds.

From `Foreign`, as it was read, to `Detected`: tensors under published names, with what is known.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from beit.errors import CheckpointError
from beit.weights.foreign import Foreign
from beit.weights.keymap import TABLE, Family, Tensors, from_dalle
from beit.weights.library_configs import (
    EPSILON,
    HEADS,
    as_read,
    check_architecture,
    read_processor,
    read_timm,
    read_transformers,
)
from beit.weights.locate import (
    Located,
    Mapped,
    Naming,
    locate,
    summed_bias,
    to_published_names,
    without_head,
)
from beit.weights.overrides import Overrides
from beit.weights.published import is_published_hub, recognise_name
from beit.weights.read import read_contents

OTHERS = {
    "lora_A.": "an adapter (LoRA) to other weights",
    "decoder_embed": "a masked autoencoder (MAE)",
    "visual.": "a CLIP model",
    "vision_model.": "a CLIP model",
    "beit3.": "BEiT-3, which has another architecture",
    "attn.qkv.bias": "a Vision Transformer whose keys have a bias",
    "attn.in_proj_": "a Vision Transformer whose keys have a bias",
    "key.bias": "a Vision Transformer whose keys have a bias",
    "k_proj.bias": "a Vision Transformer whose keys have a bias",
    "patch_embed.proj": "a transformer without the blocks of BEiT",
    "student.": "a DINO training",
    "backbone.": "a network of no family that is known here",
    "running_mean": "a convolutional network",
}
"""What else a file may be, by a part of a name, the most telling first."""
OTHER_BLOCKS = re.compile(
    r"attn\.(qkv\.bias|in_proj_)|attention\.(attention\.key|k_proj)\.bias|decoder_embed|\.lora_"
)
BLOCKS: dict[Naming, re.Pattern[str]] = {
    "published": re.compile(r"blocks\.\d+\."),
    "transformers": re.compile(r"(encoder\.layer|layers)\.\d+\.[a-z]+"),
}
MERGE = "merge it first: PeftModel.merge_and_unload(), then save_pretrained()"


class Detected(NamedTuple):
    """Weights under published names, what they are for, and what is known of them."""

    family: Family
    tensors: Tensors
    known: Overrides
    notes: tuple[str, ...]


def detect(foreign: Foreign, overrides: Overrides) -> Detected:
    """What the weights are. `overrides` take precedence over what their files say.

    Raises CheckpointError for other architectures, and for what BEiT has no place for.
    """
    check_architecture(foreign.config)
    tensors, notes = _in_float32(foreign.tensors)
    located = locate(tensors)
    if located is None or _is_unknown(located):
        raise _unknown(foreign.tensors)
    empty = [name for name, tensor in located.trunk.items() if not tensor.numel()]
    if empty:
        raise CheckpointError(
            f"the file names weights without their values, such as {empty[0]}: its training has "
            "divided them among several files",
            remedy="gather them first, e.g. with the zero_to_fp32.py that DeepSpeed puts beside it",
        )
    mapped = to_published_names(located)
    notes = (*foreign.notes, *notes, *located.notes, *mapped.notes)
    if mapped.family == "dalle":
        tensors, note = _with_decoder(mapped.tensors, foreign)
        return Detected("dalle", tensors, overrides, notes + note)
    known, assumed = _known(foreign, mapped.family)
    transformers = located.naming == "transformers"
    if transformers and not foreign.config.content:
        known = known.over(Overrides(epsilon=EPSILON))
        assumed += (f"norms with an epsilon of {EPSILON}, its library's default",)
    elif transformers and not any(name.endswith(TABLE) for name in tensors):
        known = known.over(Overrides(heads=HEADS))
    known = overrides.over(known)
    family, tensors, unread = _classifying(mapped._replace(notes=()), known)
    tensors, summed = summed_bias(tensors)
    if transformers:
        tensors, positions = as_read(tensors, known.size)
        assumed += positions
    return Detected(family, tensors, known, notes + summed + assumed + unread)


def _in_float32(tensors: Tensors) -> tuple[Tensors, tuple[str, ...]]:
    """Floating tensors in float32, in which all models here keep their weights."""
    found = {name: each.float() if each.is_floating_point() else each
             for name, each in tensors.items()}  # fmt: skip
    types = {str(each.dtype).removeprefix("torch.") for name, each in tensors.items()
             if each.dtype != found[name].dtype}  # fmt: skip
    if not types:
        return tensors, ()
    if "float64" in types:
        return found, ("weights are brought to float32",)
    return found, (f"weights of {', '.join(sorted(types))} are widened to float32",)


def _is_unknown(located: Located) -> bool:
    """A Vision Transformer with a patch embedding like BEiT's, but other blocks, or an adapter."""
    if any(map(OTHER_BLOCKS.search, located.trunk)):
        return True
    blocks = BLOCKS.get(located.naming)
    return blocks is not None and not any(map(blocks.match, located.trunk))


def _unknown(tensors: Tensors) -> CheckpointError:
    what = next(
        (what for part, what in OTHERS.items() if any(part in name for name in tensors)),
        "no model that is known here",
    )
    listed = ", ".join(sorted(tensors)[:3])
    return CheckpointError(
        f"the file holds {what} ({len(tensors)} tensors: {listed}, ...)",
        remedy=MERGE if "LoRA" in what else "give a file of the BEiT family",
    )


def _known(foreign: Foreign, family: Family) -> tuple[Overrides, tuple[str, ...]]:
    """What the configs beside the weights say, or the name and the entries of a file."""
    config, processor = foreign.config, foreign.preprocessor
    if "model_type" in config.content:
        known, notes = read_transformers(config, family, foreign.name)
        if processor is None or known.size is None:
            return known, notes
        # A published classifier is tested as it was published.
        fixed = family != "segmenter" and not is_published_hub(foreign.name)
        channels = config.integer("num_channels") or 3
        return read_processor(processor, known.size, channels, fixed=fixed).over(known), notes
    if config.content:
        return read_timm(config), ()
    classes = Overrides(classes=_class_names(foreign.metadata))
    published = recognise_name(foreign.name, foreign.sha256)
    if published is None:
        return classes, ()
    listed = Overrides(mean=published.mean, std=published.std)
    return listed.over(classes), (f"known as the published {published.name}",)


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


def _classifying(mapped: Mapped, known: Overrides) -> Mapped:
    """A head that does not tell classes apart is skipped: one output, or values.

    Raises CheckpointError for a head that reads the mean of patches that were normalised.
    """
    if mapped.family != "classifier":
        return mapped
    if known.pooling == "cls":  # of a single token, the norms before and after pooling are one
        renamed = {re.sub(r"^fc_norm\.", "norm.", name): value
                   for name, value in mapped.tensors.items()}  # fmt: skip
        mapped = mapped._replace(tensors=renamed)
    elif known.pooling == "mean" and "fc_norm.weight" not in mapped.tensors:
        raise CheckpointError(
            "its head reads the mean of the patches after their norm, where BEiT has the norm "
            "after the mean",
            remedy="take the head out of the file: the backbone alone serves --init, embed, probe",
        )
    head = mapped.tensors["head.weight"]
    if not known.regression and (head.ndim != 2 or len(head) != 1 or known.multi_label):
        return mapped
    what = "gives values (regression)" if known.regression else "has one output"
    note = f"its head {what} and tells no classes apart, which is not answered here; left out"
    return without_head(mapped)._replace(notes=(note,))


def _with_decoder(tensors: Tensors, foreign: Foreign) -> tuple[Tensors, tuple[str, ...]]:
    """The encoder of DALL-E's tokenizer, with the decoder that lies beside it, if one does."""
    path = foreign.place
    entrance = tensors.get("encoder.blocks.input.weight")
    if entrance is None or entrance.ndim != 4 or entrance.shape[-1] == 1:
        raise CheckpointError(
            f"{path} holds the decoder of the DALL-E tokenizer, which gives no tokens",
            remedy="give the encoder; a decoder.pkl beside it is read with it",
        )
    decoder = path.with_name("decoder.pkl")
    if "decoder.blocks.input.weight" in tensors:
        return tensors, ()
    if path.name == "encoder.pkl" and decoder.is_file():
        decoded = from_dalle(read_contents(decoder).tensors, "decoder")
        return tensors | decoded, (f"images are decoded by {decoder.name}",)
    return tensors, ("without a decoder.pkl beside it: it gives tokens, but cannot decode them",)
