"""torchcodec behind the same contract, for the files on which it can be trusted.

Measured on torchcodec 0.13.0 with exact seeking: wrong pictures or an error in transport streams, files with edit
lists, AVI files with B-pictures, and H.264 that is refreshed piece by piece; the next picture instead of the one
shown when it is asked by time in a file with a variable rate. So it gets mp4 and mkv files, is asked by number, and
the time of every picture it gives is compared with the one it should have. It scans the whole file when it opens
it, and brings torch into the decoding child. `pyav` is right everywhere and not slower; this entry is there for
comparison, and for those who decode with it elsewhere.
"""

import importlib
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from pipeline.errors import DecodeError
from pipeline.frames import FrameSize, LookFn, Policy, Shot
from pipeline.media import fitted_size
from pipeline.numbered import Trust, deliver, number_pictures

TRUST = Trust(
    decoder="torchcodec",
    takes="upright pictures in mp4 and mkv files, of H.264 those with closed groups",
    codecs=(),
    takes_open_groups=True,
)
TOLERANCE_S = 0.002
"""Containers round times to milliseconds, and two libraries may round differently; pictures lie further apart."""


@contextmanager
def open_torchcodec(file: BinaryIO, name: str) -> Generator[LookFn]:
    """Open a video for looking at pictures with torchcodec; reads every packet's time first.

    Policies are ignored: every picture is the exact one.

    Raises:
        DecodeError: the file is of a kind torchcodec gets wrong, or torchcodec is not there or cannot open it.
    """
    decoders = _import(name)
    pictures = number_pictures(file, name, TRUST)

    def look(times_s: Sequence[float], size: FrameSize, policy: Policy) -> Iterator[Shot]:
        del policy
        transforms = importlib.import_module("torchcodec.transforms")
        small = transforms.Resize(fitted_size(size, pictures.size_px))
        file.seek(0)
        reader: Any = decoders.VideoDecoder(
            file, dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="exact", transforms=[small]
        )

        def fetch(numbers: Sequence[int]) -> npt.NDArray[np.uint8]:
            batch = reader.get_frames_at(list(numbers))
            found_s = batch.pts_seconds.numpy() - pictures.start_s
            wanted_s = np.asarray([pictures.shown_s[k] for k in numbers])
            if np.abs(found_s - wanted_s).max() > TOLERANCE_S:
                wrong = int(np.abs(found_s - wanted_s).argmax())
                msg = (
                    f"{name}: decoder 'torchcodec' gave the picture at {found_s[wrong]:.3f} s for the one at"
                    f" {wanted_s[wrong]:.3f} s; use decoder 'pyav'"
                )
                raise DecodeError(msg)
            return batch.data.numpy()

        try:
            yield from deliver(pictures, times_s, fetch)
        except (RuntimeError, IndexError, ValueError) as error:
            why = str(error).strip().partition("\n")[0]
            msg = f"{name}: decoder 'torchcodec' fails ({why}); use decoder 'pyav'"
            raise DecodeError(msg) from error

    yield look


def _import(name: str) -> Any:
    """Return torchcodec's decoders.

    Raises:
        DecodeError: it is not installed, or the system's FFmpeg libraries are not the ones it was built for.
    """
    try:
        return importlib.import_module("torchcodec.decoders")
    except ModuleNotFoundError as error:
        msg = (
            f"{name}: decoder 'torchcodec' is not installed ({error}); pip install --no-deps torchcodec==0.13.0, or"
            " use decoder 'pyav'"
        )
        raise DecodeError(msg) from error
    except (ImportError, OSError, RuntimeError) as error:
        why = str(error).strip().partition("\n")[0]
        msg = (
            f"{name}: decoder 'torchcodec' cannot load its libraries ({why}); it needs the shared libraries of FFmpeg"
            " 4 to 8 and the torch it was built for; install them, or use decoder 'pyav'"
        )
        raise DecodeError(msg) from error
