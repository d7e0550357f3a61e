"""How long until the first word, in how much memory, and at what share of the device's speed? Models of random weights.

Time to the first token is that of one window and one question, from decoded frames in memory: pixels prepared on the
CPU, vision tower, routers where the method has some, compression, prompt, prefill, logits. The share is the arithmetic
that vision tower, routers and prefill need (bench_gpu_flops.py), by that time, by the device's dense peak. On a CPU the
same is measured on a tiny model, to see that the command works.
"""

import gc
import json
import re
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, cast

from jobs.bench_gpu_flops import decoder_flops, prefill_flops, vision_flops
from jobs.bench_gpu_report import lines
from jobs.bench_report import write_report
from jobs.bench_shapes import Shape, find_shape
from jobs.command_line import parse, require
from pipeline.errors import ConfigError
from pipeline.queries import Query

if TYPE_CHECKING:
    import torch

    from actors.models import Device, WindowView
    from actors.models.decoding import Question
    from actors.models.token_tree import TokenTree
    from actors.models.video_llm import FrameFeatures, VideoLlm

    Spend = Callable[[FrameFeatures], list[tuple[int, int]]]
    """(Frame, visual tokens) of every frame shown."""

PROG = "reelsift bench gpu"


@dataclass(frozen=True, slots=True)
class Method:
    """How visual tokens are spent."""

    compressor: str
    scale: int = 1
    """By what the plan divides the tokens of every frame; dycoke prunes by its own ratio."""
    routed: tuple[int, int] | None = None
    """VideoRouter's (s_g, s_0): routers look first, and frames differ."""


METHODS = {
    "none": Method("none"),
    "uniform": Method("uniform", scale=2),
    "dycoke": Method("dycoke"),
    "videorouter-2-4": Method("uniform", routed=(2, 4)),
    "videorouter-4-8": Method("uniform", routed=(4, 8)),
}
SETTINGS: "dict[Device, tuple[tuple[str, ...], tuple[int, ...]]]" = {
    "cuda": (("internvl3-1b", "internvl3-8b"), (16, 64, 256)),
    "cpu": (("tiny",), (4, 8)),
}
"""Models and numbers of frames where none are named."""
DENSE_BF16_TFLOPS = {
    "B200": 2250.0, "GH200": 989.0, "H200": 989.0, "H100 PCIe": 756.0, "H100 NVL": 835.0, "H100": 989.0,
    "A100": 312.0, "A30": 165.0, "A10": 125.0, "L40S": 362.0, "L40": 181.0, "L4": 121.0,
}  # fmt: skip
"""Peaks of the makers' data sheets, without sparsity; the first whose words are all in the device's name."""
MATMUL_SIDE: "dict[Device, int]" = {"cuda": 8192, "cpu": 2048}
MATMULS = 5


@dataclass(frozen=True)
class Arguments:
    """Measure time to the first token, memory and speed of video language models."""

    models: tuple[str, ...] = ()
    """Names of bench_shapes.SHAPES; by default internvl3-1b and internvl3-8b on a GPU, tiny on a CPU."""
    methods: tuple[str, ...] = tuple(METHODS)
    """none = every frame whole, uniform = every frame pooled by 2, dycoke, and VideoRouter's two variants."""
    frames: tuple[int, ...] = ()
    """Frames of the window; by default 16, 64 and 256 on a GPU, 4 and 8 on a CPU."""
    answers: int = 32
    """Answers decoded side by side."""
    max_new_tokens: int = 32
    """Tokens of each of them."""
    repeats: int = 5
    """How often the first token is timed; the median is reported."""
    report: Path | None = None
    """Markdown file to write; the default, for a run on a GPU as usual, is named after the device and the day, in
    docs/benchmarks/."""


def main(argv: list[str]) -> int:
    """Measure every model, method and number of frames; the last stdout line is JSON.

    Raises:
        ConfigError: the arguments do not fit.
    """
    args = parse(Arguments, argv, PROG, __doc__)
    from actors.device import pick_device, pick_dtype

    device = pick_device(1)
    models, frames = args.models or SETTINGS[device][0], args.frames or SETTINGS[device][1]
    _check(args, models, frames)
    dtype = pick_dtype("auto", device)
    name = device_name(device)
    peak, source = peak_flops(name, device, dtype)
    rows: list[dict[str, Any]] = []
    for model in models:
        with tempfile.TemporaryDirectory(prefix="reelsift-gpu-") as folder:
            llm = _load(model, Path(folder) / model, args.max_new_tokens, device)
        for method in args.methods:
            for num_frames in frames:
                cost, flops = measure(llm, find_shape(model), method, num_frames, args)
                share = round(flops / cost["ttft_s"] / peak, 4)
                rows.append({"model": model, "method": method, **cost, "achieved_share": share})
                print(f"{rows[-1]}", file=sys.stderr)
        del llm
    about = f"{name}, {str(dtype).removeprefix('torch.')}, peak {peak / 1e12:.4g} TFLOP/s ({source})"
    sizes = (args.repeats, args.answers, args.max_new_tokens)
    changed = [
        option
        for option in ("models", "methods", "frames")
        if getattr(args, option) != getattr(Arguments, option)
    ]
    lack = [f"--{option} not as usual" for option in changed] + ["no GPU"] * (device == "cpu")
    file = "gpu" if device == "cpu" else f"gpu_{'-'.join(re.findall('[a-z0-9]+', name.lower()))}"
    write_report(file, lines(command(args), about, sizes, rows), args.report, lack)
    print(json.dumps({"bench": "gpu", "device": name, "peak_tflops": round(peak / 1e12, 3), "rows": rows}))
    return 0


def command(args: Arguments) -> str:
    """Return the command that repeats a run."""
    given = [
        word
        for option in ("models", "methods", "frames")
        if (values := getattr(args, option)) != getattr(Arguments, option)
        for word in (f"--{option}", *map(str, values))
    ]
    return " ".join([PROG, *given])


def _check(args: Arguments, models: Sequence[str], frames: Sequence[int]) -> None:
    """Refuse arguments before anything is built.

    Raises:
        ConfigError: they do not fit.
    """
    for option, value, least in (
        ("--answers", args.answers, 1), ("--max-new-tokens", args.max_new_tokens, 3), ("--repeats", args.repeats, 1),
        ("--frames", min(frames), 2),
    ):  # fmt: skip
        require(option, value, at_least=least)
    for model in models:
        if find_shape(model).family == "qwen2_5_vl":
            msg = f"--models {model}: the arithmetic of attention in windows is not counted here; take another shape"
            raise ConfigError(msg)
    if unknown := set(args.methods) - set(METHODS):
        msg = f"--methods: no method {sorted(unknown)}; known: {', '.join(METHODS)}"
        raise ConfigError(msg)


def _load(name: str, folder: Path, max_new_tokens: int, device: "Device") -> "VideoLlm":
    """Return an answerer of random weights."""
    from actors.models import video_llm
    from jobs.bench_models import build_shape
    from pipeline.config import AnswerConfig, CompressConfig

    build_shape(name, folder, "auto", device=device)
    forget_peak(device)
    config = AnswerConfig(
        model=str(folder), frame_px=find_shape(name).vision.frame_px, max_new_tokens=max_new_tokens
    )
    return cast("VideoLlm", video_llm.make(config, CompressConfig(), device))


# --- what the device can do ----------------------------------------------------------------------------------


def device_name(device: "Device") -> str:
    """Return what the device calls itself."""
    import torch

    if device == "cuda":
        return torch.cuda.get_device_name()
    return str(torch.cpu.get_capabilities().get("cpu_name") or "CPU")


def known_peak(name: str) -> float | None:
    """Return the operations per second of a device in dense bfloat16, None where its name says nothing."""
    words = set(re.findall("[A-Za-z0-9]+", name))
    for known, tflops in DENSE_BF16_TFLOPS.items():
        if set(known.split()) <= words:
            return tflops * 1e12
    return None


def peak_flops(name: str, device: "Device", dtype: "torch.dtype") -> tuple[float, str]:
    """Return operations per second, and where the figure is from: the data sheet, else a large product of matrices."""
    import torch

    known = known_peak(name) if device == "cuda" and dtype == torch.bfloat16 else None
    if known:
        return known, "data sheet"
    side = MATMUL_SIDE[device]
    one = torch.ones((side, side), dtype=dtype, device=device)
    times_s: list[float] = []
    for _ in range(MATMULS + 1):
        _synchronize(device)
        started = time.perf_counter()
        torch.matmul(one, one)
        _synchronize(device)
        times_s.append(time.perf_counter() - started)
    return 2 * side**3 / min(times_s[1:]), f"measured: {side} x {side} matrices"


def _synchronize(device: "Device") -> None:
    import torch

    if device == "cuda":
        torch.cuda.synchronize()


def forget_peak(device: "Device") -> None:
    """Let the peak of memory start anew, at what is held now; a model that nobody holds any more is not."""
    import torch

    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")


def peak_bytes(device: "Device") -> int:
    """Return the most memory held since `forget_peak`: of torch on a GPU, of the process (RSS) on a CPU."""
    import torch

    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    [kib] = re.findall(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    return int(kib) * 1024


# --- measuring -----------------------------------------------------------------------------------------------


def measure(
    llm: "VideoLlm", shape: Shape, method: str, num_frames: int, args: Arguments
) -> tuple[dict[str, Any], int]:
    """Return what one method costs for one window, and the operations up to its first token."""
    from actors.models.prompting import process_frames
    from jobs.bench_gpu_router import Routers
    from jobs.bench_windows import draw_queries, make_windows
    from pipeline.compress import TOKEN_COMPRESSORS

    device: Device = llm.model.device.type
    way = METHODS[method]
    llm.compress = TOKEN_COMPRESSORS[way.compressor]
    [window] = make_windows(None, 1, num_frames, llm.parts.frame_size)
    queries = draw_queries(args.answers, ("ask",))
    routers = Routers(llm) if way.routed else None

    def spend(features: "FrameFeatures") -> list[tuple[int, int]]:
        if routers and way.routed:
            return routers.plan(features, window, queries[0], way.routed)
        return [(frame, llm.parts.tokens_per_frame // way.scale) for frame in range(num_frames)]

    first_token(llm, window, queries[0], spend)
    forget_peak(device)
    times_s: list[float] = []
    pixels_s: list[float] = []
    router_s: list[float] = []
    shown = prompt_tokens = 0
    for _ in range(args.repeats):
        started = time.perf_counter()
        process_frames(llm.parts.family, llm.parts.images, _pictures(window))
        prepared = time.perf_counter()
        shown, prompt_tokens = first_token(llm, window, queries[0], spend)
        pixels_s.append(prepared - started)
        times_s.append(time.perf_counter() - prepared)
        router_s.append(routers.seconds if routers else 0.0)
    peak = peak_bytes(device)
    cost = {
        "frames": num_frames,
        "tokens": shown,
        "prompt_tokens": prompt_tokens,
        "ttft_s": round(median(times_s), 4),
        "router_s": round(median(router_s), 4),
        "pixels_s": round(median(pixels_s), 4),
        "peak_gb": round(peak / 1e9, 3),
        "decode_tokens_per_s": round(decode_speed(llm, window, queries, spend), 1),
    }
    flops = vision_flops(shape, num_frames) + prefill_flops(shape, prompt_tokens)
    if routers:
        early = routers.shadow.num_layers
        flops += decoder_flops(shape.text, early, routers.question_tokens)
        flops += num_frames * decoder_flops(shape.text, early, routers.frame_tokens)
    return cost, flops


@dataclass(frozen=True, slots=True)
class Shown:
    """A window's frames, prefilled, and the questions that are to be put to them."""

    tree: "TokenTree"
    questions: "list[Question]"
    visual_tokens: int
    num_tokens: int
    """Of the prefilled half of the prompt, visual ones included."""


def show(llm: "VideoLlm", window: "WindowView", queries: Sequence[Query], spend: "Spend") -> Shown:
    """Show the frames of a window as `spend` says, with room for the questions and their answers."""
    from actors.models.groups import times_s
    from actors.models.prompting import write_prompt

    features = llm.encode(_pictures(window))
    plan = spend(features)
    clip = llm.reduce(features, [frame for frame, _ in plan], plan)
    prompts = [write_prompt(llm.parts, times_s(window, clip.rows), query) for query in queries]
    questions = [llm.question(prompt, query) for prompt, query in zip(prompts, queries, strict=True)]
    head = llm.assemble(prompts[0].head, clip)
    room = sum(question.num_tokens + llm.config.max_new_tokens for question in questions)
    tree = llm.language.tree(len(head.embeds_LD) + room)
    llm.language.show(tree, head.embeds_LD, head.positions_PL, head.next_position, head.extra)
    return Shown(tree, questions, sum(clip.tokens_T), len(head.embeds_LD))


def first_token(llm: "VideoLlm", window: "WindowView", query: Query, spend: "Spend") -> tuple[int, int]:
    """Read the first word of an answer; return how many visual tokens were shown, and tokens of the whole prompt."""
    shown = show(llm, window, [query], spend)
    llm.language.put(shown.tree, shown.questions)  # waits for the device: it returns numbers
    return shown.visual_tokens, shown.num_tokens + shown.questions[0].num_tokens


def decode_speed(llm: "VideoLlm", window: "WindowView", queries: Sequence[Query], spend: "Spend") -> float:
    """Return the tokens per second that answers decoded side by side are given, none of them ending early."""
    from actors.models.decoding import Speech

    shown = show(llm, window, queries, spend)
    heard = llm.language.put(shown.tree, shown.questions)
    speech = Speech[int](llm.language, llm.config.max_new_tokens)
    speech.add(range(len(heard)), shown.tree, heard)
    speech.step()
    device: Device = llm.model.device.type
    _synchronize(device)
    started = time.perf_counter()
    steps = llm.config.max_new_tokens - 2  # the first token is heard, the second was the warm-up
    for _ in range(steps):
        speech.step()
    _synchronize(device)
    return len(heard) * steps / (time.perf_counter() - started)


def _pictures(window: "WindowView") -> Any:
    """Return the window's frames, uint8 [N, H, W, 3]."""
    return cast("Any", window.evidence).data_NHWC
