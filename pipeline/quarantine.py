"""Which files broke their decoder twice: nobody of this run opens them again.

One small file per such video lies in the run's folder; every process lists them at most every few seconds, so good
videos cost nothing.
"""

import json
import logging
import time

from pipeline import store
from pipeline.errors import StoreError

logger = logging.getLogger(__name__)

REFRESH_S = 20.0

_known: dict[str, tuple[float, dict[str, str]]] = {}
"""Folder -> when it was listed, and reason per name."""


def reason(folder: str, name: str) -> str:
    """Return why a video is not opened any more, empty when it may be."""
    if not folder:
        return ""
    listed_s, found = _known.get(folder, (-REFRESH_S, {}))
    if time.monotonic() - listed_s >= REFRESH_S:
        for entry in store.list_files(folder, missing_ok=True):
            other = entry.uri.rpartition("/")[2].removesuffix(".json")
            if other not in found:
                found[other] = json.loads(store.read_bytes(entry.uri))["reason"]
        _known[folder] = time.monotonic(), found
    return found.get(name, "")


def add(folder: str, name: str, why: str) -> None:
    """Note that a video is not to be opened again; if it cannot be written, this process still knows."""
    logger.warning("%s is not opened again: %s", name, why)
    if not folder:
        return
    _known.setdefault(folder, (-REFRESH_S, {}))[1][name] = why
    try:
        store.write_bytes(store.join(folder, f"{name}.json"), json.dumps({"reason": why}).encode())
    except StoreError:
        logger.exception("cannot write down that %s is in quarantine", name)
