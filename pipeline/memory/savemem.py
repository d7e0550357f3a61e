"""Three tiers: the latest frames whole, before them what changed or matters, before that what matters most.

What matters is told by probes, tokens of questions of any kind that are asked of no video in particular.

Shape letters: T frames of a chunk, L frames that leave the short tier, N tokens of one frame, D hidden size, M held
tokens, G frames held beside the short tier, Q tokens of a question, P tokens of probes.
"""

import torch

from pipeline.memory.likeness import matches
from pipeline.memory.slots import Rows, Slots, frame_rows, join, no_rows
from pipeline.memory.thinning import Thinning, disperse
from pipeline.methods import Method
from pipeline.streams import Clock, Held, MemoryConfig

METHOD = Method(
    source="SAVEMem (arXiv 2605.07897), three tiers of memory",
    stage="memory",
    what="holds the latest frames whole; of earlier ones what changed, was at a cut or is like questions in general; of"
    " still earlier ones scattered tokens, of which the least like questions are forgotten. A question gets the latest"
    " frames and the earlier ones that stand out for it",
    differs="the bound is one on tokens: two fifths of what the latest frames leave are the long tier's, 2,048 of 6,144"
    " with frames of 256. The middle tier keeps what compressor `savemem` would, by its thresholds alone. Our reading"
    " where the text is silent: anchors are the best token of each cell of a coarse grid; earlier frames stand out half"
    " a standard deviation above the mean. The gate is off, as in the code",
    needs=("probes",),
    query_dependent=True,
    stateful=True,
)

MID_FRAMES = 256
"""Most frames of the middle tier."""
STANDS_OUT = 0.5
"""Standard deviations above the mean from which an earlier frame is handed out for a question."""
GATE_MEMORY = 0.8
"""Share of the running mean that a new question leaves as it is."""


def make_savemem(config: MemoryConfig, probes_PD: torch.Tensor | None = None) -> "SaveMem":
    """Return an empty memory.

    Raises:
        ConfigError: no probes, or no room for the latest frames and two more.
    """
    return SaveMem(config, probes_PD)


class SaveMem:
    """Holds three tiers; what a frame keeps is decided as it leaves the short one.

    A question is compared as late interaction does: a frame's score is the mean over its tokens of their best cosine
    with the question. With a gate, a question whose mean best match among the latest frames reaches `gate_ratio` times
    the running mean of earlier questions gets these alone. O(T N D P) for a chunk, O(M D Q) for a question; beside what
    is held, one frame.
    """

    def __init__(self, config: MemoryConfig, probes_PD: torch.Tensor | None) -> None:
        per_frame = config.tokens_per_frame
        config.require((config.short_frames + 2) * per_frame, f"{config.short_frames + 2} frames")
        left = config.capacity_tokens - config.short_frames * per_frame
        long_tokens = max(1, left * 2 // 5)
        self.config = config
        self.mid_tokens = left - long_tokens
        self.clock = Clock(config)
        self.thinning = Thinning(config, probes_PD)
        self.short, self.mid = no_rows(0), no_rows(0)
        self.long = Slots(long_tokens)
        self.usual_match: float | None = None

    def add(self, values_TND: torch.Tensor, pts_s_T: torch.Tensor) -> None:
        """Take the next frames; see Memory."""
        index_T = self.clock.admit(values_TND, pts_s_T)
        if not len(values_TND):
            return
        per_frame = self.config.tokens_per_frame
        all_TN = torch.ones(values_TND.shape[:2], dtype=torch.bool, device=values_TND.device)
        queue = frame_rows(values_TND, pts_s_T, index_T, all_TN)
        queue = join([self.short, queue]) if len(self.short) else queue
        leaving = max(0, len(queue) - self.config.short_frames * per_frame)
        self.short = queue.take(torch.arange(leaving, len(queue), device=index_T.device))
        if leaving:
            self._demote(queue.take(slice(leaving)))

    def _demote(self, leaving: Rows) -> None:
        """Move frames out of the short tier, thinned, and what then overflows into the long one."""
        new = self.thinning.thin(leaving)
        mid = join([self.mid, new]) if len(self.mid) else new
        index_M = mid.order_M // self.config.tokens_per_frame
        num_G = torch.unique_consecutive(index_M, return_counts=True)[1]
        # tokens of each frame and all later ones: the longest run of latest frames that fits stays
        behind_G = num_G.flip(0).cumsum(0)[:MID_FRAMES]
        stays = int(num_G.flip(0)[:MID_FRAMES][behind_G <= self.mid_tokens].sum())
        start = len(mid) - stays
        self.mid = mid.take(torch.arange(start, len(mid), device=index_M.device))
        self.long.put(disperse(mid.take(slice(start)), self.config.grid))

    def read(self, query_QD: torch.Tensor | None = None) -> Held:
        """Return all tiers; for a question the short one and the earlier frames that stand out.

        Raises:
            AnswerError: the question is not finite.
        """
        parts = [part for part in (self.mid, self.long.used()) if len(part)]
        if query_QD is not None and len(self.short):
            earlier = join(parts).sorted() if parts else self.short.take(slice(0))
            shut = self._is_gated(query_QD)
            parts = (
                [] if shut or not parts else [_standing_out(earlier, query_QD, self.config.tokens_per_frame)]
            )
        parts += [self.short] if len(self.short) else []
        return join(parts).sorted().held() if parts else no_rows(0).held()

    def _is_gated(self, query_QD: torch.Tensor) -> bool:
        """Say whether the latest frames alone answer a question, and remember how well they match it."""
        match = float(matches(self.short.values_MD, query_QD).amax(0).mean())
        usual = self.usual_match
        self.usual_match = match if usual is None else GATE_MEMORY * usual + (1 - GATE_MEMORY) * match
        return self.config.gate_ratio > 0 and usual is not None and match >= self.config.gate_ratio * usual

    @property
    def num_tokens(self) -> int:
        return len(self.short) + len(self.mid) + self.long.num_used

    @property
    def num_bytes(self) -> int:
        tiers_bytes = self.short.num_bytes + self.mid.num_bytes + self.long.num_bytes
        return tiers_bytes + self.thinning.num_bytes


def _standing_out(rows: Rows, query_QD: torch.Tensor, per_frame: int) -> Rows:
    """Return the frames, sorted by time as they come, that match a question better than the others do."""
    best_M = matches(rows.values_MD, query_QD).amax(1).to(torch.float64)
    frame_M, num_G = torch.unique_consecutive(
        rows.order_M // per_frame, return_inverse=True, return_counts=True
    )[1:]
    score_G = torch.zeros(len(num_G), dtype=torch.float64, device=best_M.device)
    score_G = score_G.index_add(0, frame_M, best_M) / num_G
    least = score_G.mean() + STANDS_OUT * score_G.std(correction=0)
    # 1e-9: of frames that match alike all stand out, whatever the last digit
    return rows.take(score_G[frame_M] >= least - 1e-9)
