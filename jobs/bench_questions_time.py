"""Questions to one window: are they answered as if each were asked alone, and where does the time go?"""

import random
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from actors.models import Answer, Request
from actors.models.video_llm import FrameFeatures, VideoLlm
from pipeline.queries import Query

MOST_LOG_ERROR = 1e-4
"""How far a label's mean log-probability may move when other questions are asked too, in float32."""
STAGES = ("encode", "reduce", "assemble", "show", "put")
"""Methods of the answerer that are timed; decoding is what is left."""
Method = Callable[..., Any]
Key = tuple[str, int]
"""(Kinds, number) of questions."""


@contextmanager
def replaced(owner: object, name: str, wrap: Callable[[Method], Method]) -> Generator[None]:
    """Wrap a method of one object for the time of a block; it may be wrapped already."""
    own = dict(vars(owner))
    setattr(owner, name, wrap(getattr(owner, name)))
    try:
        yield
    finally:
        delattr(owner, name)
        if name in own:
            setattr(owner, name, own[name])


# --- equality ------------------------------------------------------------------------------------------------


def compare(llm: VideoLlm, request: Request) -> dict[str, Any]:
    """Ask all questions of a window together, then one at a time, and say how far the answers are apart.

    Asked alone, a question finds the frames' features kept: they are those of the same pixels, in the same order.
    """
    kept: dict[bytes, FrameFeatures] = {}
    heard: defaultdict[str, list[torch.Tensor]] = defaultdict(list)

    def keep(encode: Method) -> Method:
        def encode_once(data_NHWC: npt.NDArray[np.uint8], *more: int) -> FrameFeatures:
            key = data_NHWC.tobytes()
            if key not in kept:
                kept[key] = encode(data_NHWC, *more)
            return kept[key]

        return encode_once

    def listen(chances: Method) -> Method:
        def note(query: Query, label_logs: torch.Tensor) -> torch.Tensor:
            heard[query.query_id].append(label_logs)
            return chances(query, label_logs)

        return note

    with replaced(llm, "encode", keep), replaced(llm, "chances", listen):
        [together] = llm.answer([request])
        alone = [llm.answer([Request(request.window, [ask])])[0][0] for ask in request.asks]
    apart = [float((logs[0] - logs[1]).abs().max()) for logs in heard.values()]
    pairs = list(zip(together, alone, strict=True))
    same = sum((one.answer, one.error) == (other.answer, other.error) for one, other in pairs)
    return {
        "part": "equality",
        "questions": len(pairs),
        "same_answers": same,
        "refused": sum(bool(one.error) for one in together),
        "label_log_error": max(apart, default=0.0),
        "equal": same == len(pairs) and max(apart, default=0.0) <= MOST_LOG_ERROR,
    }


# --- time ----------------------------------------------------------------------------------------------------


def time_each(llm: VideoLlm, requests: Mapping[Key, Request], repeats: int) -> list[dict[str, Any]]:
    """Return a row per request: median seconds, in all and by stage, and what was computed.

    The largest is asked once before, unmeasured; then all of them, in an order that changes with every repeat.
    """
    order = list(requests)
    llm.answer([requests[max(order, key=lambda key: key[1])]])
    generator = random.Random(0)
    runs: defaultdict[Key, list[dict[str, float]]] = defaultdict(list)
    costs: dict[Key, dict[str, int]] = {}
    for _ in range(repeats):
        generator.shuffle(order)
        for key in order:
            seconds, answers = _time(llm, requests[key])
            runs[key].append(seconds)
            costs[key] = _sum_costs(answers)
            print(f"{key[1]} questions, {key[0]}: {seconds['wall']:.2f} s", file=sys.stderr)
    found: list[dict[str, Any]] = []
    for key in requests:
        stages_s = {name: round(median(run[name] for run in runs[key]), 3) for name in runs[key][0]}
        times = {"wall_s": stages_s.pop("wall"), "cpu_s": stages_s.pop("cpu")}
        row = {"part": "questions", "kinds": key[0], "questions": key[1]}
        found.append({**row, **times, **costs[key], "stages_s": stages_s})
    return found


def _time(llm: VideoLlm, request: Request) -> tuple[dict[str, float], list[Answer]]:
    """Return the seconds that a request took, by stage, as `wall` and as `cpu`, and its answers."""
    with clocked(llm) as seconds:
        started, cpu = time.perf_counter(), time.process_time()
        [answers] = llm.answer([request])
        wall_s, cpu_s = time.perf_counter() - started, time.process_time() - cpu
    return {**seconds, "decode": wall_s - sum(seconds.values()), "wall": wall_s, "cpu": cpu_s}, answers


@contextmanager
def clocked(llm: VideoLlm) -> Generator[dict[str, float]]:
    """Yield seconds by stage, which fill up while the answerer works in the block."""
    seconds: dict[str, float] = dict.fromkeys(STAGES, 0.0)

    def clock(stage: str) -> Callable[[Method], Method]:
        def wrap(method: Method) -> Method:
            def timed(*args: Any, **more: Any) -> Any:
                synchronize(llm.model.device)
                started = time.perf_counter()
                result = method(*args, **more)
                synchronize(llm.model.device)
                seconds[stage] += time.perf_counter() - started
                return result

            return timed

        return wrap

    with (
        replaced(llm, "encode", clock("encode")),
        replaced(llm, "reduce", clock("reduce")),
        replaced(llm, "assemble", clock("assemble")),
        replaced(llm.language, "show", clock("show")),
        replaced(llm.language, "put", clock("put")),
    ):
        yield seconds


def synchronize(device: torch.device) -> None:
    """Wait for a GPU to finish its work; a CPU has finished."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _sum_costs(answers: Sequence[Answer]) -> dict[str, int]:
    """Return what was computed for all answers."""
    costs = [asdict(answer.cost) for answer in answers]
    return {name: sum(cost[name] for cost in costs) for name in costs[0]}
