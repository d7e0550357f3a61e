"""Every setting of a job: one frozen tree, units in the names, ranges in the types, unknown keys refused.

The command line is derived from these classes; a field's docstring is its help text.
"""

import hashlib
import importlib.util
import json
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter
from pydantic.dataclasses import dataclass

from pipeline.errors import ConfigError

STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)
Positive = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]

MAX_FRAMES = 4096
"""Frames of one window at most: its pixels and its smoothing are in one process's memory."""


@dataclass(frozen=True, kw_only=True, slots=True, config=STRICT)
class PoolConfig:
    """How many processes of one stage may hold a model at the same time."""

    min_size: Count = 1
    """Actors kept alive while the stage has work; the job does not start before these can be placed."""
    max_size: Count = 1
    """Actors the pool may grow to when work piles up."""
    num_cpus: Positive = 0.4
    """CPUs reserved per actor where no GPU is used (a reservation, not a limit)."""
    num_gpus: Annotated[float, Field(gt=0)] = 1.0
    """GPUs reserved per actor where GPUs are used; fractions let two small models share one."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto = GPUs that the cluster has or its autoscaler may start, for models that use one; else CPUs. A scorer that
    uses none needs no actors then: tasks that decode score, too. cpu = actors on CPUs."""

    def __post_init__(self) -> None:
        """Check the bounds against each other."""
        if self.max_size < self.min_size:
            msg = (
                f"pool max_size {self.max_size} is below min_size {self.min_size}; raise max_size"
                " or lower min_size"
            )
            raise ConfigError(msg)


@dataclass(frozen=True, kw_only=True, slots=True, config=STRICT)
class WindowConfig:
    """How a video is cut into the units of scheduling, retry and commit."""

    length_s: Positive = 300.0
    """Seconds of one window; a window's frames are in memory at the same time."""
    sample_fps: Annotated[float, Field(gt=0, le=60)] = 1.0
    """Frames looked at per second of video; more finds shorter events and costs as much more."""
    sampler: str = "rate"
    """Entry of SAMPLERS, or `package.module:function`."""
    min_fps: Annotated[float, Field(gt=0, le=60)] = 0.2
    """Fewest frames per second that samplers adaptive and scenes hand on; what is shorter than its inverse may be
    missed."""
    wake_change: Fraction = 0.012
    """Mean luma change between two frames from which sampler adaptive looks at every frame again."""
    still_change: Fraction = 0.006
    """Mean luma change below which sampler adaptive takes the picture to stand still."""
    count: Annotated[int, Field(ge=1, le=MAX_FRAMES)] = 32
    """Frames of a window that sampler count looks at."""

    def __post_init__(self) -> None:
        """Bound what one window holds in memory, and check what its sampler needs."""
        # a tail shorter than a sampling period is taken in, and may hold one more
        if self.length_s * self.sample_fps > MAX_FRAMES - 1:
            msg = (
                f"a window of {self.length_s:g} s at {self.sample_fps:g} frames per second holds"
                f" {self.length_s * self.sample_fps:.0f} frames, more than {MAX_FRAMES} with the video's tail; make"
                " --window.length-s shorter"
            )
            raise ConfigError(msg)
        if self.sampler in ("adaptive", "scenes") and self.min_fps > self.sample_fps:
            msg = (
                f"sampler {self.sampler!r} is to hand on at least {self.min_fps:g} frames per second and look at"
                f" {self.sample_fps:g}; lower --window.min-fps or raise --window.sample-fps"
            )
            raise ConfigError(msg)
        if self.still_change > self.wake_change:
            msg = (
                f"--window.still-change {self.still_change:g} is above --window.wake-change {self.wake_change:g}: a"
                " picture would stand still and change at once; swap them"
            )
            raise ConfigError(msg)
        if self.sampler == "scenes" and importlib.util.find_spec("scenedetect") is None:
            msg = "sampler 'scenes' needs the package scenedetect, which is not here; pip install 'reelsift[scenes]'"
            raise ConfigError(msg)


@dataclass(frozen=True, kw_only=True, slots=True, config=STRICT)
class DecodeConfig:
    """How pictures are read out of a file."""

    decoder: str = "pyav"
    """Entry of DECODERS, or `package.module:function`."""
    policy: Literal["auto", "exact", "near", "keyframe"] = "exact"
    """Which picture may stand for a sampled time: exact = the one shown then; near = the cheapest to decode within
    near-s of it; keyframe = the last key picture before; auto = keyframe for files with key pictures at least as
    often as samples, else exact. Evidence is always exact."""
    near_s: Annotated[float, Field(gt=0, le=60)] = 0.1
    """Seconds that policy near may be off."""
    memory_mb: Annotated[int, Field(ge=128)] = 1024
    """Memory of the process that decodes; a file that needs more fails."""
    timeout_s: Positive = 600.0
    """Seconds that one window may take to decode, waiting for its bytes not counted; a file that needs more fails."""


@dataclass(frozen=True, kw_only=True, slots=True, config=STRICT)
class ScoreConfig:
    """How relevant each frame is to each question."""

    scorer: str = "auto"
    """Entry of FRAME_SCORERS, or `package.module:entry`; auto = embedded without a model, else dual-encoder."""
    proposer: str = "auto"
    """Which entry proposes frames to a scorer that runs inside the language model (early-layers, trained)."""
    candidates: Annotated[int, Field(ge=1, le=MAX_FRAMES)] = 32
    """Frames of one (window, query) that such a scorer looks at."""
    model: str = ""
    """Folder or hub id of a CLIP- or SigLIP-like dual encoder; empty = the embedded default."""
    revision: str = ""
    """Commit or tag of a hub model; pin it to make runs repeatable."""
    smooth_s: Annotated[float, Field(ge=0)] = 3.0
    """Seconds to either side over which relevance is smoothed, among frames that look alike; 0 = none."""
    threshold: Fraction = 0.5
    """Relevance from which a frame belongs to a span (`find`) or speaks for yes (`flag`)."""
    pool: PoolConfig = PoolConfig()


@dataclass(frozen=True, kw_only=True, slots=True, config=STRICT)
class PlanConfig:
    """How the visual tokens of one (window, query) are spent."""

    router: str = "rules"
    """Entry of ROUTERS, or `package.module:function`."""
    selector: str = "relevance"
    """Entry of FRAME_SELECTORS, or `package.module:function`: who spends the budget on which frames. Scales and routes
    are for `relevance`."""
    budget_tokens: Count = 8192
    """Visual tokens one (window, query) may spend when the query names no budget of its own."""
    scale_global: Count = 2
    """Token divisor of every frame on the global route (VideoRouter s_g)."""
    scale_relevant: Count = 1
    """Token divisor of relevant frames on the fragment route (VideoRouter s_1)."""
    scale_background: Count = 4
    """Token divisor of the other frames on the fragment route (VideoRouter s_0)."""
    early_layers: Count = 4
    """Decoder layers of the language model that routers and scorers inside it go through (VideoRouter k)."""
    early_tokens: Count = 64
    """Most visual tokens of a frame that these layers see."""
    heads: str = ""
    """Folder written by `reelsift train routers`, for router `trained` and scorer `trained`."""


@dataclass(frozen=True, kw_only=True, slots=True, config=STRICT)
class CompressConfig:
    """How a frame's visual tokens are brought down to its plan."""

    compressor: str = "uniform"
    """Entry of TOKEN_COMPRESSORS, or `package.module:function`."""
    prune_ratio: Fraction = 0.7
    """Share of a comparable frame's tokens that temporal methods throw away (DyCoke K)."""
    threshold: Annotated[float, Field(ge=-1, le=1)] | None = None
    """Likeness (cosine) above which temporal methods throw a token away instead: the number left follows the picture.
    `dtd-pixels` throws away what changed by less: mean difference of a patch's pixels, 0 to 1."""
    scope: Literal["video", "frame"] = "video"
    """Whether prune-ratio is of all comparable tokens, so that still stretches lose more, or of each frame's own."""
    policy: str = ""
    """Folder written by `reelsift train policy`, for compressor `policy`; empty = `stream-ttm`'s rule at .9."""

    def __post_init__(self) -> None:
        """Refuse a policy that nobody would ask."""
        if self.policy and self.compressor != "policy" and ":" not in self.compressor:
            msg = (
                f"--compress.policy {self.policy!r} has no effect on compressor {self.compressor!r}; set"
                " --compress.compressor policy, or leave it out"
            )
            raise ConfigError(msg)


@dataclass(frozen=True, kw_only=True, slots=True, config=STRICT)
class AnswerConfig:
    """Who answers, and how long it may talk."""

    model: str = ""
    """Folder or hub id of a video language model; empty = answer from relevance alone (no `ask`)."""
    revision: str = ""
    """Commit or tag of a hub model; pin it to make runs repeatable."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number format of the weights; auto = bfloat16 where the device computes in it."""
    frame_px: Annotated[int, Field(ge=16, le=4096)] = 448
    """Longest side of the evidence frames handed to the model."""
    max_new_tokens: Count = 64
    """Longest free-text answer, in text tokens."""
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Strings that end a free-text answer; they are not part of it."""
    remove_prior: bool = False
    """Divide the likelihoods of `flag` and `choose` by those without a video, so that only what is seen counts."""
    confirm_find: bool = False
    """Let the model confirm or reject each span of `find`, as a `flag` on the span's own frames."""
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2"] = "auto"
    """Attention of the vision tower; auto = flash_attention_2 where it is installed and runs, else sdpa."""
    quantize: Literal["none", "int8", "int4"] = "none"
    """Bits of the language model's weights, by the library's own quantisation: smaller, less exact, slower on a CPU."""
    compile: bool = False
    """Compile the vision tower: minutes at the start of each actor, faster afterwards."""
    memory_gb: Annotated[float, Field(ge=0)] = 0.0
    """Memory that model and work of one actor may take, in 10^9 bytes; 0 = what the device has to spare as it loads."""
    windows_per_call: Annotated[int, Field(ge=1, le=256)] = 4
    """Windows whose answers are decoded side by side, memory permitting."""
    pool: PoolConfig = PoolConfig()


@dataclass(frozen=True, kw_only=True, slots=True, config=STRICT)
class SinkConfig:
    """How results reach the output folder."""

    windows_per_part: Count = 32
    """Windows written and committed together; fewer lose less in a crash and make more files. A run of more than
    10,000 such parts commits more windows at a time, as far as part-mb allows."""
    part_mb: Annotated[int, Field(ge=1, le=4096)] = 128
    """Size in 2^20 bytes that a file grows to: a larger part is cut in several, files of less than half are merged."""
    compact_files: Annotated[int, Field(ge=0)] = 100
    """Small files from which a run that ends well merges those of all finished runs; 0 = never, `reelsift compact`
    does it."""


@dataclass(frozen=True, kw_only=True, slots=True, config=STRICT)
class ClusterConfig:
    """How the job uses the machines of a cluster."""

    placement: Literal["auto", "labels", "none"] = "auto"
    """Machines by their label role: models on gpu, all else on decode. auto = where the cluster has or can have such;
    labels = always; none = anywhere."""
    sized_for: tuple[Annotated[str, Field(pattern=r"^\w+:\d+(\.\d+)? CPU(, \d+(\.\d+)? GPU)?$")], ...] = ()
    """Machines that these settings were sized for, as `gpu:8 CPU, 1 GPU`: a cluster without such ones is warned of."""
    on_demand_after_s: Annotated[float, Field(ge=0, le=1200)] = 600.0
    """Seconds that the cloud may refuse spot machines before an on-demand one is asked for in their place, where the
    cluster file has such types by their label market; 0 = never. A run without progress ends after 1,800."""


@dataclass(frozen=True, kw_only=True, slots=True, config=STRICT)
class JobConfig:
    """Settings of the main job."""

    window: WindowConfig = WindowConfig()
    decode: DecodeConfig = DecodeConfig()
    score: ScoreConfig = ScoreConfig()
    plan: PlanConfig = PlanConfig()
    compress: CompressConfig = CompressConfig()
    answer: AnswerConfig = AnswerConfig()
    sink: SinkConfig = SinkConfig()
    cluster: ClusterConfig = ClusterConfig()
    aggregator: str = "strongest-window"
    """Entry of AGGREGATORS, or `package.module:function`: how a video's windows become its verdict."""
    max_failed_fraction: Fraction = 1.0
    """Share of videos, of answers or of verdicts that may fail before the job ends with exit code 1."""

    def __post_init__(self) -> None:
        """Check the stages against each other."""
        scales = (self.plan.scale_global, self.plan.scale_relevant, self.plan.scale_background)
        scaled = self.plan.selector == "relevance" and scales != (1, 1, 1)
        if self.compress.compressor == "none" and scaled:
            msg = (
                f"compressor 'none' shows frames whole or not at all, but the plan shrinks them (scales {scales});"
                " set --plan.scale-global 1 --plan.scale-background 1, or another --compress.compressor"
            )
            raise ConfigError(msg)


NOT_DECIDING = {
    *("sink", "cluster", "max_failed_fraction", "score.pool", "answer.pool"),
    *("decode.memory_mb", "decode.timeout_s", "answer.memory_gb", "answer.windows_per_call"),
}
INSIDE = {"plan.heads", "compress.policy"}


def dump(config: JobConfig) -> dict[str, Any]:
    """Return the whole tree as plain JSON values."""
    return TypeAdapter(JobConfig).dump_python(config, mode="json")


def load(values: dict[str, Any]) -> JobConfig:
    """Return the tree that `dump` wrote.

    Raises:
        ConfigError: a key is unknown or a value is out of range.
    """
    try:
        return TypeAdapter(JobConfig).validate_python(values)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def fingerprint(config: JobConfig) -> str:
    """Return 12 hex digits over the settings that change results."""
    text = json.dumps(deciding(dump(config)), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def deciding(values: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a dump that change results: not pools, placement, part sizes, tolerances.

    Of the folders in INSIDE what is in them counts, not their paths: a digest is in the models' names.
    """
    dropped = NOT_DECIDING | INSIDE
    return {
        name: {key: value for key, value in stage.items() if f"{name}.{key}" not in dropped}
        if isinstance(stage, dict)
        else stage
        for name, stage in values.items()
        if name not in dropped
    }


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """Return one `path: old -> new` line per setting that differs between two dumps."""
    lines: list[str] = []
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            lines += differences(before, after, f"{prefix}{key}.")  # pyright: ignore[reportUnknownArgumentType]
        elif before != after:
            lines.append(f"{prefix}{key}: {before!r} -> {after!r}")
    return lines
