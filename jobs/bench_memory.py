"""Does the memory estimator foresee what an answerer takes, and does a budget hold?

`measure_shape` answers a mix of questions with a model of a published class and compares the largest sum that was
reckoned (actors/models/memory.py) with the largest that was taken. `measure_budget` answers under a budget far below
what all questions together would take, and once more without one. Each run has a process of its own: memory that an
earlier one gave back, and the allocator kept, would be counted otherwise.

On a CPU "taken" is the largest resident memory while answers are made, above that of the process without the model.
That process has everything imported and has answered with a small model of the same class, so that what libraries
set up once is not taken for the model's. On a GPU "taken" is what torch had allocated at most.
"""

import json
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from actors.models import Answer, Device, Request
from jobs.bench_models import build_shape
from jobs.bench_shapes import SHAPES, Shape, find_shape
from jobs.bench_windows import draw_queries, make_windows, request
from pipeline.errors import AnswerError
from pipeline.queries import Kind

if TYPE_CHECKING:
    from actors.models.prompting import Preprocessing

Dtype = Literal["float32", "bfloat16"]
MEASURED_SHAPES = tuple(
    f"{family}-{size}" for family in ("internvl", "smolvlm", "qwen2_5_vl") for size in ("30m", "120m", "350m")
)
BUDGET_GB = 1.5
ROOMY_GB = 20.0


@dataclass(frozen=True)
class Run:
    """What one process is to answer. Weights are random: only time, memory and equality mean anything."""

    model: str
    """Folder of the model."""
    small: str
    """Folder of a small model of the same class, which answers first; see the module."""
    frame_px: int
    num_windows: int
    num_frames: int
    """Per window."""
    num_questions: int
    """Per window."""
    kinds: tuple[Kind, ...] = ("flag", "choose", "ask")
    max_new_tokens: int = 16
    dtype: Dtype = "float32"
    memory_gb: float = ROOMY_GB
    device: Device = "cpu"


def measure_shape(
    name: str, folder: Path, dtype: Dtype = "float32", device: Device = "cpu"
) -> dict[str, Any]:
    """Return what was reckoned and what was taken when a shape answers two windows of eight frames.

    Raises:
        ConfigError: no such shape.
        AnswerError: the run failed.
    """
    model, small = build_shape(name, folder / f"{name}-{dtype}", dtype), build_small(name, folder, dtype)
    run = Run(str(model), str(small), find_shape(name).vision.frame_px, 2, 8, 6, dtype=dtype, device=device)
    return {"shape": name, "dtype": dtype, **compare(answer_apart(run))}


def measure_budget(folder: Path) -> dict[str, Any]:
    """Return what 48 windows with prompts of about 1,000 tokens take under a small budget, and under none.

    Raises:
        AnswerError: a run failed.
    """
    run = many_keys(folder)
    tight, roomy = (answer_apart(replace(run, memory_gb=memory_gb)) for memory_gb in (BUDGET_GB, ROOMY_GB))
    return {
        "budget_bytes": int(BUDGET_GB * 1e9),
        "tight": compare(tight),
        "roomy": compare(roomy),
        "same_answers": tight["answers"] == roomy["answers"],
        "refused": sum(bool(answer["error"]) for answer in tight["answers"]),
        "holds": tight["taken_bytes"] <= BUDGET_GB * 1e9,
    }


def compare(found: dict[str, Any]) -> dict[str, Any]:
    """Return the figures of a run with their errors: of everything, and of all but the weights."""
    reckoned, taken, weights = (found[f"{name}_bytes"] for name in ("reckoned", "taken", "weights"))
    return {
        **{name: value for name, value in found.items() if name != "answers"},
        "error": reckoned / taken - 1,
        "work_error": (reckoned - weights) / (taken - weights) - 1,
    }


def build_small(name: str, folder: Path, dtype: str) -> Path:
    """Save a model of a shape's class, but of hardly any size, and return its folder."""
    shape, tiny = find_shape(name), SHAPES["tiny"]
    vision = replace(shape.vision, width=tiny.vision.width, layers=2, heads=2, mlp=64)
    with _extra_shape("small", replace(shape, vision=vision, text=replace(tiny.text, tied=shape.text.tied))):
        return build_shape("small", folder / f"small-{shape.family}-{dtype}", dtype)


def many_keys(folder: Path, layers: int = 64, num_windows: int = 48, num_frames: int = 15) -> Run:
    """Return a run whose keys and values, 2 kB a token and layer, outgrow all else; its model is made in a folder."""
    shape = SHAPES["internvl-30m"]
    vision = replace(shape.vision, width=64, layers=2, heads=2, mlp=128)
    text = replace(shape.text, width=256, layers=layers, heads=8, kv_heads=8, mlp=256, vocabulary=2048)
    with _extra_shape("many-keys", replace(shape, vision=vision, text=text)):
        model = build_shape("many-keys", folder / f"many-keys-{layers}", "float32")
    small = build_small("internvl-30m", folder, "float32")
    return Run(
        str(model), str(small), vision.frame_px, num_windows, num_frames, 1, kinds=("ask",), max_new_tokens=8
    )


@contextmanager
def _extra_shape(name: str, shape: Shape) -> Generator[None]:
    """Let `build_shape` know one more shape for the time of a block."""
    SHAPES[name] = shape
    try:
        yield
    finally:
        del SHAPES[name]


# --- one run, in a process of its own --------------------------------------------------------------------------


def answer_apart(run: Run) -> dict[str, Any]:
    """Answer in a new process and return what `answer` says there.

    Raises:
        AnswerError: the process failed.
    """
    command = [sys.executable, "-m", "jobs.bench_memory", json.dumps(asdict(run))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        msg = f"{run}: exit code {done.returncode}, {done.stderr.strip().splitlines()[-1:]}; expected 0"
        raise AnswerError(msg)
    return json.loads(done.stdout.splitlines()[-1])


def answer(run: Run) -> dict[str, Any]:
    """Load, answer, and return what was reckoned, what was taken, and the answers."""
    from actors.models import video_llm
    from actors.models.batching import Batch
    from actors.models.prompting import read_parts
    from pipeline.config import AnswerConfig, CompressConfig

    def config_of(model: str) -> AnswerConfig:
        return AnswerConfig(
            model=model, frame_px=run.frame_px, dtype=run.dtype, max_new_tokens=run.max_new_tokens,
            memory_gb=run.memory_gb,
        )  # fmt: skip

    def load(model: str) -> video_llm.VideoLlm:
        llm = video_llm.make(config_of(model), CompressConfig(), run.device)
        assert isinstance(llm, video_llm.VideoLlm)
        return llm

    small = load(run.small)
    small.answer(_requests(replace(run, num_windows=1, num_frames=2), small.parts))
    del small
    requests = _requests(run, read_parts(config_of(run.model), weights=False))
    peak = _GpuPeak() if run.device == "cuda" else _HostPeak()
    llm = load(run.model)
    peak.restart()
    batch = Batch(llm, requests)
    answers = [one for window in batch.run() for one in window]
    return {
        "reckoned_bytes": batch.peak_bytes,
        "taken_bytes": peak.read(),
        "weights_bytes": llm.memory.weights_bytes,
        "answers": [_plain(one) for one in answers],
    }


def _requests(run: Run, parts: "Preprocessing") -> list[Request]:
    windows = make_windows(None, run.num_windows, run.num_frames, parts.frame_size)
    queries = draw_queries(run.num_questions, run.kinds)
    return [request(window, queries, parts.tokens_per_frame) for window in windows]


def _plain(answer: Answer) -> dict[str, Any]:
    return {"answer": answer.answer, "error": answer.error}


class _HostPeak:
    """The largest resident memory of this process, above what it had when this was made."""

    def __init__(self) -> None:
        self._before = _status_bytes("VmRSS")

    def restart(self) -> None:
        """Count from now on."""
        Path("/proc/self/clear_refs").write_text("5")

    def read(self) -> int:
        return _status_bytes("VmHWM") - self._before


class _GpuPeak:
    """The most that torch had allocated on the GPU."""

    def restart(self) -> None:
        """Count from now on."""
        import torch

        torch.cuda.reset_peak_memory_stats()

    def read(self) -> int:
        import torch

        return torch.cuda.max_memory_allocated()


def _status_bytes(name: str) -> int:
    """Return a figure of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    [value] = [line.split()[1] for line in lines if line.startswith(f"{name}:")]
    return int(value) * 1024


if __name__ == "__main__":
    settings = json.loads(sys.argv[1])
    print(json.dumps(answer(Run(**settings))))
