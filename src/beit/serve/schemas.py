"""The options and the answers of the server, as its OpenAPI description gives them."""

from __future__ import annotations

from typing import Any, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, RootModel, model_validator

from beit.serve.supervisor import Reload


class ModelOption(BaseModel):
    """The option of every path; one that a path does not have is refused."""

    model_config = ConfigDict(extra="forbid")

    model: str | None = Field(None, max_length=64, description="Name of a model in /models.")


class PredictOptions(ModelOption):
    top: int | None = Field(
        None,
        ge=1,
        le=1000,
        description="Classes in the answer. Default: 5; of a multi-label model, the labels that "
        "reach their thresholds.",
    )


class BlockOptions(ModelOption):
    block: int | None = Field(None, ge=0, le=1000, description="Block from 0; default: the last.")


class ReconstructOptions(ModelOption):
    seed: int = Field(0, ge=0, le=2**31 - 1, description="Which patches are hidden.")


class Upload(BaseModel):
    """One image or a list of them, in base64 or as data: URLs."""

    model_config = ConfigDict(extra="forbid")

    image: str | None = None
    images: list[str] | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.image is None) == (self.images is None):
            raise ValueError("give image or images")
        return self


class Label(BaseModel):
    """A class and its probability; of a multi-label model, and the probability from which it
    counts."""

    name: str
    probability: float
    threshold: float | None = None


class Labels(BaseModel):
    """Name the classes of an image, best first. Of a multi-label model: the labels that reach
    their thresholds or, with `top`, so many of all, with independent probabilities."""

    labels: list[Label]


class Region(BaseModel):
    """A class and its fraction of the pixels."""

    id: int
    name: str
    fraction: float
    colour: str


class Segmentation(BaseModel):
    """Name the class of each pixel: an indexed PNG and an overlay, both as data URIs."""

    height: int
    width: int
    classes: list[Region]
    label_map: str
    overlay: str


class Features(BaseModel):
    """Give the mean patch vector after a block."""

    block: int
    features: list[float]


class Tokens(BaseModel):
    """Give the visual tokens in row-major order, and as colours."""

    grid: list[int]
    codes: int
    tokens: list[int]
    colours: str


class Attention(BaseModel):
    """Show where each patch looks: N x N bytes in base64, each row scaled to its largest weight."""

    block: int
    grid: list[int]
    weights: str
    view: str


class Reconstruction(BaseModel):
    """Hide patches, and show what the model thinks they are."""

    right: float
    hidden: int
    input: str
    target: str
    prediction: str
    tokens: list[int]


class OwnAnswer(RootModel[dict[str, Any]]):
    """What a task of somebody's own answers."""


class Answers(BaseModel):
    """To several images, in their order: what each would get alone, be it a refusal."""

    answers: list[dict[str, Any]]


class Form(NamedTuple):
    """The options and the answer of an ability."""

    answer: type[BaseModel]
    options: type[ModelOption] = ModelOption


ABILITIES = {
    "predict": Form(Labels, PredictOptions),
    "segment": Form(Segmentation),
    "embed": Form(Features, BlockOptions),
    "tokens": Form(Tokens),
    "attention": Form(Attention, BlockOptions),
    "reconstruct": Form(Reconstruction, ReconstructOptions),
}
OWN_ABILITY = Form(OwnAnswer)


class Model(BaseModel):
    """A model and what it can do."""

    name: str
    kind: str
    version: str
    abilities: list[str]
    classes: list[str]
    multi_label: bool
    size: list[int]


class Models(BaseModel):
    """The models that are served."""

    models: list[Model]


class State(BaseModel):
    """Whether the server takes requests."""

    state: str


class Health(BaseModel):
    """Whether the server is well, and how the last reload went."""

    state: str
    reload: Reload


class Problem(BaseModel):
    """A stable code, a fixed text, and the id that the log has."""

    code: str
    message: str
    request_id: str


class Failure(BaseModel):
    """Why there is no answer."""

    error: Problem
