"""Does what is reckoned cover what torch really allocates, and does a budget hold?"""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from actors.models import Request, WindowView, video_llm
from actors.models.batching import Batch
from actors.models.decoding import Question
from actors.models.memory import Memory, _group_spare_bytes, stored_bytes
from actors.models.prompting import process_frames, read_parts
from pipeline.compress import TOKEN_COMPRESSORS
from pipeline.config import AnswerConfig, CompressConfig
from pipeline.frames import Frames
from pipeline.tokens import whole_frames
from tests.tiny_models import VIDEO_LLMS, build
from tests.unit.test_video_llm import ask

FRAME_PX = 56
FRAMES = 4


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Let one thread compute: each has some 100 kB of its own in attention, next to nothing but for models so small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", autouse=True)
def plain_kernels():
    """Leave oneDNN out: on CPUs that multiply bfloat16 in hardware it lays matrices out anew, in memory of its own."""
    before = torch.backends.mkldnn.enabled
    torch.backends.mkldnn.enabled = False
    yield
    torch.backends.mkldnn.enabled = before


@pytest.fixture(scope="module", params=VIDEO_LLMS)
def folder(request, tmp_path_factory):
    return build(request.param, tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def any_memory(tmp_path_factory):
    return load(build("internvl", tmp_path_factory.mktemp("any"))).memory


def load(folder, dtype="float32", memory_gb=4.0):
    config = AnswerConfig(
        model=str(folder), frame_px=FRAME_PX, max_new_tokens=6, dtype=dtype, memory_gb=memory_gb
    )
    return video_llm.make(config, CompressConfig(), "cpu")


def most_bytes(run, folder):
    """Return the most that torch's CPU allocator had given out while something ran."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as log:
        run()
    path = folder / "trace.json"
    log.export_chrome_trace(str(path))
    events = json.loads(path.read_text())["traceEvents"]
    steps = sorted((event["ts"], event["args"]["Bytes"]) for event in events if event["name"] == "[memory]")
    return int(np.cumsum([size for _, size in steps]).max())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_vision_tower_takes_what_is_reckoned(folder, dtype, tmp_path):
    llm = load(folder, dtype)
    size = llm.parts.frame_size
    data_NHWC = np.random.default_rng(0).integers(
        0, 256, (FRAMES, size.height_px, size.width_px, 3), np.uint8
    )
    pixels = process_frames(llm.parts.family, llm.parts.images, data_NHWC)
    given = sum(tensor.nbytes for tensor in pixels.values())
    found = most_bytes(lambda: llm.model.get_image_features(**pixels, return_dict=True), tmp_path)
    assert (found + given) / FRAMES == pytest.approx(llm.memory.frame_work_bytes, rel=0.3)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_pass_takes_what_is_reckoned(folder, dtype, tmp_path):
    llm = load(folder, dtype)
    memory, language = llm.memory, llm.language
    num, asked = 400, 100
    tree = language.tree(num + asked)
    embeds_LD = torch.zeros(num, llm.parts.config.get_text_config().hidden_size, dtype=llm.model.dtype)
    found = most_bytes(lambda: language.show(tree, embeds_LD, language.span(0, num), num, {}), tmp_path)
    kept = (num + asked) * memory.row_bytes
    assert found == pytest.approx(kept + memory.prefill_bytes(num), rel=0.1)
    question = Question(tuple(range(10, 10 + asked)))
    found = most_bytes(lambda: language.put(tree, [question]), tmp_path)
    assert found == pytest.approx(memory.pass_bytes(asked, num + asked), rel=0.2)


@pytest.mark.parametrize(
    ("grid", "width", "frames"), [((8, 8), 896, 12), ((20, 20), 256, 10), ((4, 4), 2048, 4)]
)
def test_no_compressor_takes_more_than_is_reckoned(grid, width, frames, any_memory, tmp_path):
    num = grid[0] * grid[1]
    memory = replace(any_memory, frame_tokens=num, frame_bytes=num * width * 2)
    clip = replace(
        whole_frames(torch.randn(frames, num, width).bfloat16(), grid),
        pixels_THWC=torch.randint(0, 256, (frames, 56, 56, 3), dtype=torch.uint8),
        probes_PD=torch.randn(5, width).bfloat16(),
    )
    for name, compress in TOKEN_COMPRESSORS.items():
        for ratio, planned in ((0.7, num), (0.0, num // 2)):
            settings = CompressConfig(compressor=name, prune_ratio=ratio)

            def reduce(compress=compress, settings=settings, planned=planned):
                compress(replace(clip, values_ND=clip.values_ND.clone()), [planned] * frames, settings)

            assert most_bytes(reduce, tmp_path) <= memory.reduce_bytes(frames), name


def test_what_is_foreseen_is_what_is_found(folder):
    llm = load(folder, "bfloat16")
    foreseen = Memory.foresee(read_parts(llm.config, weights=False), torch.bfloat16, "cpu", 4)
    assert foreseen == replace(llm.memory, weights_bytes=foreseen.weights_bytes)
    assert foreseen.weights_bytes == pytest.approx(llm.memory.weights_bytes, rel=0.01)


def test_a_budget_holds_and_changes_no_answer(tmp_path):
    """24 windows that would all be open at once are answered in the room of two or three."""
    frames = np.random.default_rng(0).integers(0, 256, (24, 4, FRAME_PX, FRAME_PX, 3), np.uint8)
    pts_s = np.arange(4, dtype=np.float64)
    views = [WindowView(0, 4, pts_s, (0, 1, 2, 3), Frames(data_NHWC, pts_s)) for data_NHWC in frames]
    requests = [Request(view, [ask("ask", (4, 4, 4, 4))]) for view in views]
    llm = load(build("internvl", tmp_path / "model"))
    roomy = Batch(llm, requests)
    expected = [window[0] for window in roomy.run()]
    weights = llm.memory.weights_bytes
    work = roomy.peak_bytes - weights
    llm.memory = replace(llm.memory, budget_bytes=weights + work // 3)
    tight = Batch(llm, requests)
    found = most_bytes(lambda: expected.append(tight.run()), tmp_path)
    assert [window[0].answer for window in expected.pop()] == [one.answer for one in expected]
    assert not any(one.error for one in expected)
    assert tight.peak_bytes <= llm.memory.budget_bytes < roomy.peak_bytes
    assert found <= work // 3


def test_the_default_leaves_room_beside_what_is_there(folder):
    llm = load(folder, memory_gb=0)
    assert llm.memory.budget_bytes > llm.memory.weights_bytes


def test_limits_of_control_groups_count(tmp_path):
    inside = tmp_path / "slice" / "job"
    inside.mkdir(parents=True)
    for group, limit, used in ((inside, "max", 10), (inside.parent, "1000", 400)):
        (group / "memory.max").write_text(f"{limit}\n")
        (group / "memory.current").write_text(f"{used}\n")
    membership = tmp_path / "cgroup"
    membership.write_text("4:cpu:/elsewhere\n0::/slice/job\n")
    assert _group_spare_bytes(membership, tmp_path) == [600]


def test_old_control_groups_count_too(tmp_path):
    inside = tmp_path / "memory" / "job"
    inside.mkdir(parents=True)
    (inside / "memory.limit_in_bytes").write_text("1000")
    (inside / "memory.usage_in_bytes").write_text("1300")
    membership = tmp_path / "cgroup"
    membership.write_text("4:memory:/job\n")
    assert _group_spare_bytes(membership, tmp_path) == [0]
    assert _group_spare_bytes(tmp_path / "none") == []


def test_a_quantised_weight_counts_with_its_scales():
    import bitsandbytes

    layer = bitsandbytes.nn.Linear4bit(128, 64, bias=False, quant_type="nf4", compress_statistics=False).to(
        "cpu"
    )
    scales = layer.weight.quant_state.absmax
    assert layer.weight.nbytes == 128 * 64 // 2
    assert stored_bytes(layer.weight) == layer.weight.nbytes + scales.numel() * 4 > layer.weight.nbytes
    assert stored_bytes(torch.zeros(3)) == 12
