"""Reading videos from a real S3 server over a bad line, or while they change: the right pictures or an error."""

import json
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import fsspec
import numpy as np
import pytest

from jobs.fault_proxy import Fault, FaultProxy
from pipeline import isolation, origin, ranges, store
from pipeline.config import DecodeConfig, WindowConfig
from pipeline.errors import DecodeError, ProbeError, StoreError
from pipeline.frames import Frames, FrameSize
from pipeline.isolation import Reader
from pipeline.listing import list_videos
from tests import videos
from tests.decoding import decode
from tests.integration.s3_server import Bucket

pytestmark = pytest.mark.needs_ceph

SIZE = FrameSize(96, 160)
TIMES_S = [0.1, 4.3, 8.5, 13.6]
READER = Reader(DecodeConfig(), WindowConfig(sample_fps=2))
FAULTS = {
    "reset": Fault("reset"),
    "short": Fault("close"),
    "stall": Fault("stall"),
    "slow": Fault("slow"),
    "nothing": Fault("reset", after_bytes=0),
    "busy": Fault("refusal"),
}
KINDS = {
    "a.mp4": {},
    "a.mkv": {},
    "a.ts": {},
    "fragments.mp4": {"container_options": {"movflags": "frag_keyframe+empty_moov+default_base_moof"}},
}


@pytest.fixture(scope="module", autouse=True)
def child() -> Iterator[None]:
    yield
    isolation.drop_child()


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Videos of 15 s and some 300 kB, the same pictures in each."""
    folder = tmp_path_factory.mktemp("videos")
    return {
        name: videos.write_video(
            folder / name, numbers=range(450), size=(320, 192), options=videos.X264, **settings
        )
        for name, settings in KINDS.items()
    }


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Read small videos as large ones are read, and wait less long."""
    monkeypatch.setattr(origin, "WHOLE_BYTES", 2000)
    monkeypatch.setattr(origin, "FIRST_BYTES", 4000)
    monkeypatch.setattr(origin, "MOST_BYTES", 40_000)
    monkeypatch.setattr(origin, "GAP_BYTES", 500)
    monkeypatch.setattr(origin, "OPENING_JUMP_BYTES", 8000)
    monkeypatch.setattr(origin, "OPENING_READ_BYTES", 1000)
    monkeypatch.setattr(ranges, "STALL_S", 5.0)
    monkeypatch.setattr(ranges, "PATIENCE_S", 20.0)
    monkeypatch.setattr(ranges, "FIRST_WAIT_S", 0.05)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait long where the line stalls on purpose."""
    monkeypatch.setattr(ranges, "STALL_S", 0.5)
    monkeypatch.setattr(ranges, "PATIENCE_S", 60.0)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait as long as a slow machine needs where nothing breaks and requests are counted."""
    monkeypatch.setattr(ranges, "STALL_S", 60.0)
    monkeypatch.setattr(ranges, "PATIENCE_S", 120.0)


@pytest.fixture
def proxy(s3: Bucket, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """Everything that this process reads and writes goes through it; faults strike videos alone."""
    proxy = FaultProxy(s3.server.endpoint, only="/videos/")
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.address)
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    yield proxy
    proxy.refuse()


def put(s3: Bucket, data: Path | bytes, name: str = "a.mp4") -> dict:
    """Write an object and return the row it is listed as."""
    uri = store.join(s3.uri, "videos", name)
    store.write_bytes(uri, data.read_bytes() if isinstance(data, Path) else data)
    [file] = list_videos(uri)
    return file


def look(file: dict) -> Frames:
    return READER.look(file, TIMES_S, SIZE)[0]


def assert_same(found: Frames, path: Path) -> None:
    expected = decode(path, TIMES_S, SIZE)
    assert len(expected) == len(TIMES_S)
    assert found.pts_s_N.tolist() == expected.pts_s_N.tolist()
    assert np.array_equal(found.data_NHWC, expected.data_NHWC)


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_every_read_changes_no_picture(s3, proxy, clips, fault):
    file = put(s3, clips["a.ts"], "a.ts")
    proxy.faults.extend([FAULTS[fault], None] * 4)
    assert_same(look(file), clips["a.ts"])
    assert len(proxy.reads) >= 8


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("name", KINDS)
def test_all_faults_one_after_the_other(s3, proxy, clips, name):
    file = put(s3, clips[name], name)
    proxy.faults.extend(FAULTS.values())
    assert_same(look(file), clips[name])
    assert not proxy.faults
    assert READER.probe(file)["status"] == "ok"


def test_all_faults_in_one_small_object(s3, proxy, clips, monkeypatch):
    monkeypatch.setattr(ranges, "STALL_S", 15.0)
    monkeypatch.setattr(ranges, "PATIENCE_S", 90.0)
    monkeypatch.setattr(origin, "WHOLE_BYTES", 10**7)
    file = put(s3, clips["a.mp4"])
    proxy.faults.extend(FAULTS.values())
    assert_same(look(file), clips["a.mp4"])
    # It goes on where it broke. After "stall", that is: a line that ends may take along what was not fetched yet.
    assert proxy.reads[3][0] > proxy.reads[2][0]


def test_a_server_that_is_away_for_some_time(s3, proxy, clips):
    file = put(s3, clips["a.ts"], "a.ts")

    def restart(number: int) -> None:
        if number == 2:
            proxy.refuse()
            threading.Timer(2.0, proxy.accept).start()

    proxy.before_read = restart
    assert_same(look(file), clips["a.ts"])


class TestWhoNeverAnswers:
    @pytest.fixture(autouse=True)
    def impatient(self, monkeypatch):
        monkeypatch.setattr(ranges, "PATIENCE_S", 2.0)

    def test_nobody_there(self, s3, proxy, clips):
        file = put(s3, clips["a.mp4"])
        proxy.refuse()
        with pytest.raises(
            StoreError, match=r"cannot read s3://.*\(tried for 2 s\); run the same command again"
        ):
            look(file)

    @pytest.mark.parametrize("fault", ["stall", "nothing", "busy"])
    def test_every_answer_breaks(self, s3, proxy, clips, fault, monkeypatch):
        file = put(s3, clips["a.mkv"], "a.mkv")
        put(s3, b"another object that nobody gets", "b.mkv")
        proxy.faults.extend([None, None])
        proxy.always = replace(FAULTS[fault], after_bytes=0)
        with pytest.raises(
            StoreError, match=r"cannot read s3://.*\(tried for 2 s\); run the same command again"
        ):
            look(file)
        proxy.always = None
        monkeypatch.setattr(ranges, "PATIENCE_S", 20.0)
        assert_same(look(file), clips["a.mkv"])

    @pytest.mark.parametrize("fault", [FAULTS["nothing"], Fault("refusal", code="InternalError", status=500)])
    def test_every_answer_about_this_object_breaks(self, s3, proxy, clips, fault, monkeypatch):
        monkeypatch.setattr(ranges, "STALL_S", 60.0)  # of which the other object gets a share
        file = put(s3, clips["a.mkv"], "a.mkv")
        store.write_bytes(store.join(s3.uri, "elsewhere", "b.mkv"), b"another object")
        proxy.always = fault
        with pytest.raises(
            DecodeError, match=r"cannot be read: .*\(tried for 2 s\), while its bucket answers"
        ):
            look(file)

    @pytest.mark.usefixtures("patient")
    def test_a_request_that_is_wrong_for_this_object(self, s3, proxy, clips):
        file = put(s3, clips["a.mkv"], "a.mkv")
        proxy.always = Fault("refusal", code="InvalidRequest", status=400)
        with pytest.raises(DecodeError, match=r"cannot be read: .*InvalidRequest"):
            look(file)
        assert len(proxy.reads) == 1

    @pytest.mark.usefixtures("patient")
    @pytest.mark.parametrize("code", ["ExpiredToken", "InvalidAccessKeyId", "SignatureDoesNotMatch"])
    def test_credentials_that_are_refused_are_not_tried_again(self, s3, proxy, clips, code):
        file = put(s3, clips["a.mp4"])
        proxy.always = Fault("refusal", code=code, status=403)
        with pytest.raises(
            StoreError, match=rf"the credentials were refused \({code}\).*run the same command"
        ):
            look(file)
        assert len(proxy.reads) == 1


@pytest.mark.usefixtures("patient")
class TestObjectsThatChange:
    @pytest.fixture
    def other(self, clips) -> bytes:
        """As many bytes as a.mp4 has, and others."""
        return clips["a.mp4"].read_bytes()[::-1]

    @pytest.mark.parametrize("whole_bytes", [2000, 10**7])
    def test_replaced_since_it_was_listed(self, s3, clips, other, monkeypatch, whole_bytes):
        monkeypatch.setattr(origin, "WHOLE_BYTES", whole_bytes)
        file = put(s3, clips["a.mp4"])
        put(s3, other)
        with pytest.raises(DecodeError, match="has changed since it was listed; run again"):
            look(file)
        with pytest.raises(ProbeError, match="has changed since it was listed"):
            READER.probe(file)

    @pytest.mark.parametrize("etag", ["as listed", "none"])
    def test_cut_short_since_it_was_listed(self, s3, clips, etag):
        data = clips["a.ts"].read_bytes()
        file = put(s3, data, "a.ts")
        file = file if etag == "as listed" else {**file, "etag": ""}
        put(s3, data[: len(data) * 2 // 3], "a.ts")
        with pytest.raises(DecodeError, match="has changed since it was listed"):
            look(file)

    @pytest.mark.parametrize("name", KINDS)
    @pytest.mark.parametrize("number", [2, 4])
    def test_replaced_between_two_reads(self, s3, proxy, clips, other, name, number):
        file = put(s3, clips[name], name)
        proxy.before_read = lambda found: put(s3, other, name) if found == number else None
        with pytest.raises(DecodeError, match="has changed since it was listed"):
            look(file)
        assert len(proxy.reads) == number

    def test_replaced_after_its_header_was_kept(self, s3, clips, other):
        file = put(s3, clips["a.mp4"])
        assert_same(look(file), clips["a.mp4"])
        put(s3, other)
        with pytest.raises(DecodeError, match="has changed since it was listed"):
            look(file)

    def test_replaced_while_a_broken_read_is_taken_up(self, s3, proxy, clips, other):
        file = put(s3, clips["a.mp4"])
        proxy.faults.append(Fault("reset"))
        proxy.before_read = lambda number: put(s3, other) if number == 2 else None
        with pytest.raises(DecodeError, match="has changed since it was listed"):
            look(file)

    @pytest.mark.parametrize("number", [1, 3])
    def test_deleted(self, s3, proxy, clips, number):
        file = put(s3, clips["a.ts"], "a.ts")
        proxy.before_read = lambda found: store.delete(file["uri"]) if found == number else None
        with pytest.raises(DecodeError, match="was there when it was listed and is gone now; run again"):
            look(file)

    def test_access_denied_to_one(self, s3, clips):
        file = put(s3, clips["a.mp4"])
        fs, path = store.open_fs(file["uri"])
        statement = {"Effect": "Deny", "Principal": "*", "Action": "s3:GetObject"}
        policy = {"Version": "2012-10-17", "Statement": [statement | {"Resource": f"arn:aws:s3:::{path}"}]}
        fs.call_s3("put_bucket_policy", Bucket=path.split("/")[0], Policy=json.dumps(policy))
        with pytest.raises(DecodeError, match=r"cannot be read: access denied \(AccessDenied\)"):
            look(file)

    def test_no_bucket(self, s3, clips):
        file = put(s3, clips["a.mp4"])
        with pytest.raises(StoreError, match="no bucket 'never-made' at this endpoint"):
            look({**file, "uri": "s3://never-made/a.mp4"})
