"""The plans of one window by a selector that does not heed the route.

Shape letters: N sampled frames of one window.
"""

import numpy as np
import numpy.typing as npt

from pipeline import rows
from pipeline.budget import Plan, evenly
from pipeline.rows import Row
from pipeline.select.spending import check_buys
from pipeline.selection import SeenFrames, SelectFn

Mask = npt.NDArray[np.bool_]


class WindowSelection:
    """Asks a selector for the plans of one window; one that heeds no question is asked once for each budget."""

    def __init__(
        self,
        select: SelectFn,
        window: Row,
        tokens_per_frame: int,
        *,
        query_dependent: bool,
        cuts_frames: bool,
    ) -> None:
        """Take an entry of FRAME_SELECTORS and a rows.SCORED row.

        Args:
            select: the entry.
            window: the row.
            tokens_per_frame: tokens of one frame at full resolution.
            query_dependent: whether the entry reads relevance.
            cuts_frames: whether a frame may be shown with fewer tokens.
        """
        self.select = select
        self.window = window
        self.tokens_per_frame = tokens_per_frame
        self.query_dependent = query_dependent
        self.cuts_frames = cuts_frames
        self._found: dict[tuple[int, bytes], Plan] = {}

    def plan(self, relevance_N: npt.NDArray[np.float32], inside_N: Mask | None, budget_tokens: int) -> Plan:
        """Return the plan of one question, for the frames inside if given, which must be some.

        Raises:
            AnswerError: the budget buys nothing.
        """
        key = (budget_tokens, b"" if inside_N is None else inside_N.tobytes())
        if self.query_dependent or key not in self._found:
            frames = self._frames(relevance_N)
            shown = frames if inside_N is None else frames.only(inside_N)
            made = self.select(shown, budget_tokens=budget_tokens, tokens_per_frame=self.tokens_per_frame)
            self._found[key] = made if self.cuts_frames else whole(made, budget_tokens, self.tokens_per_frame)
        return self._found[key]

    def _frames(self, relevance_N: npt.NDArray[np.float32]) -> SeenFrames:
        return SeenFrames(
            pts_s_N=np.asarray(self.window["pts_s"], np.float64),
            end_s=self.window["end_s"],
            embedding_NE=rows.unpack(self.window["embedding"]),
            relevance_N=relevance_N,
            novelty_N=np.asarray(self.window["novelty"], np.float32),
            slow_N=np.asarray(self.window["slow"], bool),
        )


def whole(plan: Plan, budget_tokens: int, tokens_per_frame: int) -> Plan:
    """Return a plan for a model that shows a frame whole or not at all: what is less than whole is dropped.

    Where nothing would be left, those frames that the plan shows with the most tokens are, at equal distances and as
    many as the budget buys whole.

    Raises:
        AnswerError: it does not buy one.
    """
    planned_N = np.asarray(plan.tokens_N, np.int64)
    shown = np.flatnonzero(planned_N >= tokens_per_frame)
    if not len(shown) and planned_N.any():
        check_buys(budget_tokens, tokens_per_frame, tokens_per_frame)
        largest = np.flatnonzero(planned_N == planned_N.max())
        shown = largest[evenly(len(largest), budget_tokens // tokens_per_frame)]
    tokens_N = np.zeros(len(planned_N), np.int64)
    tokens_N[shown] = tokens_per_frame
    return Plan(plan.route, tuple(tokens_N.tolist()), f"{plan.reason}: {len(shown)} left")
