"""What a run reads: every artifact is opened once, every folder of images is listed once."""

from __future__ import annotations

from beit.config.data import Reading
from beit.config.model import VisionTransformerConfig
from beit.data.account import Account
from beit.data.colours import ValueRange
from beit.data.dataset import Dataset
from beit.data.images import check_readable
from beit.data.sources import ImageSource
from beit.errors import CheckpointError
from beit.models.heads import BackboneModel
from beit.weights.load import open_artifact
from beit.weights.store import Artifact, Details
from beit.weights.warm_start import warm_start


class Inputs:
    """The artifacts and images of a run, and of one that precedes it, such as its tokenizer's."""

    def __init__(self) -> None:
        self._artifacts: dict[str, Artifact] = {}
        self._data: dict[tuple[str, Reading], Dataset] = {}
        self._images: dict[tuple[object, ...], ImageSource] = {}
        self._accounts: dict[str, str] = {}

    def artifact(self, reference: str) -> Artifact:
        """The artifact, which is kept for the next call."""
        if reference not in self._artifacts:
            self._artifacts[reference] = open_artifact(reference)
        return self._artifacts[reference]

    def take(self, reference: str) -> Artifact:
        """The artifact, which is not kept: its memory is free once the caller is done with it."""
        artifact = self.artifact(reference)
        del self._artifacts[reference]
        return artifact

    def backbone(self, reference: str) -> VisionTransformerConfig:
        """The backbone of an artifact. Raises CheckpointError if it has none."""
        artifact = self.artifact(reference)
        if artifact.backbone is None:
            raise CheckpointError(
                f"{reference} holds a {artifact.kind}, which has no backbone to start from",
                remedy="give the run of `beit pretrain` or `beit finetune`, or a released model",
            )
        return artifact.backbone

    def take_over(self, model: BackboneModel, details: Details, init: str) -> tuple[str, ...]:
        """Load into a new model what the artifact `init` has for it.

        Args:
            model: The model to be trained, with its initial weights; changed in place.
            details: What its own artifact will say, such as its classes.
            init: The artifact to start from; empty leaves the model as it is.

        Returns:
            Lines that say what was taken and what was not; none without `init`.

        Raises:
            CheckpointError: The artifact cannot be opened, or has a backbone of another shape.
        """
        return tuple(warm_start(model, details, self.take(init)).lines(init)) if init else ()

    def data(self, path: str, reading: Reading) -> Dataset:
        """The data at a path, which are listed once."""
        if (path, reading) not in self._data:
            self._data[path, reading] = Dataset(path, reading)
        return self._data[path, reading]

    def close_data(self) -> None:
        """Forget the listings: a run need not hold the paths of millions of files."""
        self._data.clear()

    def images(
        self, data: str, reading: Reading, channels: int, value_range: ValueRange | None
    ) -> ImageSource:
        """The training images of `data`, or all of data without splits.

        Args:
            data: Images in any form.
            reading: How they are read, if they leave it open.
            channels: Channels that they are read with.
            value_range: Values that become black and white in images of more than 8 bits; None:
                the range that each file states, or that of its type.

        Raises:
            DataError: There are no images, or none of a few that were tried can be read.
        """
        key = (data, reading, channels, value_range)
        if key not in self._images:
            source = self.data(data, reading).training()
            check_readable(source, channels, value_range)
            self._images[key] = source
        return self._images[key]

    def same_account(self, account: Account, out: str) -> str:
        """The earlier run whose account was the same; empty if the run `out` is the first."""
        first = self._accounts.setdefault(account.to_json(), out)
        return "" if first == out else first
