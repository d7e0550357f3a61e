"""One token per frame: a bank of means from which near-repetitions are thrown out.

Shape letters: T frames, N tokens of one frame, D hidden size, M carriers, Q tokens of a question, P tokens of probes.
"""

import torch
from torch.nn.functional import normalize

from pipeline.methods import Method
from pipeline.streams import Clock, Held, MemoryConfig

METHOD = Method(
    source="VideoScan (arXiv 2503.09387), semantic carriers",
    stage="memory",
    what="averages each frame to one token; a full bank throws out the older of the two neighbours in time that are"
    " most alike",
    differs="there the mean is read by a trained model, which leaves its keys and values of every layer in the cache;"
    " here the mean itself is handed out. The new frame counts as a neighbour before anything is thrown out",
    stateful=True,
    positions="destination",
)


def make_carriers(config: MemoryConfig, probes_PD: torch.Tensor | None = None) -> "Carriers":
    """Return an empty memory; probes are not used."""
    del probes_PD
    return Carriers(config)


class Carriers:
    """Holds `num_carriers` means of frames, fewer where the capacity is smaller.

    Means are taken in float32 or wider and rounded once; of equally similar pairs the earliest loses. Who leaves
    depends on who left before, so frames are taken one at a time, O(N D + M D) each. `read` does not depend on the
    question.
    """

    def __init__(self, config: MemoryConfig) -> None:
        self.config = config
        self.capacity = min(config.num_carriers, config.capacity_tokens)
        self.clock = Clock(config)
        self.values_MD: torch.Tensor | None = None
        self.pts_s_M = torch.zeros(0, dtype=torch.float64)
        self.likeness_M = torch.zeros(0)
        """[M]: of each carrier to the one before it; of the first it means nothing."""

    def add(self, values_TND: torch.Tensor, pts_s_T: torch.Tensor) -> None:
        """Take the next frames; see Memory."""
        self.clock.admit(values_TND, pts_s_T)
        for values_ND, pts_s in zip(values_TND, pts_s_T.to(torch.float64), strict=True):
            wide = torch.promote_types(values_ND.dtype, torch.float32)
            self._push(values_ND.mean(0, dtype=wide).to(values_ND.dtype)[None], pts_s[None])

    def _push(self, mean_1D: torch.Tensor, pts_s_1: torch.Tensor) -> None:
        """Put one carrier at the end, and throw out one if there are too many."""
        if self.values_MD is None:
            self.values_MD, self.pts_s_M, self.likeness_M = mean_1D, pts_s_1.clone(), torch.zeros(1)
            return
        values_MD = torch.cat([self.values_MD, mean_1D])
        pts_s_M = torch.cat([self.pts_s_M, pts_s_1.to(self.pts_s_M.device)])
        likeness_M = torch.cat([self.likeness_M, _likeness(values_MD[-2:-1], mean_1D)])
        if len(values_MD) > self.capacity:
            newer = int(likeness_M[1:].argmax()) + 1
            older = newer - 1
            values_MD = torch.cat([values_MD[:older], values_MD[newer:]])
            pts_s_M = torch.cat([pts_s_M[:older], pts_s_M[newer:]])
            likeness_M = torch.cat([likeness_M[:older], likeness_M[newer:]])
            if older:
                likeness_M[older] = _likeness(values_MD[older - 1 : older], values_MD[older : older + 1])[0]
        self.values_MD, self.pts_s_M, self.likeness_M = values_MD, pts_s_M, likeness_M

    def read(self, query_QD: torch.Tensor | None = None) -> Held:
        """Return the carriers."""
        del query_QD
        values_MD = torch.zeros(0, 0) if self.values_MD is None else self.values_MD.clone()
        device = values_MD.device
        return Held(
            values_MD,
            self.pts_s_M.to(device),
            torch.zeros(len(values_MD), dtype=torch.int64, device=device),
            torch.full((len(values_MD),), float(self.config.tokens_per_frame), device=device),
        )

    @property
    def num_tokens(self) -> int:
        return len(self.pts_s_M)

    @property
    def num_bytes(self) -> int:
        values_bytes = 0 if self.values_MD is None else self.values_MD.nbytes
        return values_bytes + self.pts_s_M.nbytes + self.likeness_M.nbytes


def _likeness(one_1D: torch.Tensor, other_1D: torch.Tensor) -> torch.Tensor:
    """Return the cosine of two carriers, float32 [1] on the CPU."""
    wide = torch.promote_types(one_1D.dtype, torch.float32)
    cosine_1 = (normalize(one_1D.to(wide), dim=1) * normalize(other_1D.to(wide), dim=1)).sum(1)
    return cosine_1.to("cpu", torch.float32)
