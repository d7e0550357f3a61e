"""Which files broke their decoder twice: nobody of this run opens them again.

One small file per such video lies in the run's folder. Every process lists them at most every few seconds, so good
videos cost nothing; a process that has not heard yet finds out for itself, at the price of two more children.
"""

import json
import logging
import time

from pipeline import store
from pipeline.errors import StoreError

logger = logging.getLogger(__name__)

REFRESH_S = 20.0
"""How old a listing may be."""
ENDING = ".json"

_known: dict[str, dict[str, str]] = {}
"""Folder -> reason per name."""
_listed_s: dict[str, float] = {}
"""Folder -> time.monotonic() of its last listing."""


def reason(folder: str, name: str) -> str:
    """Return why a video is not opened any more, empty when it may be.

    Args:
        folder: of the run's quarantine; empty for none.
        name: of one version of a video.

    Raises:
        StoreError: the folder cannot be listed or read.
    """
    if not folder:
        return ""
    known = _known.setdefault(folder, {})
    now_s = time.monotonic()
    if name not in known and now_s - _listed_s.get(folder, -REFRESH_S) >= REFRESH_S:
        _listed_s[folder] = now_s
        for entry in store.list_files(folder, missing_ok=True):
            other = entry.uri.rpartition("/")[2]
            # others are being written
            if other.endswith(ENDING) and (key := other.removesuffix(ENDING)) not in known:
                known[key] = json.loads(store.read_bytes(entry.uri))["reason"]
    return known.get(name, "")


def add(folder: str, name: str, why: str) -> None:
    """Note that a video is not to be opened again; if it cannot be written, this process still knows."""
    logger.warning("%s is not opened again: %s", name, why)
    if not folder:
        return
    _known.setdefault(folder, {})[name] = why
    try:
        store.write_bytes(store.join(folder, name + ENDING), json.dumps({"reason": why}).encode())
    except StoreError:
        logger.exception("cannot write down that %s is in quarantine", name)
