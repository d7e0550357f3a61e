"""What becomes of a read that fails: a failed row when it is the object's fault, a stopped run when it is the store's.

The line and the server are real ones in tests/integration/test_s3_faults.py; here every answer is made up.
"""

import asyncio
import random
from collections.abc import Iterator
from typing import Any

import aiohttp
import botocore.exceptions
import fsspec
import pytest
from botocore.exceptions import ClientError
from fsspec.asyn import get_loop
from s3fs.errors import translate_boto_error

from pipeline import ranges, refusals, store
from pipeline.errors import DecodeError, StoreError
from pipeline.ranges import Pinned, fetch

DATA = bytes(range(256)) * 40
PINNED = Pinned("s3://bucket/folder/a.mkv", len(DATA), "e7a9")


def refusal(code: str, status: int = 400) -> Exception:
    """Return what s3fs raises when the server answers with a code."""
    answer = {
        "Error": {"Code": code, "Message": "said the server"},
        "ResponseMetadata": {"HTTPStatusCode": status},
    }
    return translate_boto_error(ClientError(answer, "GetObject"))


class Body:
    """Bytes of an answer that may break off with an error."""

    def __init__(self, pieces: list[bytes], error: Exception | None) -> None:
        self.pieces, self.error = pieces, error
        self.is_closed = False

    async def read(self, _num_bytes: int) -> bytes:
        if self.pieces:
            return self.pieces.pop(0)
        if self.error:
            raise self.error
        return b""

    def close(self) -> None:
        self.is_closed = True


class Server:
    """Answers reads of one object: the first ones as told, the others in full.

    A step is an error instead of an answer; or how many bytes come before the error in it; or headers that differ.
    """

    loop = get_loop()

    def __init__(self, *steps: Any) -> None:
        self.steps = list(steps)
        self.others: dict[str, Any] = {}
        self.may_list: Exception | None = refusal("ServiceUnavailable", 503)
        self.asked: list[dict[str, Any]] = []
        self.bodies: list[Body] = []

    async def _call_s3(self, method: str, **request: Any) -> dict[str, Any]:
        if method == "list_objects_v2":
            if self.may_list:
                raise self.may_list
            return {"Contents": [{"Key": key} for key in ["folder/a.mkv", *self.others]]}
        assert method == "get_object"
        if request["Key"] in self.others:
            step = self.others[request["Key"]]
            if isinstance(step, Exception):
                raise step
            return {"Body": Body([step], None)}
        self.asked.append(request)
        step = self.steps.pop(0) if self.steps else None
        if isinstance(step, Exception):
            raise step
        if step == "never":
            await asyncio.sleep(60)
        first, last = (int(number) for number in request["Range"].removeprefix("bytes=").split("-"))
        data = DATA[first : last + 1]
        num_bytes, error = step if isinstance(step, tuple) else (len(data), None)
        self.bodies.append(Body([data[: num_bytes // 2], data[num_bytes // 2 : num_bytes]], error))
        headers = {"ContentRange": f"bytes {first}-{last}/{len(DATA)}", "ETag": f'"{PINNED.etag}"'}
        return {**headers, "Body": self.bodies[-1], **(step if isinstance(step, dict) else {})}


class Clock:
    """Time that passes with the waits between requests alone: patience ends after as many on any machine."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr(ranges, "time", Clock())
    monkeypatch.setattr(random, "uniform", lambda _, longest: longest)
    server = Server()

    def use(*steps: Any) -> Server:
        server.steps = list(steps)
        return server

    monkeypatch.setattr(store, "open_fs", lambda uri: (server, uri))
    yield use
    assert all(body.is_closed for body in server.bodies)


def read(start: int = 0, stop: int = len(DATA), pinned: Pinned = PINNED) -> tuple[bytes, int]:
    received = bytearray()
    num_requests = fetch(pinned, start, stop, received.extend, DecodeError)
    return bytes(received), num_requests


def test_one_request_of_one_version(serve):
    server = serve()
    assert read(100, 300) == (DATA[100:300], 1)
    [asked] = server.asked
    assert asked == {"Bucket": "bucket", "Key": "folder/a.mkv", "Range": "bytes=100-299", "IfMatch": '"e7a9"'}


def test_nothing_asks_for_nothing(serve):
    server = serve()
    assert read(5, 5) == (b"", 0)
    assert not server.asked


OUTAGES = [
    refusal("SlowDown", 503),
    refusal("503", 503),
    refusal("InternalError", 500),
    refusal("SomethingNew", 500),
    TimeoutError("no answer"),
    ConnectionRefusedError("refused"),
    ConnectionResetError("reset"),
    OSError("short read"),
    aiohttp.ClientPayloadError("broke off"),
    botocore.exceptions.EndpointConnectionError(endpoint_url="http://x"),
    botocore.exceptions.NoCredentialsError(),
]
IDS = [f"{type(error).__name__}-{number}" for number, error in enumerate(OUTAGES)]


@pytest.mark.parametrize("error", OUTAGES, ids=IDS)
def test_a_read_is_taken_up_where_it_broke(serve, error):
    server = serve(error, (1000, error), error, (500, error), (500, None))
    assert read(50, 5000) == (DATA[50:5000], 6)
    firsts = [int(asked["Range"].removeprefix("bytes=").split("-")[0]) for asked in server.asked]
    assert firsts == [50, 50, 1050, 1050, 1550, 2050]


@pytest.mark.parametrize("error", OUTAGES, ids=IDS)
def test_an_outage_that_lasts_stops_the_run(serve, error):
    server = serve(*[error] * 10_000)
    with pytest.raises(
        StoreError, match=f"cannot read {PINNED.uri}: .*; run the same command again"
    ) as found:
        read()
    assert error in (found.value.__cause__, found.value.__cause__.__cause__)
    assert len(server.asked) == 16


def test_a_line_that_always_breaks_is_given_up(serve, monkeypatch):
    monkeypatch.setattr(ranges, "FIRST_WAIT_S", ranges.LONGEST_WAIT_S)
    serve(*[(2, ConnectionResetError("reset"))] * 10_000)
    with pytest.raises(StoreError, match=r"ConnectionResetError: reset \(tried for 90 s\)"):
        read()


@pytest.mark.parametrize("name", ["STALL_S", "PATIENCE_S"])
def test_a_store_that_never_answers_is_given_up(serve, monkeypatch, name):
    serve(*["never"] * 1000)
    monkeypatch.setattr(ranges, name, 0.02)
    with pytest.raises(StoreError, match="the store does not answer in time"):
        read()


def test_a_stalled_request_is_made_anew(serve, monkeypatch):
    serve("never")
    monkeypatch.setattr(ranges, "STALL_S", 1.0)
    assert read() == (DATA, 2)


@pytest.mark.parametrize(
    "code", ["ExpiredToken", "InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "NoSuchBucket"]
)
def test_what_no_retry_mends_stops_the_run_at_once(serve, code):
    server = serve(refusal(code, 403))
    with pytest.raises(StoreError, match=f"cannot read {PINNED.uri}: .*; run the same command again"):
        read()
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (FileNotFoundError("a.mkv"), "is gone now; run again to leave it out"),
        (refusal("NoSuchKey", 404), "is gone now; run again to leave it out"),
        (refusal("404", 404), "is gone now"),
        (refusal("PreconditionFailed", 412), "has changed since it was listed; run again"),
        (refusal("412", 412), "has changed since it was listed"),
        (refusal("InvalidRange", 416), "has changed since it was listed"),
        (refusal("AccessDenied", 403), r"cannot be read: access denied \(AccessDenied\)"),
        (refusal("InvalidObjectState", 403), "cannot be read: "),
    ],
    ids=lambda value: "" if isinstance(value, str) else refusals.error_code(value) or "missing",
)
@pytest.mark.parametrize("after", [False, True], ids=["at once", "later"])
def test_what_concerns_one_object_is_its_own_failure(serve, error, says, after):
    server = serve(*[(1000, ConnectionResetError())] * after, error)
    with pytest.raises(DecodeError, match=says) as found:
        read()
    assert PINNED.uri in str(found.value)
    assert len(server.asked) == 1 + after


@pytest.mark.parametrize(
    "answer",
    [
        {"ETag": '"another"'},
        {"ContentRange": f"bytes 0-{len(DATA) - 1}/{len(DATA) + 1}"},
        {"ContentRange": ""},
    ],
    ids=["ETag", "size", "no range"],
)
def test_a_server_that_ignores_conditions_gives_no_other_version(serve, answer):
    serve((1000, ConnectionResetError()), answer)
    with pytest.raises(DecodeError, match="has changed since it was listed"):
        read()


WRONG = [
    refusal("InvalidRequest", 400),
    refusal("KMS.DisabledException", 400),
    refusal("400", 400),
    refusal("MethodNotAllowed", 405),
]


@pytest.mark.parametrize("error", WRONG, ids=refusals.error_code)
def test_a_request_that_is_wrong_for_one_object_fails_it_at_once(serve, error):
    server = serve(error)
    server.may_list, server.others = None, {"b.mkv": b"x"}
    with pytest.raises(DecodeError, match=f"{PINNED.uri}: cannot be read: .*{refusals.error_code(error)}"):
        read()
    assert len(server.asked) == 1


@pytest.mark.parametrize("error", WRONG, ids=refusals.error_code)
def test_a_request_that_is_wrong_for_the_bucket_stops_the_run(serve, error):
    server = serve(*[error] * 10_000)
    server.may_list = error
    with pytest.raises(StoreError, match=f"cannot read .*{refusals.error_code(error)}"):
        read()


ITS_OWN = [refusal("InternalError", 500), ConnectionResetError("reset"), (2, ConnectionResetError("reset"))]


@pytest.mark.parametrize("step", ITS_OWN, ids=["500", "reset", "breaks"])
@pytest.mark.parametrize(
    "others",
    [
        {"b": b"x"},
        {},
        {"b": refusal("InternalError", 500), "c": b"x"},
        {"b": refusal("InvalidRequest", 400)},
    ],
    ids=["one", "none", "a bad one", "an odd one"],
)
def test_an_object_that_cannot_be_read_while_others_can_is_its_own_failure(serve, step, others):
    server = serve(*[step] * 10_000)
    server.may_list, server.others = None, others
    with pytest.raises(
        DecodeError, match=rf"{PINNED.uri}: cannot be read: .*\(tried for 90 s\), while its bucket"
    ):
        read()


def test_an_object_that_never_comes_while_others_do_is_its_own_failure(serve, monkeypatch):
    server = serve(*["never"] * 1000)
    server.may_list, server.others = None, {"b": b"x"}
    monkeypatch.setattr(ranges, "PATIENCE_S", 0.1)
    with pytest.raises(DecodeError, match="does not answer in time"):
        read()


def test_credentials_that_may_not_list_can_still_tell_one_object(serve):
    server = serve(*[refusal("InternalError", 500)] * 10_000)
    server.may_list = refusal("AccessDenied", 403)
    with pytest.raises(DecodeError, match="InternalError"):
        read()


@pytest.mark.parametrize("others", [{"b": refusal("InternalError", 500)}, {"b": ConnectionResetError()}])
def test_a_bucket_that_is_listed_but_gives_no_bytes_stops_the_run(serve, others):
    server = serve(*[refusal("InternalError", 500)] * 10_000)
    server.may_list, server.others = None, others
    with pytest.raises(StoreError, match="InternalError"):
        read()


@pytest.mark.parametrize("code", ["SlowDown", "KMS.ThrottlingException", "RequestTimeTooSkewed"])
def test_a_store_that_asks_for_patience_is_not_taken_for_a_bad_object(serve, code):
    server = serve(*[refusal(code, 400)] * 10_000)
    server.may_list = refusal(code, 400)
    with pytest.raises(StoreError, match=code):
        read()
    server.may_list, server.others = None, {"b": b"x"}
    if code != "RequestTimeTooSkewed":
        with pytest.raises(StoreError, match=code):
            read()


def test_an_answer_of_other_bytes_is_not_used(serve):
    serve({"ContentRange": f"bytes 7-{len(DATA) - 1}/{len(DATA)}"})
    assert read() == (DATA, 2)


def test_without_an_etag_only_the_size_is_held(serve):
    server = serve({"ETag": '"any"'})
    assert read(pinned=Pinned(PINNED.uri, len(DATA), "")) == (DATA, 1)
    assert "IfMatch" not in server.asked[0]


@pytest.mark.parametrize(
    ("listed", "answered"), [('W/"e7a9"', 'W/"e7a9"'), ('W/"e7a9"', '"e7a9"'), ('"e7a9"', 'W/"e7a9"')]
)
def test_a_weak_etag_is_compared_and_not_sent(serve, listed, answered):
    pinned = Pinned(PINNED.uri, len(DATA), store.listed_etag(listed))
    server = serve({"ETag": answered})
    assert read(pinned=pinned) == (DATA, 1)
    assert ("IfMatch" in server.asked[0]) == (not listed.startswith("W/"))
    serve({"ETag": 'W/"another"'})
    with pytest.raises(DecodeError, match="has changed since it was listed"):
        read(pinned=pinned)


def test_a_weak_etag_is_kept_as_it_was_listed():
    assert [store.listed_etag(text) for text in ('"abc"', 'W/"abc"', "abc")] == ["abc", 'W/"abc"', "abc"]


def test_nobody_at_the_endpoint(monkeypatch: pytest.MonkeyPatch):
    for name, value in {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "very-private",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(ranges, "PATIENCE_S", 0.3)
    kind = fsspec.get_filesystem_class("s3")
    kind.clear_instance_cache()
    with pytest.raises(
        StoreError, match=f"cannot read {PINNED.uri}: .*; run the same command again"
    ) as found:
        read()
    kind.clear_instance_cache()
    assert "very-private" not in str(found.value)
