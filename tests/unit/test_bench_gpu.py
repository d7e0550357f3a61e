"""The arithmetic against what torch counts, peaks of devices and of memory, and the command on a tiny model."""

import gc
import json

import numpy as np
import pytest
import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

from actors.models.prompting import process_frames, read_parts
from jobs import bench
from jobs.bench_gpu import METHODS, forget_peak, known_peak, main, peak_bytes, peak_flops
from jobs.bench_gpu_flops import decoder_flops, prefill_flops, vision_flops
from jobs.bench_gpu_router import fixed_plan
from jobs.bench_models import build_shape
from jobs.bench_shapes import SHAPES
from pipeline.config import AnswerConfig
from pipeline.errors import ConfigError


@pytest.fixture(scope="module", params=["tiny", "smolvlm-30m"])
def counted(request, tmp_path_factory):
    """Return a shape, and what torch counts for 2 frames in its vision tower and for 40 tokens in its decoder."""
    shape, folder = SHAPES[request.param], tmp_path_factory.mktemp("model")
    build_shape(request.param, folder, "float32")
    px = shape.vision.frame_px
    parts = read_parts(AnswerConfig(model=str(folder), frame_px=px), weights=True)
    auto = transformers.AutoModelForImageTextToText
    # fused attention is not counted on a CPU
    model = auto.from_pretrained(folder, attn_implementation="eager").eval()
    pixels = process_frames(parts.family, parts.images, np.zeros((2, px, px, 3), np.uint8))
    with torch.inference_mode():
        with FlopCounterMode(display=False) as vision:
            model.get_image_features(**pixels, return_dict=True)
        with FlopCounterMode(display=False) as text:
            model.get_decoder()(inputs_embeds=torch.zeros(1, 40, shape.text.width))
    return shape, vision.get_total_flops(), text.get_total_flops()


def test_operations_of_the_vision_tower_are_those_that_torch_counts(counted):
    shape, vision, _ = counted
    assert vision_flops(shape, 2) == pytest.approx(vision, rel=0.01)


def test_operations_of_the_prefill_are_those_that_torch_counts_but_half_of_the_attention(counted):
    shape, _, text = counted
    masked = 2 * 40**2 * shape.text.width * shape.text.layers
    logits = 2 * shape.text.width * shape.text.vocabulary
    assert prefill_flops(shape, 40) == pytest.approx(text - masked + logits, rel=0.01)


def test_layers_of_the_decoder_add_up():
    text = SHAPES["tiny"].text
    each = [decoder_flops(text, layers, 40) for layers in (1, 2, text.layers)]
    assert each[1] == 2 * each[0]
    assert each[2] + 2 * text.width * text.vocabulary == prefill_flops(SHAPES["tiny"], 40)


@pytest.mark.parametrize(("scales", "tokens"), [((2, 4), 16 * 256 + 48 * 64), ((4, 8), 16 * 256 + 48 * 32)])
def test_a_fourth_of_the_frames_is_shown_whole(scales, tokens):
    plan = fixed_plan(64, 256, scales)
    assert [frame for frame, size in plan if size == 256] == list(range(0, 64, 4))
    assert sum(size for _, size in plan) == tokens


def test_a_device_is_known_by_all_words_of_its_name():
    assert known_peak("NVIDIA H200") == known_peak("NVIDIA H100 80GB HBM3") == 989e12
    assert known_peak("NVIDIA H100 PCIe") == 756e12
    assert known_peak("NVIDIA A100-SXM4-80GB") == 312e12
    assert known_peak("NVIDIA L4") != known_peak("NVIDIA L40S")
    assert known_peak("NVIDIA A10G") is None
    assert known_peak("AMD EPYC") is None


def test_an_unknown_device_is_measured(monkeypatch):
    monkeypatch.setattr("jobs.bench_gpu.MATMUL_SIDE", {"cpu": 64})
    peak, source = peak_flops("NVIDIA H200", "cpu", torch.float32)
    assert 1e6 < peak < 989e12, "a CPU is not what its name says"
    assert source == "measured: 64 x 64 matrices"


def test_the_peak_of_memory_starts_anew():
    block = np.ones(10_000_000)
    high = peak_bytes("cpu")
    assert high > block.nbytes
    del block
    forget_peak("cpu")
    assert peak_bytes("cpu") < high - 70e6


@pytest.fixture
def swept():
    """What is loaded by now is no garbage: each measurement looks for garbage anew."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("swept")
def test_every_method_and_number_of_frames_is_a_row(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("jobs.bench_gpu.MATMUL_SIDE", {"cpu": 64, "cuda": 64})
    report = tmp_path / "gpu.md"
    words = [
        "--models",
        "tiny",
        "--frames",
        "4",
        "2",
        "--repeats",
        "1",
        "--answers",
        "2",
        "--max-new-tokens",
        "3",
    ]
    assert bench.main(["gpu", *words, "--report", str(report)]) == 0
    document = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert document["bench"] == "gpu"
    assert document["device"]
    rows = {(row["method"], row["frames"]): row for row in document["rows"]}
    assert set(rows) == {(method, frames) for method in METHODS for frames in (4, 2)}
    per_frame = SHAPES["tiny"].tokens_per_frame
    assert rows["none", 4]["tokens"] == 4 * per_frame
    assert rows["uniform", 4]["tokens"] == 2 * per_frame
    assert 0 < rows["dycoke", 4]["tokens"] < 4 * per_frame
    assert rows["videorouter-2-4", 4]["tokens"] == per_frame + 3 * (per_frame // 4)
    assert all((row["router_s"] > 0) == method.startswith("videorouter") for (method, _), row in rows.items())
    dropped = rows["none", 4]["prompt_tokens"] - rows["uniform", 4]["prompt_tokens"]
    assert dropped == 2 * per_frame
    assert all(row[name] > 0 for row in rows.values() for name in ("ttft_s", "peak_gb"))
    # rounded to four digits, it may be nought where the machine stood still in the one repeat
    assert any(row["achieved_share"] > 0 for row in rows.values())
    assert "| tiny | dycoke | 2 |" in report.read_text()


@pytest.mark.usefixtures("swept")
def test_a_run_without_a_gpu_is_not_written_down(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("jobs.bench_gpu.MATMUL_SIDE", {"cpu": 64, "cuda": 64})
    words = ["--models", "tiny", "--methods", "none", "--frames", "2", "--repeats", "1", "--answers", "1"]
    assert main([*words, "--max-new-tokens", "3"]) == 0
    assert "not written: --models not as usual" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--models", "qwen2.5-vl-3b"], "attention in windows is not counted"),
        (["--models", "huge"], "shape 'huge' is not known"),
        (
            ["--methods", "zip"],
            r"no method \['zip'\]; known: none, uniform, dycoke, videorouter-2-4, videorouter-4-8",
        ),
        (["--max-new-tokens", "2"], "--max-new-tokens 2: expected at least 3"),
        (["--frames", "1"], "--frames 1: expected at least 2"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(words, message):
    with pytest.raises(ConfigError, match=message):
        main(words)
