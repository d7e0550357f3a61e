"""decord behind the same contract, for the files on which it can be trusted.

Measured on decord 0.6.0: silently wrong pictures from open groups of pictures and H.265, everything one group late
in transport streams, padding in files with edit lists, unbounded read-ahead, and a crash when one reader is shared.
So it gets closed-group H.264 in mp4 and mkv files only, by number, never `next()`; from a file object it reads the
whole file into memory, so it gets small ones. `pyav` is right everywhere and not slower; this entry is there for
comparison. Decision 0004 holds the measured matrix.
"""

import importlib.util
import re
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO

from pipeline.errors import DecodeError
from pipeline.frames import FrameSize, LookFn, Policy, Shot
from pipeline.media import fitted_size
from pipeline.numbered import Trust, deliver, number_pictures

TRUST = Trust(
    decoder="decord",
    takes="upright H.264 with closed groups in mp4 and mkv files",
    codecs=("h264",),
    takes_open_groups=False,
    max_bytes=256 * 2**20,
)

STAMP = re.compile(r"\[\d\d:\d\d:\d\d\] (\S+:\d+: )?")
"""What decord puts before its errors, and again before those they came from: the time of day, a line of source."""


@contextmanager
def open_decord(file: BinaryIO, name: str) -> Generator[LookFn]:
    """Open a video for looking at pictures with decord; reads every packet's time first.

    Policies are ignored: every picture is the exact one.

    Raises:
        DecodeError: the file is of a kind decord gets wrong, or decord is not installed or cannot read it.
    """
    if importlib.util.find_spec("decord") is None:
        msg = f"{name}: decoder 'decord' is not installed; pip install decord, or use decoder 'pyav'"
        raise DecodeError(msg)
    import decord

    pictures = number_pictures(file, name, TRUST)

    def look(times_s: Sequence[float], size: FrameSize, policy: Policy) -> Iterator[Shot]:
        del policy
        height_px, width_px = fitted_size(size, pictures.size_px)
        file.seek(0)
        try:
            reader: Any = decord.VideoReader(file, num_threads=1, width=width_px, height=height_px)
            # never next(reader): it reads ahead without bound (3.5 GB after 12 pictures of a 1080p file)
            yield from deliver(pictures, times_s, lambda numbers: reader.get_batch(list(numbers)).asnumpy())
        except (decord.DECORDError, RuntimeError, IndexError, ValueError) as error:
            why = STAMP.sub("", str(error).strip().partition("\n")[0])
            msg = f"{name}: decoder 'decord' fails ({why}); use decoder 'pyav'"
            raise DecodeError(msg) from error

    yield look
