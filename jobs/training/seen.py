"""Frames that a model has looked at: labelling shows those of a video again and again, never two times the same set.

A question takes some thirty showings until it is known which frames it cannot do without. Without this, every showing
would send its frames through the vision tower anew.
"""

import hashlib

import numpy as np
import numpy.typing as npt
import torch

from actors.models.batching import FRAMES_PER_CALL
from actors.models.video_llm import FrameFeatures, VideoLlm
from pipeline.compress import needs_of


class SeenFrames:
    """Keeps what the vision tower made of the frames of one video; stands before a model's `encode`."""

    def __init__(self, llm: VideoLlm) -> None:
        self._encode = llm.encode
        self._keeps_pixels = "pixels" in needs_of(llm.compress)
        self._kept: dict[bytes, tuple[torch.Tensor, ...]] = {}
        llm.encode = self.encode

    def forget(self) -> None:
        """Give back the memory: another video comes."""
        self._kept.clear()

    def encode(
        self, data_NHWC: npt.NDArray[np.uint8], frames_per_call: int = FRAMES_PER_CALL
    ) -> FrameFeatures:
        """Return the features of each frame; see VideoLlm.encode. Only frames that were never shown are looked at."""
        digests = [hashlib.blake2b(frame.tobytes(), digest_size=16).digest() for frame in data_NHWC]
        new = {digest: row for row, digest in enumerate(digests) if digest not in self._kept}
        if new:
            found = self._encode(data_NHWC[list(new.values())], frames_per_call)
            per_frame = zip(found.values_NKD, found.separators_NKD, *found.layers_NKD, strict=True)
            self._kept.update(zip(new, per_frame, strict=True))
        kept = zip(*(self._kept[digest] for digest in digests), strict=True)
        values_NKD, separators_NKD, *layers_NKD = (torch.stack(tensors) for tensors in kept)
        pixels_NHWC = data_NHWC if self._keeps_pixels else None
        return FrameFeatures(values_NKD, separators_NKD, tuple(layers_NKD), pixels_NHWC)
