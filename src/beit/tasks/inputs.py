"""What a run reads: every artifact is opened once, every folder of images is walked once."""

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
    """The artifacts and images of a run, and of one that is carried out before it."""

    def __init__(self) -> None:
        self._artifacts: dict[str, Artifact] = {}
        self._data: dict[tuple[str, Reading], Dataset] = {}
        self._images: dict[tuple[object, ...], ImageSource] = {}
        self._accounts: dict[str, str] = {}

    def artifact(self, reference: str) -> Artifact:
        """The artifact, which stays open."""
        if reference not in self._artifacts:
            self._artifacts[reference] = open_artifact(reference)
        return self._artifacts[reference]

    def take(self, reference: str) -> Artifact:
        """The artifact, for the last time: its memory is not held during the run."""
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
        """Load what the artifact `init` has for a new model; what was taken and what was not, line
        by line. Without `init` the model stays as it is, and there is nothing to say."""
        return tuple(warm_start(model, details, self.take(init)).lines(init)) if init else ()

    def data(self, path: str, reading: Reading) -> Dataset:
        """The data at a path, which are walked through once."""
        if (path, reading) not in self._data:
            self._data[path, reading] = Dataset(path, reading)
        return self._data[path, reading]

    def close_data(self) -> None:
        """Let go of what was listed: paths of millions of files are not held during a run."""
        self._data.clear()

    def images(
        self, data: str, reading: Reading, channels: int, value_range: ValueRange | None
    ) -> ImageSource:
        """The images of `data`, of which at least some can be read."""
        key = (data, reading, channels, value_range)
        if key not in self._images:
            source = self.data(data, reading).training()
            check_readable(source, channels, value_range)
            self._images[key] = source
        return self._images[key]

    def same_account(self, account: Account, out: str) -> str:
        """The run before `out` whose account of its data was the same; empty if there is none."""
        first = self._accounts.setdefault(account.to_json(), out)
        return "" if first == out else first
