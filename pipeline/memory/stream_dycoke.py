"""An online cache of what was new: tokens unlike the last three frames, and now and then a whole frame.

Shape letters: T frames, N tokens of one frame, D hidden size, M held tokens, Q tokens of a question, P tokens of
probes.
"""

import torch

from pipeline.memory.evictions import EVICTIONS
from pipeline.memory.likeness import lagged_likeness, matches
from pipeline.memory.slots import Slots, frame_rows
from pipeline.methods import Method
from pipeline.plugins import find
from pipeline.streams import Clock, Held, MemoryConfig

METHOD = Method(
    source="StreamDyCoke (anantteotia/StreamDyCoke), causal temporal merging and bounded cache",
    stage="memory",
    what="keeps of each frame the tokens that are unlike the same place of the three frames before, every fourth frame"
    " whole; a question gets the most similar tokens held",
    differs="there a retrieved token leaves the store, so that least recently retrieved is first in first out; here it"
    " stays, and its time is renewed. There attention is made up; here a token's claim is how new it was as it came."
    " One store, not an active list with a second one behind",
    query_dependent=True,
    stateful=True,
)

BACK = 3
"""Frames a new one is compared with."""
THRESHOLD = 0.9
"""Cosine from which a token is thrown away where none is set: of the source, for encoders whose cosines are high."""


def make_stream_dycoke(config: MemoryConfig, probes_PD: torch.Tensor | None = None) -> "StreamDycoke":
    """Return an empty memory; probes are not used.

    Raises:
        ConfigError: no such eviction.
    """
    del probes_PD
    return StreamDycoke(config)


class StreamDycoke:
    """Holds differential tokens and anchors, and retrieves from them.

    A token goes when its largest cosine with its place in the last 3 frames is `threshold` (.9) or more; of a frame
    that would lose all of them the least similar stays. Every `anchor_every`th frame stays whole, so a still stream
    fills the memory with copies: raise it for those. O(T N D) time for a chunk, O(M D Q) for a question; beside what is
    held, three frames.
    """

    def __init__(self, config: MemoryConfig) -> None:
        self.config = config
        self.threshold = THRESHOLD if config.threshold is None else config.threshold
        self.eviction = find(EVICTIONS, config.eviction, "EVICTIONS")
        self.clock = Clock(config)
        self.slots = Slots(config.capacity_tokens)
        self.last_BND: torch.Tensor | None = None

    def add(self, values_TND: torch.Tensor, pts_s_T: torch.Tensor) -> None:
        """Take the next frames; see Memory."""
        index_T = self.clock.admit(values_TND, pts_s_T)
        if not len(values_TND):
            return
        before_BND = values_TND[:0] if self.last_BND is None else self.last_BND
        likeness_TN = lagged_likeness(values_TND, before_BND, BACK)
        kept_TN = likeness_TN < self.threshold
        kept_TN |= index_T[:, None] % self.config.anchor_every == 0
        lost_T = ~kept_TN.any(1)
        kept_TN[lost_T, likeness_TN.argmin(1)[lost_T]] = True
        rows = frame_rows(values_TND, pts_s_T, index_T, kept_TN)
        novelty_M = ((1.0 - likeness_TN[kept_TN]) / 2).clamp(0.0, 1.0)
        self.slots.put(rows.ranked(self.eviction.rank(rows, novelty_M, self.config.decay_per_s)))
        self.last_BND = torch.cat([before_BND, values_TND[-BACK:]])[-BACK:].clone()

    def read(self, query_QD: torch.Tensor | None = None) -> Held:
        """Return all tokens held, or the `retrieved_tokens` most like any token of a question.

        Raises:
            AnswerError: the question is not finite.
        """
        used = self.slots.used()
        order = used.time_order()
        if query_QD is None or not len(used):
            return used.take(order).held()
        likeness_M = matches(used.values_MD[order], query_QD).amax(1)
        best = likeness_M.argsort(descending=True, stable=True)[: self.config.retrieved_tokens].sort().values
        if self.eviction.is_renewed:
            # behind every token so far, before the next
            now = self.clock.num_frames * self.config.tokens_per_frame - 0.5
            self.slots.rerank(order[best], now)
        return used.take(order[best]).held()

    @property
    def num_tokens(self) -> int:
        return self.slots.num_used

    @property
    def num_bytes(self) -> int:
        return self.slots.num_bytes + (0 if self.last_BND is None else self.last_BND.nbytes)
