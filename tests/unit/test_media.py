"""What becomes of a read that fails: a failed row when it is the file's fault, a stopped run when it is the store's."""

import io

import aiohttp
import botocore.exceptions
import fsspec
import pytest
from botocore.exceptions import ClientError
from s3fs.errors import translate_boto_error

from pipeline import media
from pipeline.decode import decode_pyav
from pipeline.errors import DecodeError, ProbeError, StoreError
from pipeline.frames import FrameSize
from pipeline.source import probe_video
from tests import videos

URI = "s3://bucket/a.mkv"
SIZE = FrameSize(96, 160)


def refusal(code: str, status: int = 400) -> Exception:
    """Return what s3fs raises when the server answers with a code."""
    answer = {
        "Error": {"Code": code, "Message": "said the server"},
        "ResponseMetadata": {"HTTPStatusCode": status},
    }
    return translate_boto_error(ClientError(answer, "GetObject"))


class Bucket:
    """A store of one object whose reads fail, from the HEAD on or from some byte on."""

    def __init__(
        self, data: bytes, error: Exception, *, head: Exception | None = None, from_byte: int = 0
    ) -> None:
        self.data, self.error, self.head, self.from_byte = data, error, head, from_byte

    def info(self, _path):
        if self.head:
            raise self.head
        return {"size": len(self.data)}

    def cat_file(self, _path, start=0, end=None):
        del start, end
        raise self.error

    def open(self, _path, _mode, **_options):
        bucket = self

        class File(io.BytesIO):
            def read(self, size=-1, /):
                if self.tell() + max(size, 0) > bucket.from_byte:
                    raise bucket.error
                return super().read(size)

        return File(self.data)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return videos.write_intact(tmp_path_factory.mktemp("videos"), "h264.mkv")[0].read_bytes()


@pytest.fixture
def use(monkeypatch):
    def put(bucket, whole_bytes=10**9):
        monkeypatch.setattr(media, "open_fs", lambda uri: (bucket, uri))
        monkeypatch.setattr(media, "WHOLE_BYTES", whole_bytes)

    return put


OUTAGES = [
    refusal("SlowDown", 503),
    refusal("503", 503),
    refusal("InternalError", 500),
    refusal("ExpiredToken"),
    refusal("InvalidAccessKeyId", 403),
    refusal("NoSuchBucket", 404),
    refusal("SomethingNew", 500),
    TimeoutError("no answer"),
    ConnectionRefusedError("refused"),
    OSError("short read"),
    aiohttp.ClientPayloadError("broke off"),
    botocore.exceptions.EndpointConnectionError(endpoint_url="http://x"),
    botocore.exceptions.NoCredentialsError(),
]
OUTAGE_IDS = [f"{type(error).__name__}-{number}" for number, error in enumerate(OUTAGES)]


@pytest.mark.parametrize("error", OUTAGES, ids=OUTAGE_IDS)
def test_an_outage_stops_the_run(data, use, error):
    use(Bucket(data, error))
    with pytest.raises(StoreError, match=f"cannot read {URI}: .*; run the same command again") as probed:
        probe_video({"uri": URI, "size_bytes": len(data)})
    assert probed.value.__cause__ is error
    with pytest.raises(StoreError, match=f"cannot read {URI}"):
        decode_pyav(URI, [0.5], SIZE)


@pytest.mark.parametrize("error", OUTAGES, ids=OUTAGE_IDS)
def test_an_outage_in_the_middle_of_an_object_stops_the_run(data, use, error):
    use(Bucket(data, error, from_byte=len(data) // 2), whole_bytes=100)
    with pytest.raises(StoreError, match=f"cannot read {URI}"):
        decode_pyav(URI, [k / 5 for k in range(25)], SIZE)


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(URI),
        *(refusal(code) for code in ("NoSuchKey", "AccessDenied", "InvalidObjectState")),
    ],
    ids=["missing", "NoSuchKey", "AccessDenied", "InvalidObjectState"],
)
def test_what_concerns_one_object_is_its_own_failure(data, use, error):
    use(Bucket(data, error))
    with pytest.raises(ProbeError, match=f"{URI}: cannot be read"):
        probe_video({"uri": URI, "size_bytes": len(data)})
    with pytest.raises(DecodeError, match=f"{URI}: cannot be read"):
        decode_pyav(URI, [0.5], SIZE)


@pytest.mark.parametrize(
    ("code", "kind", "says"),
    [
        ("AccessDenied", ProbeError, "said the server"),
        ("ExpiredToken", StoreError, "the credentials were refused (ExpiredToken)"),
        ("SignatureDoesNotMatch", StoreError, "the credentials were refused (SignatureDoesNotMatch)"),
    ],
)
@pytest.mark.parametrize("status", ["400", "403"])
def test_a_bare_refusal_is_asked_for_its_reason(data, use, code, kind, says, status):
    use(Bucket(data, refusal(code), head=refusal(status)))
    with pytest.raises(kind) as found:
        probe_video({"uri": URI, "size_bytes": len(data)})
    assert says in str(found.value)


def test_nobody_at_the_endpoint(monkeypatch):
    for name, value in {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "very-private",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    kind = fsspec.get_filesystem_class("s3")
    kind.clear_instance_cache()
    with pytest.raises(StoreError, match="nothing answers at the endpoint; check AWS_ENDPOINT_URL") as found:
        probe_video({"uri": URI, "size_bytes": 9})
    kind.clear_instance_cache()
    assert "very-private" not in str(found.value)


def test_a_local_file_that_cannot_be_read_is_its_own_failure(tmp_path):
    with pytest.raises(ProbeError, match="No such file"):
        probe_video({"uri": str(tmp_path / "gone.mp4"), "size_bytes": 9})
    with pytest.raises(ProbeError, match="Is a directory"):
        probe_video({"uri": str(tmp_path), "size_bytes": 9})
