"""The latest tokens that were new: what did not change since the frame before is thrown away as it comes.

Shape letters: T frames, N tokens of one frame, D hidden size, Q tokens of a question, P tokens of probes.
"""

import math

import torch

from pipeline.memory.likeness import lagged_likeness
from pipeline.memory.slots import Slots, frame_rows
from pipeline.methods import Method
from pipeline.streams import Clock, Held, MemoryConfig

METHOD = Method(
    source="TimeChat-Online (arXiv 2504.17343), differential token drop and its first-in-first-out memory",
    stage="memory",
    what="throws away tokens that are like the same place of the frame before, by a fixed cosine or as a fixed share of"
    " each frame, and holds the latest of the others",
    differs="cosines differ between encoders, so a share is the default; the threshold of the paper was .25 for tokens"
    " behind the projector. The first frame is thrown out like any other when its time has come",
    stateful=True,
)


def make_fifo(config: MemoryConfig, probes_PD: torch.Tensor | None = None) -> "Fifo":
    """Return an empty memory; probes are not used."""
    del probes_PD
    return Fifo(config)


class Fifo:
    """Holds the latest tokens that survive the comparison with the frame before.

    The reference is the frame before in full, also where its token was thrown away, so slow drift goes unseen. The
    first frame is whole. With a threshold a token goes when its cosine is above; without, each frame keeps its
    floor((1 - `prune_ratio`) N) least similar tokens, of equals the first in raster order. `read` does not depend on
    the question. O(T N D) time; beside what is held, one frame.
    """

    def __init__(self, config: MemoryConfig) -> None:
        self.config = config
        self.clock = Clock(config)
        self.slots = Slots(config.capacity_tokens)
        self.last_1ND: torch.Tensor | None = None

    def add(self, values_TND: torch.Tensor, pts_s_T: torch.Tensor) -> None:
        """Take the next frames; see Memory."""
        index_T = self.clock.admit(values_TND, pts_s_T)
        if not len(values_TND):
            return
        before_BND = values_TND[:0] if self.last_1ND is None else self.last_1ND
        kept_TN = self._kept(lagged_likeness(values_TND, before_BND, 1))
        kept_TN[index_T == 0] = True
        self.slots.put(frame_rows(values_TND, pts_s_T, index_T, kept_TN))
        self.last_1ND = values_TND[-1:].clone()

    def _kept(self, likeness_TN: torch.Tensor) -> torch.Tensor:
        """Return which tokens are new enough."""
        if self.config.threshold is not None:
            return likeness_TN <= self.config.threshold
        # 1e-9: (1 - 0.9) x 10 is 0.9999999999999998 in floating point
        most = math.floor((1.0 - self.config.prune_ratio) * likeness_TN.shape[1] + 1e-9)
        return likeness_TN.argsort(dim=1, stable=True).argsort(dim=1) < most

    def read(self, query_QD: torch.Tensor | None = None) -> Held:
        """Return the tokens held."""
        del query_QD
        return self.slots.used().sorted().held()

    @property
    def num_tokens(self) -> int:
        return self.slots.num_used

    @property
    def num_bytes(self) -> int:
        return self.slots.num_bytes + (0 if self.last_1ND is None else self.last_1ND.nbytes)
