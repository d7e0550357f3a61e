"""A decoder for `reelsift bench chaos`, with one file that always breaks it.

It is alone in its file because it is loaded into the decoding process, which has little memory in that comparison.
"""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, BinaryIO, NoReturn

import numpy as np

from pipeline.decode import open_pyav
from pipeline.frames import LookFn

POISON = "poison.mp4"


@contextmanager
def open_or_starve(file: BinaryIO, name: str) -> Generator[LookFn]:
    """Open a video with libav; the one called POISON takes all memory there is."""
    if name.endswith(POISON):
        _fill_memory()
    with open_pyav(file, name) as look:
        yield look


def _fill_memory() -> NoReturn:
    held: list[Any] = []
    while True:
        held.append(np.ones(2**20, np.uint8))
