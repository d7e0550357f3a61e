"""Who owns weights: contracts of frame scorers, routers and answerers.

A table holds a maker, called in the actor's constructor; it imports its heavy library inside. `describe`
runs on the driver: it reads configuration, never weights.

Shape letters: N frames, H W pixels, E embedding, P texts, Q queries.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
import numpy.typing as npt

from pipeline.budget import Plan
from pipeline.config import AnswerConfig, CompressConfig, JobConfig, ScoreConfig
from pipeline.frames import Frames, FrameSize
from pipeline.queries import Query
from pipeline.route import RouteManyFn

if TYPE_CHECKING:
    from actors.models.video_llm import FrameFeatures

Device = Literal["cpu", "cuda"]
Floats = npt.NDArray[np.float32]


class FrameScorer(Protocol):
    """How relevant is a frame to a text. Query-independent work is done once per frame, in `embed_frames`."""

    def embed_texts(self, texts: Sequence[str]) -> Floats:
        """Return [P, E'] float32, one row per text."""
        ...

    def embed_frames(self, data_NHWC: npt.NDArray[np.uint8]) -> Floats:
        """Return [N, E] float32; a frame's row does not depend on its neighbours (on a GPU, up to rounding)."""
        ...

    def relevance(self, embeddings_NE: Floats, texts_PE: Floats) -> Floats:
        """Return [N, P] float32 in [0, 1]; 0.5 is the scorer's own best guess of the yes/no border."""
        ...


@dataclass(frozen=True, slots=True)
class ScorerFacts:
    """What the driver must know of a scorer before a weight is loaded."""

    name: str
    """Goes to the rows: table entry, model and revision in one line."""
    frame_size: FrameSize
    """Size the frames are decoded at."""
    uses_gpu: bool = True
    """Whether a GPU makes it faster; the small CPU models leave GPUs to others. One that says no is loaded by every
    process that decodes, and sees windows in no order, unless `--score.pool.device cpu` asks for a pool."""


@dataclass(frozen=True, slots=True)
class ScorerEntry:
    """One line of FRAME_SCORERS.

    An entry that refines is the second half of a cascade: it looks at frames inside the answerer's language model, and
    `describe` and `make` are those of the scorer that proposes frames to it.
    """

    describe: Callable[[ScoreConfig], ScorerFacts]
    make: Callable[[ScoreConfig, Device], FrameScorer]
    refine: "RefineFn | None" = None
    """Makes the second half beside a loaded answerer."""
    describe_refine: "DescribeRefineFn | None" = None
    """Returns its name for the rows; raises ConfigError or ModelError where it does not fit the job."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One query put to one window."""

    query: Query
    plan: Plan
    relevance_N: Floats
    """Relevance of every sampled frame to the query's text, smoothed."""
    choices_NC: Floats
    """Relevance of every sampled frame to each choice; no columns unless the query has choices."""
    threshold: float
    """Relevance from which a frame counts."""
    candidates: Sequence[int] = ()
    """Which sampled frames an image router is to look at before tokens are spent; none = the plan is final."""
    refined_N: Floats | None = None
    """What it made of them, 0 for the frames it did not see; None = it was not asked."""


@dataclass(frozen=True, slots=True)
class WindowView:
    """What an answerer sees of one window."""

    start_s: float
    end_s: float
    pts_s_N: npt.NDArray[np.float64]
    """Times of all sampled frames."""
    evidence_index: Sequence[int]
    """Which sampled frames `evidence` shows; empty for answerers that need no pixels."""
    evidence: Frames | None
    """The evidence frames at the answerer's size."""


@dataclass(frozen=True, slots=True)
class Request:
    """One window and every query that is put to it."""

    window: WindowView
    asks: Sequence[Ask]


@dataclass(frozen=True, slots=True)
class Cost:
    """What was computed for one answer and for none before it: sums over answers are what was really computed."""

    vision_frames: int = 0
    """Frames that went through the vision tower."""
    prefills: int = 0
    """Visual prompt heads that were prefilled; questions with the same plan share one."""
    prefill_tokens: int = 0
    """Prompt tokens, visual ones included, that went through the language model."""
    decode_steps: int = 0
    """Steps of decoding this answer took part in; other answers may have shared them."""
    decode_passes: int = 0
    """Of these, steps that are not counted for another answer already."""
    oom_halvings: int = 0
    """Batches that ran out of memory and were run again in halves."""
    router_tokens: int = 0
    """Tokens that went through the first layers of the language model for an image router."""

    def __add__(self, other: "Cost") -> "Cost":
        """Return what two computations took together."""
        return Cost(*(getattr(self, one.name) + getattr(other, one.name) for one in fields(self)))


@dataclass(frozen=True, slots=True)
class Answer:
    """One query answered on one window; `error` set = refused, with the reason."""

    answer: str
    confidence: float
    """In [0, 1]; docs/answers.md says what it means for each kind."""
    spans: Sequence[tuple[float, float, float]] = ()
    """Half-open spans (start_s, end_s, score), best first."""
    evidence: Sequence[tuple[float, float, int]] = ()
    """Frames the answer rests on (pts_s, score, visual tokens spent), in time order."""
    tokens_dense: int = 0
    """Visual tokens that all sampled frames at full resolution would have cost."""
    tokens_used: int = 0
    """Visual tokens really spent."""
    cost: Cost = Cost()
    error: str = ""
    """Why there is no answer; the row's error_message."""
    plan: Plan | None = None
    """What an image router made of the ask's plan; None = that one stands."""
    judged: Sequence[tuple[float, float, int]] = ()
    """Frames it looked at for that (pts_s, its probability, visual tokens spent), in time order."""


class ImageRouter(Protocol):
    """How much does a frame matter to a question, seen inside the answerer's language model."""

    @property
    def num_tokens(self) -> int:
        """Tokens that went through the model for it so far."""
        ...

    @property
    def work_bytes(self) -> int:
        """Memory it takes at most beside the frames' features, for a question of ordinary length."""
        ...

    def relevance(
        self, features: "FrameFeatures", index: Sequence[int], times_s: Sequence[float], text: str
    ) -> Floats:
        """Return [N] float32 in [0, 1], 0.5 = the border, for N frames: which of the features, and when shown."""
        ...


class Answerer(Protocol):
    """Answers every query of some windows; never raises for a bad query or window, returns its `error` instead."""

    def answer(self, requests: Sequence[Request]) -> list[list[Answer]]:
        """Return, per request, one Answer per ask, in order."""
        ...


@dataclass(frozen=True, slots=True)
class AnswererFacts:
    """What the driver must know of an answerer before a weight is loaded."""

    name: str
    """Goes to the rows as `model`; empty when no language model is named: there is nothing to load then, and the
    answerer is made anew for every part."""
    revision: str
    tokens_per_frame: int
    """Visual tokens of one frame at full resolution; 0 = needs no pixels, spends no tokens."""
    frame_size: FrameSize | None
    """Size the evidence frames are decoded at; None = needs no pixels."""
    cuts_frames: bool = True
    """Whether a frame may be shown with fewer tokens than tokens_per_frame; if not, whole or not at all."""


@dataclass(frozen=True, slots=True)
class AnswererEntry:
    """One line of ANSWERERS."""

    describe: Callable[[AnswerConfig], AnswererFacts]
    make: Callable[[AnswerConfig, CompressConfig, Device], Answerer]


@dataclass(frozen=True, slots=True)
class RouterFacts:
    """What the driver must know of a router before a weight is loaded."""

    name: str
    """Goes to the run's records: table entry, and what state of it where it was trained."""
    needs_model: bool = False
    """Whether it holds the answerer's language model: then it runs once per run, in a task of its own."""


@dataclass(frozen=True, slots=True)
class RouterEntry:
    """One line of ROUTERS."""

    describe: Callable[[JobConfig, AnswererFacts], RouterFacts]
    """Raises ConfigError or ModelError where the router does not fit the job."""
    make: Callable[[JobConfig, Device], RouteManyFn]


RefineFn = Callable[[JobConfig, Answerer], ImageRouter]
DescribeRefineFn = Callable[[JobConfig, AnswererFacts], str]
