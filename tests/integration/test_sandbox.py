"""What takes libraries that start slowly works in a process that is locked down, too."""

import importlib.util
import os

import pytest

from tests import videos
from tests.unit.test_sandbox import run
from tests.unit.test_warm_up import works_after_warm_up


@pytest.fixture
def video(tmp_path):
    """A descriptor of a video of 150 pictures."""
    fd = os.open(videos.write_intact(tmp_path, "h264.mp4")[0], os.O_RDONLY)
    yield fd
    os.close(fd)


@pytest.mark.skipif(importlib.util.find_spec("torchcodec") is None, reason="torchcodec is not installed")
@pytest.mark.parametrize("threads", [1, 4])
def test_torchcodec_decodes(video, threads):
    body = f"""
        decoder = VideoDecoder(Reader({video}), num_ffmpeg_threads={threads})
        pictures = decoder.get_frames_at([0, 40, 149]).data.permute(0, 2, 3, 1).numpy()
        print([videos.number(picture) for picture in pictures])
    """
    imports = "from torchcodec.decoders import VideoDecoder\nfrom tests import videos"
    assert run(body, imports=imports, fds=[video]) == "[0, 40, 149]"


def test_torch_and_numpy_compute_on_threads_of_their_own():
    body = """
        torch.set_num_threads(4)
        pictures = torch.rand(2, 3, 512, 512)
        small = torch.nn.functional.interpolate(pictures, size=64, mode="bilinear", antialias=True)
        bytes_ = torch.nn.functional.interpolate((pictures * 255).byte(), size=64, mode="bilinear", antialias=True)
        torch.nn.functional.conv2d(pictures, torch.rand(8, 3, 5, 5))
        wide = torch.ones(700, 700) @ torch.ones(700, 700)
        square = np.ones((700, 700), np.float32) @ np.ones((700, 700), np.float32)
        print(small.shape[-1], bytes_.dtype, wide[0, 0].item(), square[0, 0])
    """
    # torch wants to see /proc/cpuinfo once
    once = "torch.nn.functional.interpolate(torch.zeros(1, 3, 8, 8), size=4, mode='bilinear', antialias=True)"
    assert run(body, imports=f"import torch, numpy as np\n{once}") == "64 torch.uint8 700.0 700.0"


@pytest.mark.skipif(importlib.util.find_spec("torchcodec") is None, reason="torchcodec is not installed")
def test_torchcodec_that_was_warmed_up_needs_no_files():
    works_after_warm_up("torchcodec", "count")
