"""Plug-ins as somebody else's package would bring them, named by import path; each leaves a mark in the results."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

from actors.models import RouterEntry, RouterFacts, ScorerEntry, ScorerFacts
from jobs.paced_scorer import PER_FRAME_S
from pipeline import reduce
from pipeline.config import CompressConfig
from pipeline.decode import open_pyav
from pipeline.frames import FrameSize, LookFn, Policy, Shot
from pipeline.route import Route
from pipeline.rows import Row
from pipeline.tokens import VisualTokens, take


@contextmanager
def white_frames(file: BinaryIO, name: str) -> Iterator[LookFn]:
    """Give the frames at their right times, all white."""
    with open_pyav(file, name) as look:

        def look_white(times_s: Sequence[float], size: FrameSize, policy: Policy) -> Iterator[Shot]:
            for sample, picture_HWC in look(times_s, size, policy):
                yield sample, None if picture_HWC is None else np.full_like(picture_HWC, 255)

        yield look_white


def always_global(text: str, kind: str) -> Route:
    """Route every question over the whole window, quarter sure."""
    del text, kind
    return Route("global", 0.25, "always")


def first_tokens(tokens: VisualTokens, plan_T: Sequence[int], settings: CompressConfig) -> VisualTokens:
    """Keep the first token of every frame that may keep any."""
    del settings
    first = [frame * tokens.num_per_frame for frame, planned in enumerate(plan_T) if planned]
    return take(tokens, torch.tensor(first))


def mean_confidence(answers: Sequence[Row]) -> Row:
    """Judge as the default does, with the mean of the windows' confidences."""
    return {
        **reduce.strongest_window(answers),
        "confidence": float(np.mean([row["confidence"] for row in answers])),
    }


class Brightness:
    """A frame is as relevant to any text as it is bright."""

    def embed_texts(self, texts):
        return np.zeros((len(texts), 1), np.float32)

    def embed_frames(self, data_NHWC):
        return data_NHWC.mean(axis=(1, 2, 3), dtype=np.float32)[:, None] / np.float32(255)

    def relevance(self, embeddings_NE, texts_PE):
        return np.repeat(embeddings_NE, len(texts_PE), axis=1)


BRIGHTNESS = ScorerEntry(
    describe=lambda _config: ScorerFacts("brightness", FrameSize(8, 8), uses_gpu=False),
    make=lambda _config, _device: Brightness(),
)


PATIENCE_S = 600
"""How long a scorer of these waits; then its windows fail, which its test sees."""


def wait_until(has_come: Callable[[], bool], otherwise: str, every_s: float = 0.05) -> None:
    """Return once it has come; raise TimeoutError with the message if it has not after PATIENCE_S."""
    deadline = time.monotonic() + PATIENCE_S
    while not has_come():
        if time.monotonic() > deadline:
            raise TimeoutError(otherwise)
        time.sleep(every_s)


class OneByOne(Brightness):
    """Score a window once all windows before it are committed in the output folder that `--score.model` names."""

    def __init__(self, out: str):
        self.out, self.num_scored = Path(out), 0

    def embed_frames(self, data_NHWC):
        wait_until(
            lambda: len(list(self.out.glob("_run/*/commits/answers*.json"))) >= self.num_scored,
            f"{self.num_scored} windows are scored, and not all of them committed",
        )
        self.num_scored += 1
        return super().embed_frames(data_NHWC)


ONE_BY_ONE = ScorerEntry(
    describe=lambda _config: ScorerFacts("one by one", FrameSize(8, 8), uses_gpu=False),
    make=lambda config, _device: OneByOne(config.model),
)


class Held(Brightness):
    """Score nothing before the file is there that `--score.model` names."""

    def __init__(self, file: str):
        self.file = Path(file)

    def embed_frames(self, data_NHWC):
        wait_until(self.file.exists, f"there is no file {self.file}")
        return super().embed_frames(data_NHWC)


HELD = ScorerEntry(
    describe=lambda _config: ScorerFacts("held", FrameSize(8, 8), uses_gpu=False),
    make=lambda config, _device: Held(config.model),
)


def has_two_machines() -> bool:
    """Whether the cluster has two machines with a GPU."""
    import ray

    return sum(node["Alive"] and "GPU" in node["Resources"] for node in ray.nodes()) >= 2


class OnTwoMachines(Brightness):
    """Score nothing before the cluster has two machines with a GPU."""

    def embed_frames(self, data_NHWC):
        wait_until(has_two_machines, "there are no two machines with a GPU", 0.5)
        return super().embed_frames(data_NHWC)


ON_TWO_MACHINES = ScorerEntry(
    describe=lambda _config: ScorerFacts("on two machines", FrameSize(8, 8), uses_gpu=True),
    make=lambda _config, _device: OnTwoMachines(),
)


class SlowOnOne(Brightness):
    """Score as slowly as a large model while the cluster has one machine with a GPU, and at once on two."""

    def embed_frames(self, data_NHWC):
        if not has_two_machines():
            time.sleep(PER_FRAME_S * len(data_NHWC))
        return super().embed_frames(data_NHWC)


SLOW_ON_ONE = ScorerEntry(
    describe=lambda _config: ScorerFacts("slow on one", FrameSize(8, 8), uses_gpu=True),
    make=lambda _config, _device: SlowOnOne(),
)


def _broken_router(_config, _device):
    def route(_asked):
        msg = "by nought"
        raise ZeroDivisionError(msg)

    return route


BROKEN_ROUTER = RouterEntry(
    describe=lambda _config, _facts: RouterFacts("broken", needs_model=True), make=_broken_router
)
