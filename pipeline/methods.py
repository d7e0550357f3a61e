"""What a published method says of itself, for checks before a run, the docs' tables and `reelsift bench methods`.

Every entry of a table has one, beside its code; jobs/methods.py brings them together.
"""

from dataclasses import dataclass
from typing import Literal

Stage = Literal["score", "route", "select", "compress", "cache", "memory"]
"""Where a method acts: on relevance of frames, on the route of a question, on tokens per frame, on the visual tokens
of a clip, on the language model's KV cache, on what is kept of an endless stream."""
Need = Literal["pixels", "embeddings", "relevance", "probes", "language-model", "keys-and-values", "weights"]
"""What it must be given beside visual tokens: frames as pictures; the scorer's embedding of each frame; relevance to
the question; token embeddings of made-up questions; the language model itself; its KV cache; weights of its own."""
Positions = Literal["original", "destination", "contiguous", "none"]
"""Where what is left stands for the language model: where it stood; where the token stood that it was merged into;
counted through anew; no tokens are touched."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """Facts about one entry of a table."""

    source: str
    """Name and publication, or "-" for plain baselines."""
    stage: Stage
    what: str
    """What it does, in a sentence or two."""
    differs: str = "-"
    """Where it differs from its source, and why."""
    needs: tuple[Need, ...] = ()
    settings: tuple[str, ...] = ()
    """Of a compressor: the fields of CompressConfig that it reads, beside its own name."""
    query_dependent: bool = False
    """Whether its result changes with the question; if not, one result serves all questions of a window."""
    stateful: bool = False
    """Whether it carries bounded state over a stream, so that chunks give what the whole gives."""
    training_free: bool = True
    positions: Positions = "original"
