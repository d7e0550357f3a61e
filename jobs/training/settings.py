"""Settings of `reelsift train`: frozen, units in the names, ranges in the types."""

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter
from pydantic.dataclasses import dataclass

from pipeline.config import (
    MAX_FRAMES,
    STRICT,
    AnswerConfig,
    CompressConfig,
    Count,
    DecodeConfig,
    Fraction,
    PlanConfig,
    Positive,
    ScoreConfig,
)
from pipeline.errors import ConfigError

STAGES = ("1", "2", "3")


@dataclass(frozen=True, kw_only=True, slots=True, config=STRICT)
class LabelConfig:
    """How labels are found."""

    answer: AnswerConfig = AnswerConfig()
    plan: PlanConfig = PlanConfig()
    score: ScoreConfig = ScoreConfig()
    compress: CompressConfig = CompressConfig()
    decode: DecodeConfig = DecodeConfig()
    num_frames: Annotated[int, Field(ge=1, le=MAX_FRAMES)] = 32
    """Frames of a video at equal distances; evidence that lies between two of them adds one."""
    min_likelihood: Fraction = 0.5
    """A question counts as answered when the right answer is given, and at least this likely."""
    max_rounds: Annotated[int, Field(ge=1, le=64)] = 8
    """Sets of frames that are taken out, one after the other, until the question cannot be answered any more."""
    evidence: Literal["search", "trust"] = "search"
    """What given evidence intervals are: search = where the search for sufficient frames begins; trust = the relevant
    frames themselves, whatever the model answers with them."""


@dataclass(frozen=True, kw_only=True, slots=True, config=STRICT)
class StageConfig:
    """How one stage of training goes."""

    epochs: Count
    """Times all rows are seen."""
    learning_rate: Positive
    """Of AdamW, constant."""
    batch_rows: Count
    """Rows one worker takes at once; a row of the image head is one question with all its frames."""
    accumulate: Count = 4
    """Batches whose gradients are added up for one step."""


@dataclass(frozen=True, kw_only=True, slots=True, config=STRICT)
class JointConfig:
    """How heads and language model are trained together; the paper adapts all weights, here low-rank ones are added."""

    epochs: Count = 1
    """Times all rows are seen."""
    learning_rate: Positive = 5e-5
    """Of AdamW, constant: ten times the paper's, since far fewer weights move."""
    batch_rows: Count = 4
    """Most questions one worker takes at once; they are about one video, whose frames are encoded once."""
    accumulate: Count = 4
    """Batches whose gradients are added up for one step."""
    lora_rank: Count = 16
    """Rank of what is added to each linear layer of the language model (LoRA, arXiv 2106.09685)."""
    lora_alpha: Positive = 32.0
    """What is added is multiplied by this / lora_rank."""
    budget_tokens: Count = 8192
    """Most visual tokens a question is shown; the budget is drawn between an eighth of what all frames cost and this,
    and buys one whole frame at least."""
    scale_global: Count = 2
    """Token divisor of every frame where the policy is global; see PlanConfig."""
    scale_relevant: Count = 1
    """Token divisor of relevant frames where it is fragment."""
    scale_background: Count = 4
    """Token divisor of the others there."""


@dataclass(frozen=True, kw_only=True, slots=True, config=STRICT)
class RoutersConfig:
    """How heads are trained; the defaults of the stages are the paper's."""

    answer: AnswerConfig = AnswerConfig()
    decode: DecodeConfig = DecodeConfig()
    stages: str = "1,2"
    """Which of 1 (image head), 2 (semantic head) and 3 (both and the language model together), comma between."""
    epochs: Annotated[int, Field(ge=0)] = 0
    """Epochs of every stage; 0 = each stage's own."""
    image: StageConfig = StageConfig(epochs=5, learning_rate=5e-5, batch_rows=16)
    semantic: StageConfig = StageConfig(epochs=2, learning_rate=1e-5, batch_rows=4)
    joint: JointConfig = JointConfig()
    early_layers: Count = 4
    """Decoder layers of the language model that the heads read behind (VideoRouter k)."""
    early_tokens: Count = 64
    """Most visual tokens of a frame that these layers see."""
    num_workers: Count = 2
    """Workers that train side by side."""
    worker_cpus: Positive = 0.4
    """CPUs reserved per worker where no GPU is used (a reservation, not a limit)."""
    dev_share: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the videos that is held back where rows name no split."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of first weights, order of rows and dropout."""
    max_failures: Annotated[int, Field(ge=0)] = 2
    """Times a stage goes on from its newest checkpoint after a worker died."""

    def __post_init__(self) -> None:
        """Check the list of stages."""
        names = self.stages.split(",")
        if sorted(set(names)) != sorted(names) or not set(names) <= set(STAGES):
            msg = f"--stages {self.stages!r}: expected some of 1, 2 and 3, such as 1,2"
            raise ConfigError(msg)


@dataclass(frozen=True, kw_only=True, slots=True, config=STRICT)
class PolicyConfig:
    """How the network that says what to keep of each frame is trained; the model that answers stays as it is."""

    answer: AnswerConfig = AnswerConfig()
    decode: DecodeConfig = DecodeConfig()
    price: Positive = 0.5
    """What all tokens of all frames cost, in the unit of the answers' loss (nats a token): more keeps less."""
    epochs: Count = 3
    """Times all questions are seen."""
    learning_rate: Positive = 1e-2
    """Of AdamW, constant."""
    batch_rows: Count = 4
    """Most questions one worker takes at once; they are about one video, whose frames are encoded once."""
    accumulate: Count = 4
    """Batches whose gradients are added up for one step."""
    num_workers: Count = 2
    """Workers that train side by side."""
    worker_cpus: Positive = 0.4
    """CPUs reserved per worker where no GPU is used (a reservation, not a limit)."""
    dev_share: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the videos that is held back where rows name no split."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of first weights and order of rows."""
    max_failures: Annotated[int, Field(ge=0)] = 2
    """Times the training goes on from its newest checkpoint after a worker died."""


def fingerprint(config: Any, *, without: tuple[str, ...] = ()) -> str:
    """Return 12 hex digits over the settings that change results: no pools, no limits of time and memory.

    Args:
        config: one of the classes above.
        without: settings of it that do not count.
    """
    values: dict[str, Any] = TypeAdapter(type(config)).dump_python(config, mode="json")
    for name in (*without, "worker_cpus", "max_failures"):
        values.pop(name, None)
    limits = {"answer": ("pool", "memory_gb", "windows_per_call"), "score": ("pool",),
              "decode": ("memory_mb", "timeout_s")}  # fmt: skip
    for stage, names in limits.items():
        for name in names:
            values.get(stage, {}).pop(name, None)
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]
