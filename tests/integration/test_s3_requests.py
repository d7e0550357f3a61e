"""How many requests, and bytes, it takes to look into an hour of video on a real S3 server."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import fsspec
import pytest

from jobs.fault_proxy import FaultProxy
from pipeline import isolation, store
from pipeline import origin as origins
from pipeline.config import DecodeConfig, WindowConfig
from pipeline.frames import FrameSize, Policy
from pipeline.isolation import Reader
from pipeline.listing import list_videos
from tests import videos
from tests.integration.ray_head import ROOT
from tests.integration.s3_server import Bucket

pytestmark = pytest.mark.needs_ceph

FPS, GOP = 30, 250
TICKS = FPS * 512
NUM_GROUPS = 3600 * FPS // GOP
SIZE = FrameSize(96, 160)
READER = Reader(DecodeConfig(), WindowConfig(sample_fps=1))
FRAGMENTS = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
HOURS: dict[str, dict[str, str]] = {
    "end.mp4": {},
    "front.mp4": {"movflags": "faststart"},
    "a.mov": {},
    "a.mkv": {},
    "a.ts": {},
    "fragments.mp4": FRAGMENTS,
}
MIDDLE_S = 1805.0
MIDDLE = round(MIDDLE_S * FPS)


@pytest.fixture(scope="module", autouse=True)
def child() -> Iterator[None]:
    yield
    isolation.drop_child()


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One group of pictures, numbered from 0 on."""
    path = tmp_path_factory.mktemp("group") / "a.mp4"
    return videos.write_video(path, numbers=range(GOP), gop=GOP, options=videos.X264 | {"crf": "17"})


def write_hour(group: Path, path: Path, options: dict[str, str]) -> int:
    """Write an hour that repeats one group of pictures; return the bytes of a group."""
    with av.open(str(group)) as source, av.open(str(path), "w", options=options) as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        packets = [packet for packet in source.demux(source.streams.video[0]) if packet.size]
        first = packets[0].dts or 0
        for number in range(NUM_GROUPS):
            for known in packets:
                packet = av.Packet(bytes(known))
                packet.stream, packet.time_base, packet.is_keyframe = (
                    stream,
                    Fraction(1, TICKS),
                    known.is_keyframe,
                )
                shift = number * GOP * 512 - first
                packet.pts, packet.dts = (known.pts or 0) + shift, (known.dts or 0) + shift
                container.mux(packet)
        return sum(packet.size for packet in packets)


@pytest.fixture(params=HOURS)
def hour(
    request: pytest.FixtureRequest,
    group: Path,
    s3: Bucket,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> tuple[str, dict, int]:
    """The kind of an hour on the server, the row it is listed as, and the bytes of a group of pictures."""
    path = tmp_path / request.param
    group_bytes = write_hour(group, path, HOURS[request.param])
    uri = store.join(s3.uri, "videos", path.name)
    store.write_bytes(uri, path.read_bytes())
    path.unlink()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    [file] = list_videos(uri)
    return request.param, file, group_bytes


@pytest.fixture
def proxy(s3: Bucket, hour: tuple, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """Counts what goes over the line from now on."""
    del hour
    proxy = FaultProxy(s3.server.endpoint, only="/videos/")
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.address)
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    yield proxy
    proxy.refuse()


def counted(proxy: FaultProxy) -> tuple[int, int]:
    """Return requests and bytes since the last time."""
    reads = list(proxy.reads)
    proxy.reads.clear()
    return len(reads), sum(stop - start for start, stop in reads)


def test_one_group_out_of_an_hour(hour, proxy):
    kind, file, group_bytes = hour
    assert file["size_bytes"] > origins.WHOLE_BYTES
    frames, origin = READER.look(file, [MIDDLE_S], SIZE)
    cold = counted(proxy)
    assert (origin.num_requests, origin.num_bytes) == cold
    assert videos.number(frames.data_NHWC[0]) == MIDDLE % GOP
    frames, origin = READER.look(file, [MIDDLE_S + 600], SIZE)
    warm = counted(proxy)
    assert videos.number(frames.data_NHWC[0]) == (MIDDLE + 600 * FPS) % GOP
    _, origin = READER.sample({**file, "start_s": 1200.0, "end_s": 1260.0}, SIZE, Policy())
    dense = counted(proxy)
    print(f"{kind}: group {group_bytes}, cold {cold}, warm {warm}, window of 60 s {dense}")
    assert proxy.num_heads == 0
    if kind in ("end.mp4", "front.mp4", "a.mov"):
        assert cold[0] <= 3
        assert warm[0] == 1
        assert warm[1] < 1.2 * group_bytes
        assert dense[0] == 1
        assert dense[1] < 1.2 * (60 * FPS / GOP + 1) * group_bytes
    else:
        assert cold[0] <= (10 if kind == "fragments.mp4" else 4)
        assert warm[0] <= (2 if kind == "a.ts" else 1)
        assert dense[0] <= 4


@pytest.mark.parametrize("hour", ["end.mp4", "a.mkv"], indirect=True)
def test_another_process_of_this_machine_uses_the_header_that_a_probe_kept(hour, proxy, tmp_path):
    _, file, _ = hour
    READER.probe(file)
    counted(proxy)
    program = (
        "import json, sys\n"
        "from pipeline.config import DecodeConfig, WindowConfig\n"
        "from pipeline.frames import FrameSize\n"
        "from pipeline.isolation import Reader\n"
        "reader = Reader(DecodeConfig(), WindowConfig())\n"
        "print(len(reader.look(json.loads(sys.argv[1]), [1805.0], FrameSize(96, 160))[0]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps(file)],
        cwd=ROOT, env={**os.environ, "TMPDIR": str(tmp_path)}, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.stdout == "1\n", done.stderr
    assert counted(proxy)[0] == 1
