"""What a file of weights is: whose names it has, what it is for, and what its files say of it.

From `Foreign`, as it was read, to `Detected`: tensors under published names, with what is stated.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

from beit.errors import CheckpointError
from beit.weights import timm_config, transformers_config
from beit.weights.architecture import Overrides
from beit.weights.container import read_contents
from beit.weights.entries import Entries
from beit.weights.foreign import CONFIG, PREPROCESSOR, Foreign
from beit.weights.image_processor import state_processor
from beit.weights.keymap import Published, summed_bias, to_published_names, without_head
from beit.weights.locate import Located, Naming, locate
from beit.weights.names import Family, Tensors, from_dalle
from beit.weights.published import is_published_hub, recognise_name

# What else a file may be, told by a part of a name, the most telling first.
STRANGERS = {
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
OTHER_BLOCKS = re.compile(
    r"attn\.(qkv\.bias|in_proj_)|attention\.(attention\.key|k_proj)\.bias|decoder_embed|\.lora_"
)
BLOCKS: dict[Naming, re.Pattern[str]] = {
    "published": re.compile(r"blocks\.\d+\."),
    "transformers": re.compile(r"(encoder\.layer|layers)\.\d+\.[a-z]+"),
}
MERGE = "merge it first: PeftModel.merge_and_unload(), then save_pretrained()"


class Detected(NamedTuple):
    """Weights under published names, what they are for, and what is stated of them."""

    family: Family
    tensors: Tensors
    stated: Overrides
    notes: tuple[str, ...]


def detect(foreign: Foreign, overrides: Overrides) -> Detected:
    """What the weights are. `overrides` stands over what their files state.

    Raises CheckpointError for other architectures, and for what BEiT has no place for.
    """
    config = Entries(foreign.place / CONFIG, foreign.config)
    if "model_type" in foreign.config:
        transformers_config.check_architecture(config)
    elif foreign.config:
        timm_config.check_architecture(config)
    tensors, widened = _widened(foreign.tensors)
    located = locate(tensors)
    if located is None or _is_stranger(located):
        raise _stranger(foreign.tensors)
    published = to_published_names(located)
    notes = foreign.notes + widened + located.notes + published.notes
    if published.family == "dalle":
        published = _with_decoder(published, foreign)
        return Detected("dalle", published.tensors, overrides, notes + published.notes)
    stated, said = _state(foreign, published.family)
    if located.naming == "transformers" and not foreign.config:
        stated = stated.over(Overrides(epsilon=transformers_config.EPSILON))
        said += (f"norms with an epsilon of {transformers_config.EPSILON}, its library's default",)
    stated = overrides.over(stated)
    published = _classifying(published._replace(notes=()), stated)
    found, added = summed_bias(published.tensors)
    if located.naming == "transformers":
        found, reading = transformers_config.as_read(found, _of_patch(stated, found), _patch(found))
        said += reading
    return Detected(published.family, found, stated, notes + added + said + published.notes)


def _widened(tensors: Tensors) -> tuple[Tensors, tuple[str, ...]]:
    """Floating tensors in float32, which all models here keep their weights in."""
    narrow = {str(value.dtype).removeprefix("torch.") for value in tensors.values()
              if value.is_floating_point() and value.dtype.itemsize != 4}  # fmt: skip
    if not narrow:
        return tensors, ()
    note = (f"weights of {', '.join(sorted(narrow))} are widened to float32"
            if "float64" not in narrow else "weights are brought to float32")  # fmt: skip
    widened = {
        name: value.float() if value.is_floating_point() else value
        for name, value in tensors.items()
    }
    return widened, (note,)


# -- other architectures ---------------------------------------------------------------------------


def _is_stranger(located: Located) -> bool:
    """A Vision Transformer with a patch embedding like BEiT's, but other blocks, or an adapter."""
    names = list(located.trunk)
    if any(map(OTHER_BLOCKS.search, names)):
        return True
    blocks = BLOCKS.get(located.naming)
    return blocks is not None and not any(map(blocks.match, names))


def _stranger(tensors: Tensors) -> CheckpointError:
    what = next(
        (what for part, what in STRANGERS.items() if any(part in name for name in tensors)),
        "no model that is known here",
    )
    listed = ", ".join(sorted(tensors)[:3])
    return CheckpointError(
        f"the file holds {what} ({len(tensors)} tensors: {listed}, ...)",
        remedy=MERGE if "LoRA" in what else "give a file of the BEiT family",
    )


# -- what is stated --------------------------------------------------------------------------------


def _state(foreign: Foreign, family: Family) -> tuple[Overrides, tuple[str, ...]]:
    """What the configuration beside the weights says, or the name and the entries of a file."""
    config = Entries(foreign.place / CONFIG, foreign.config)
    if "model_type" in foreign.config:
        stated, notes = transformers_config.state_transformers(config, family, foreign.name)
        return _processed(foreign, stated, family), notes
    if foreign.config:
        return timm_config.state_timm(config), ()
    known = recognise_name(foreign.name, foreign.sha256)
    stated = _from_metadata(foreign.metadata)
    if known is None:
        return stated, ()
    listed = Overrides(mean=known.mean, std=known.std, crop=known.crop)
    return listed.over(stated), (f"known as the published {known.name}",)


def _processed(foreign: Foreign, stated: Overrides, family: Family) -> Overrides:
    """With what its image processor does; a published classifier is tested as it was published."""
    if foreign.preprocessor is None or stated.size is None:
        return stated
    said = Entries(foreign.place / PREPROCESSOR, foreign.preprocessor)
    channels = Entries(foreign.place / CONFIG, foreign.config).integer("num_channels") or 3
    fixed = family != "segmenter" and not is_published_hub(foreign.name)
    return state_processor(said, stated.size, channels, fixed=fixed).over(stated)


def _from_metadata(metadata: Mapping[str, object]) -> Overrides:
    """The class names that files of OpenMMLab carry."""
    places = [metadata.get("meta", metadata)]
    if isinstance(places[0], Mapping):
        places.append(places[0].get("dataset_meta"))
    for place in places:
        for key in ("CLASSES", "classes"):
            names = place.get(key) if isinstance(place, Mapping) else None
            if (
                isinstance(names, list | tuple)
                and names
                and all(isinstance(name, str) for name in names)
            ):
                return Overrides(classes=tuple(names))
    return Overrides()


def _classifying(published: Published, stated: Overrides) -> Published:
    """A head that does not tell classes apart is left out: one output, or values."""
    if published.family != "classifier":
        return published
    head = published.tensors["head.weight"]
    if not stated.regression and (head.ndim != 2 or len(head) != 1 or stated.multi_label):
        return published
    backbone = without_head(published._replace(notes=()))
    what = "gives values (regression)" if stated.regression else "has one output"
    note = f"its head {what} and tells no classes apart, which is not answered here; left out"
    return backbone._replace(notes=(note,))


def _patch(tensors: Tensors) -> int:
    name = "patch_embed.proj.weight"
    embedding = tensors.get(name, tensors.get(f"backbone.{name}"))
    return int(embedding.shape[-1]) if embedding is not None and embedding.ndim == 4 else 1


def _of_patch(stated: Overrides, tensors: Tensors) -> Overrides:
    """Sizes that the patch does not divide are refused later, when the model is built."""
    patch = _patch(tensors)
    if stated.size is None or patch == 0 or any(side % patch for side in stated.size):
        return replace(stated, size=None)
    return stated


# -- DALL-E ----------------------------------------------------------------------------------------


def _with_decoder(published: Published, foreign: Foreign) -> Published:
    """The encoder, with the decoder that lies beside it, if one does."""
    tensors, path = published.tensors, foreign.place
    entrance = tensors.get("encoder.blocks.input.weight")
    if entrance is None or entrance.ndim != 4 or entrance.shape[-1] == 1:
        raise CheckpointError(
            f"{path} holds the decoder of the DALL-E tokenizer, which gives no tokens",
            remedy="give the encoder; a decoder.pkl beside it is read with it",
        )
    decoder = path.with_name("decoder.pkl")
    if "decoder.blocks.input.weight" in tensors:
        return published
    if path.name == "encoder.pkl" and decoder.is_file():
        tensors = tensors | from_dalle(read_contents(decoder).tensors, "decoder")
        return Published("dalle", tensors, (f"images are painted by {decoder.name}",))
    note = "without a decoder.pkl beside it: it gives tokens, but paints no images"
    return Published("dalle", tensors, (note,))
