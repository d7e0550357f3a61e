"""The store, and what reads through it, against a real S3 server."""

import json
import threading
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs import show
from pipeline import rows, store
from pipeline.errors import ConfigError, StoreError
from pipeline.queries import load_queries
from tests.integration.s3_server import Bucket

pytestmark = pytest.mark.needs_ceph


def use(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    fsspec.get_filesystem_class("s3").clear_instance_cache()


def test_bytes_come_back_and_are_replaced_whole(s3: Bucket) -> None:
    uri = store.join(s3.uri, "a folder", "ä+b%20.bin")
    assert not store.exists(uri)
    store.write_bytes(uri, b"first")
    store.write_bytes(uri, b"second")
    assert store.read_bytes(uri) == b"second"
    assert store.exists(uri)
    assert store.exists(store.join(s3.uri, "a folder"))
    assert [entry.uri for entry in store.list_files(s3.uri)] == [uri]
    store.delete(uri)
    store.delete(uri)
    assert not store.exists(uri)


def test_a_table_comes_back(s3: Bucket) -> None:
    uri = store.join(s3.uri, "t", "part.parquet")
    table = pa.table({"n": list(range(1000))})
    store.write_table(uri, table)
    fs, path = store.open_fs(uri)
    with fs.open(path, "rb") as file:
        found = pq.ParquetFile(file)
        assert found.read().equals(table)
        assert found.metadata.row_group(0).column(0).compression == "ZSTD"


def test_a_reader_never_sees_half_a_file(s3: Bucket) -> None:
    uri = store.join(s3.uri, "swap.bin")
    size = 3_000_000
    store.write_bytes(uri, b"0" * size)
    seen: list[bytes] = []
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            seen.append(store.read_bytes(uri))

    reader = threading.Thread(target=read)
    reader.start()
    for digit in b"123456":
        store.write_bytes(uri, bytes([digit]) * size)
    stop.set()
    reader.join()
    assert seen
    assert all(len(data) == size and len(set(data)) == 1 for data in seen)


def test_a_move_can_be_repeated_at_every_point(s3: Bucket) -> None:
    source, target = store.join(s3.uri, "staging", "p"), store.join(s3.uri, "answers", "p")
    store.write_bytes(source, b"rows")
    store.move(source, target)
    store.move(source, target)
    store.write_bytes(source, b"rows")  # as if the copy was made and the delete was not
    store.move(source, target)
    assert store.read_bytes(target) == b"rows"
    assert [entry.uri for entry in store.list_files(s3.uri)] == [target]
    with pytest.raises(StoreError, match="no such object"):
        store.move(store.join(s3.uri, "never"), store.join(s3.uri, "was"))


def test_listing_pages_in_order(s3: Bucket) -> None:
    fs, bucket = store.open_fs(s3.uri)
    names = {f"{bucket}/in/{n % 7}/{n:04d}.mp4": b"v" for n in range(1050)}
    # not all at once: a server on a busy machine would let some wait for too long
    fs.pipe({**names, f"{bucket}/in/": b"", f"{bucket}/inside.mp4": b"v"}, batch_size=16)
    found = list(store.list_files(store.join(s3.uri, "in")))
    assert [entry.uri for entry in found] == sorted(f"s3://{name}" for name in names)
    assert {entry.size_bytes for entry in found} == {1}
    assert found[0].etag
    assert '"' not in found[0].etag
    one = store.join(s3.uri, "inside.mp4")
    assert [entry.uri for entry in store.list_files(one)] == [one]


def test_a_listing_sees_what_was_written_since_the_last_one(s3: Bucket) -> None:
    store.write_bytes(store.join(s3.uri, "d", "a"), b"")
    first = list(store.list_files(store.join(s3.uri, "d")))
    other = fsspec.get_filesystem_class("s3")(skip_instance_cache=True)
    other.pipe_file(f"{s3.uri}/d/b", b"")
    assert len(first) == 1
    assert len(list(store.list_files(store.join(s3.uri, "d")))) == 2


def test_an_empty_folder_is_an_error_unless_it_may_be_missing(s3: Bucket) -> None:
    nothing = store.join(s3.uri, "nothing")
    assert list(store.list_files(nothing, missing_ok=True)) == []
    assert list(store.list_files(s3.uri)) == []
    with pytest.raises(StoreError, match="no such object or folder in bucket"):
        list(store.list_files(nothing))


@pytest.mark.usefixtures("s3")
def test_a_missing_bucket_is_named() -> None:
    for act in (
        lambda: list(store.list_files("s3://not-there-at-all", missing_ok=True)),
        lambda: store.write_bytes("s3://not-there-at-all/a", b""),
        lambda: store.read_bytes("s3://not-there-at-all/a"),
    ):
        with pytest.raises(StoreError, match=r"no bucket 'not-there-at-all'.*AWS_ENDPOINT_URL"):
            act()


@pytest.mark.parametrize(
    ("variable", "code"),
    [("AWS_SECRET_ACCESS_KEY", "SignatureDoesNotMatch"), ("AWS_ACCESS_KEY_ID", "InvalidAccessKeyId")],
)
def test_wrong_credentials_name_the_variables_and_not_their_values(
    s3: Bucket, monkeypatch: pytest.MonkeyPatch, variable: str, code: str
) -> None:
    use(monkeypatch, **{variable: "wrong-and-private"})
    with pytest.raises(StoreError, match=f"{code}.*AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY") as caught:
        store.write_bytes(store.join(s3.uri, "a"), b"x")
    assert "wrong-and-private" not in str(caught.value)
    with pytest.raises(StoreError, match="AWS_ACCESS_KEY_ID"):
        store.exists(store.join(s3.uri, "a"))


def test_a_silent_endpoint_is_reported_soon(s3: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, AWS_ENDPOINT_URL="http://127.0.0.1:1")
    with pytest.raises(StoreError, match="nothing answers at the endpoint; check AWS_ENDPOINT_URL"):
        store.read_bytes(store.join(s3.uri, "a"))


def test_a_host_name_without_a_name_per_bucket_works(s3: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, AWS_ENDPOINT_URL=s3.server.endpoint.replace("127.0.0.1", "localhost"))
    store.write_bytes(store.join(s3.uri, "a"), b"x")
    assert store.read_bytes(store.join(s3.uri, "a")) == b"x"


def test_no_credentials_at_all(s3: Bucket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    nowhere = str(tmp_path / "none")
    use(
        monkeypatch,
        AWS_EC2_METADATA_DISABLED="true",
        AWS_SHARED_CREDENTIALS_FILE=nowhere,
        AWS_CONFIG_FILE=nowhere,
    )
    with pytest.raises(StoreError, match="no credentials; set AWS_ACCESS_KEY_ID"):
        store.write_bytes(store.join(s3.uri, "a"), b"x")


def test_show_reads_a_bucket_and_nothing_else(s3: Bucket, capsys: pytest.CaptureFixture[str]) -> None:
    out = store.join(s3.uri, "out [1]*")
    for number in range(2):
        videos = [rows.fill({"uri": f"{number}.mp4", "status": "ok"}, rows.VIDEOS)]
        store.write_table(store.join(out, "videos", f"p{number}.parquet"), rows.to_table(videos, rows.VIDEOS))
    store.write_table(store.join(s3.uri, "other.parquet"), pa.table({"secret": [1]}))
    assert show.main([out, "SELECT uri FROM videos ORDER BY uri", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == [{"uri": "0.mp4"}, {"uri": "1.mp4"}]
    assert show.main([out]) == 0
    assert "  videos   2 (ok 2)" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="Permission Error"):
        show.main([out, f"SELECT * FROM '{s3.uri}/other.parquet'"])
    with pytest.raises(ConfigError, match="no such folder"):
        show.main([store.join(s3.uri, "nothing")])


def test_queries_are_read_from_a_bucket(s3: Bucket) -> None:
    uri = store.join(s3.uri, "questions", "q.jsonl")
    store.write_bytes(uri, b'{"query_id": "dog", "text": "a dog", "kind": "find"}')
    assert [query.text for query in load_queries(uri)] == ["a dog"]
    with pytest.raises(ConfigError, match="no such query file"):
        load_queries(store.join(s3.uri, "q.csv"))
