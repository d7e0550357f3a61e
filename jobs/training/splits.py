"""Which questions are trained on, which are held back, and which are left alone."""

import hashlib

TRAIN, DEV, TEST = "train", "dev", "test"
SPLITS = {
    "train": TRAIN, "training": TRAIN, "dev": DEV, "val": DEV, "valid": DEV, "validation": DEV, "test": TEST,
}  # fmt: skip
"""Names of splits; rows of any other are not used, like those of `test`."""


def split_of(split: str, video: str, dev_share: float) -> str:
    """Return train, dev or test: as the row says, else by the video, so that no video is in two of them."""
    if split:
        return SPLITS.get(split.lower(), TEST)
    share = int(hashlib.sha256(video.encode()).hexdigest()[:8], 16) / 16**8
    return DEV if share < dev_share else TRAIN
