"""Decoding in this process: what the decoding child does, without the child."""

from collections.abc import Sequence
from pathlib import Path

from pipeline.decode import open_pyav
from pipeline.frames import Decoder, Frames, FrameSize, Policy, gather


def decode(
    path: str | Path,
    times_s: Sequence[float],
    size: FrameSize,
    policy: Policy | None = None,
    opener: Decoder = open_pyav,
) -> Frames:
    """Return the pictures at given times, in any order, of a local file."""
    times_s = sorted(set(times_s))
    with Path(path).open("rb") as file, opener(file, str(path)) as look:
        return gather(look(times_s, size, policy or Policy()), len(times_s))
