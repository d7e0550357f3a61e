"""Which files broke their decoder twice: nobody of this run opens them again.

One small file per such video lies in the run's folder. Every process lists their names at most every few seconds and
reads one only when its video comes up, so good videos cost nothing; a process that has not heard yet finds out for
itself, at the price of two more children.
"""

import json
import logging
import random
import time

from pipeline import store
from pipeline.errors import StoreError

logger = logging.getLogger(__name__)

REFRESH_S = 20.0
"""How old a listing may be, on average: processes that began together do not all ask again at once."""
ENDING = ".json"

_known: dict[str, dict[str, str]] = {}
"""Folder -> reason per name; empty where it was not read yet."""
_due_s: dict[str, float] = {}
"""Folder -> time.monotonic() of its next listing."""


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
    if name not in known and now_s >= _due_s.get(folder, now_s):
        _due_s[folder] = now_s + REFRESH_S * random.uniform(0.75, 1.25)
        for entry in store.list_files(folder, missing_ok=True):
            other = entry.uri.rpartition("/")[2]
            # others are being written
            if other.endswith(ENDING):
                known.setdefault(other.removesuffix(ENDING), "")
    if name in known and not known[name]:
        known[name] = json.loads(store.read_bytes(store.join(folder, name + ENDING)))["reason"]
    return known.get(name, "")


def add(folder: str, name: str, uri: str, why: str) -> None:
    """Note that a video is not to be opened again; if it cannot be written, this process still knows.

    Args:
        folder: of the run's quarantine; empty for none.
        name: of one version of the video.
        uri: of the video, for those who read.
        why: and what to do about it.
    """
    if not folder:
        return
    logger.warning("%s is not opened again in this run (%s): %s", uri, name, why)
    _known.setdefault(folder, {})[name] = why
    try:
        text = json.dumps({"uri": uri, "reason": why})
        store.write_bytes(store.join(folder, name + ENDING), text.encode())
    except StoreError:
        logger.exception(
            "%s: cannot write down in %s that it is in quarantine: other processes try it, too, until they find out;"
            " look whether the output folder can be written",
            uri,
            folder,
        )
