"""Views that come again, so that what was computed from them can be kept; masks never do."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from beit.data.order import sample_generator
from beit.data.transforms import ImageSample, MaskedSample, MaskedViews, SingleView


@dataclass(frozen=True, kw_only=True)
class RecurringViews:
    """`number` views of each image, one per epoch, then the first again under a new mask.

    Crop, mirroring and jitter of view v are those of epoch v: as long as there are as many views as
    epochs, everything is as if they did not recur.
    """

    views: MaskedViews | SingleView
    number: int

    def of(
        self, image: np.ndarray, seed: int, epoch: int, index: int
    ) -> MaskedSample | ImageSample:
        """The view of an image uint8 [H,W,C] whose turn it is in this epoch."""
        view = epoch % self.number
        generator = sample_generator(seed, view, index)
        if isinstance(self.views, SingleView):
            return self.views(image, None, generator)._replace(view=(view, index))
        masks = generator if view == epoch else sample_generator(seed, epoch, index)
        return self.views(image, None, generator, masks)._replace(view=(view, index))
