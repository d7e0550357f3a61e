"""Finding videos in buckets of a real S3 server: names, patterns, manifests, and everything that can be wrong."""

import json

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import store
from pipeline.errors import ConfigError, StoreError
from pipeline.listing import list_videos
from tests.integration.s3_server import Bucket

pytestmark = pytest.mark.needs_ceph

NAMES = [
    "a b.mp4",
    "ünï 日本.mp4",
    "line\nbreak.mp4",
    "x/../y.mp4",
    "%2F.mp4",
    "#1.mp4",
    "who?.mp4",
    "*.mp4",
    "[1].mp4",
    "a+b&c=d.mp4",
    "two//slashes.mp4",
    "/begins.mp4",
    "a://b.mp4",
    "l" * 996 + ".mp4",
]


def put(s3: Bucket, *keys: str, data: bytes = b"video") -> None:
    fs, bucket = store.open_fs(s3.uri)
    for key in keys:
        fs.call_s3("put_object", Bucket=bucket, Key=key, Body=data)


def keys(s3: Bucket, uri: str) -> list[str]:
    return [row["uri"].removeprefix(f"{s3.uri}/") for row in list_videos(uri)]


def use(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    fsspec.get_filesystem_class("s3").clear_instance_cache()


def deny(s3: Bucket, action: str, key: str) -> None:
    fs, bucket = store.open_fs(s3.uri)
    statement = {
        "Effect": "Deny",
        "Principal": "*",
        "Action": action,
        "Resource": f"arn:aws:s3:::{bucket}{key}",
    }
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    fs.call_s3("put_bucket_policy", Bucket=bucket, Policy=policy)


class TestNames:
    def test_any_key_is_listed_as_it_is(self, s3: Bucket) -> None:
        put(s3, *NAMES)
        assert keys(s3, s3.uri) == sorted(NAMES, key=str.encode)

    @pytest.mark.parametrize("name", NAMES)
    def test_an_existing_key_is_literal(self, s3: Bucket, name: str) -> None:
        put(s3, name, "other.mp4")
        assert keys(s3, f"{s3.uri}/{name}") == [name]
        write_manifest(s3, "list.txt" if "\n" not in name else "list.csv", name)
        [row] = list_videos(f"{s3.uri}/{'list.txt' if chr(10) not in name else 'list.csv'}")
        assert (row["uri"], row["size_bytes"], row["error_type"]) == (f"{s3.uri}/{name}", 5, "")

    def test_an_object_and_a_folder_of_one_name(self, s3: Bucket) -> None:
        put(s3, "clip.mp4", "clip.mp4/part.mp4", "clip.mp4-2.mp4", "marker/", "marker/a.mp4")
        assert keys(s3, f"{s3.uri}/clip.mp4") == ["clip.mp4", "clip.mp4/part.mp4"]
        assert keys(s3, f"{s3.uri}/clip.mp4/") == ["clip.mp4/part.mp4"]
        assert keys(s3, f"{s3.uri}/marker") == ["marker/a.mp4"]

    def test_a_pattern_asks_only_for_what_it_begins_with(
        self, s3: Bucket, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put(
            s3,
            "cams/2026-01/a.mp4",
            "cams/2026-02/b.mp4",
            "cams/2026-02/b.jpg",
            "cams/2025/c.mp4",
            "cams [x]/d.mp4",
        )
        fs, _ = store.open_fs(s3.uri)
        asked: list[str] = []
        call = fs.call_s3

        def listen(method: str, **arguments: object) -> object:
            if method == "list_objects_v2":
                asked.append(str(arguments["Prefix"]))
            return call(method, **arguments)

        monkeypatch.setattr(fs, "call_s3", listen)
        assert keys(s3, f"{s3.uri}/cams/2026-0*/*.mp4") == ["cams/2026-01/a.mp4", "cams/2026-02/b.mp4"]
        assert asked == ["cams/2026-0"]
        assert keys(s3, f"{s3.uri}/cams [x]/*") == ["cams [x]/d.mp4"]
        assert keys(s3, f"{s3.uri}/**/c.*") == ["cams/2025/c.mp4"]


def write_manifest(s3: Bucket, name: str, *uris: str) -> str:
    lines = [f"./{uri}" if not uri.startswith(("s3://", "gs://", "/")) else uri for uri in uris]
    if uris[0].startswith("/"):
        lines[0] = f"{s3.uri}/{uris[0]}"
    text = "".join(f"{line}\n" for line in lines)
    if name.endswith(".csv"):
        text = "uri\n" + "".join(f'"{line}"\n' for line in lines)
    store.write_bytes(store.join(s3.uri, name), text.encode())
    return store.join(s3.uri, name)


class TestManifest:
    def test_what_cannot_be_had_is_a_failed_row(self, s3: Bucket) -> None:
        put(s3, "lists/a.mp4", "b.mp4", "closed.mp4", "folder/c.mp4")
        deny(s3, "s3:GetObject", "/closed.mp4")
        uris = ["a.mp4", "../b.mp4", "gone.mp4", "../folder", "../folder/", f"{s3.uri}/closed.mp4", "gs://b/x.mp4",
                "s3://no-such-bucket-here/x.mp4", "s3://not a bucket/x.mp4", "k" * 1100, "../b.mp4"]  # fmt: skip
        path = store.join(s3.uri, "lists", "list.txt")
        store.write_bytes(path, "\n".join(uris).encode())
        rows = list(list_videos(path))
        good, bad = rows[:2], rows[2:]
        assert [row["uri"] for row in good] == [f"{s3.uri}/lists/a.mp4", f"{s3.uri}/b.mp4"]
        assert not any(row["error_type"] for row in good)
        words = [
            "no such object", "a folder, expected a file", "a folder, expected a file",
            "access denied: the credentials may list the bucket",
            "cannot read gs://", "no bucket 'no-such-bucket-here'", "no bucket can be called 'not a bucket'",
            "longer than 1024 bytes",
        ]  # fmt: skip
        for row, expected in zip(bad, words, strict=True):
            assert row["error_type"] == "ProbeError"
            assert expected in row["error_message"]
            assert f"({path} names it)" in row["error_message"]

    def test_rows_are_those_of_a_listing(self, s3: Bucket) -> None:
        put(s3, *(f"in/{n:04d}.mp4" for n in range(1100)))
        listed = list(list_videos(f"{s3.uri}/in/"))
        path = write_manifest(s3, "list.csv", *(row["uri"] for row in reversed(listed)))
        assert list(list_videos(path)) == listed[::-1]

    def test_parquet_with_size_and_etag_asks_for_no_object(self, s3: Bucket) -> None:
        put(s3, "in/a.mp4")
        [listed] = list_videos(f"{s3.uri}/in/")
        columns = {
            "uri": ["in/a.mp4", "never.mp4"],
            "size_bytes": [5, 9],
            "etag": [f'"{listed["etag"]}"', "e"],
        }
        store.write_table(store.join(s3.uri, "list.parquet"), pa.table(columns))
        rows = list(list_videos(store.join(s3.uri, "list.parquet")))
        assert rows[0] == listed
        assert (rows[1]["size_bytes"], rows[1]["error_type"]) == (9, "")

    def test_many_row_groups_are_read_one_after_the_other(self, s3: Bucket, tmp_path) -> None:
        uris = [f"s3://elsewhere/{n}.mp4" for n in range(5000)]
        table = pa.table({"uri": uris, "size_bytes": [1] * 5000, "etag": ["e"] * 5000})
        pq.write_table(table, tmp_path / "list.parquet", row_group_size=700)
        store.write_bytes(store.join(s3.uri, "list.parquet"), (tmp_path / "list.parquet").read_bytes())
        assert [row["uri"] for row in list_videos(store.join(s3.uri, "list.parquet"))] == uris

    def test_refused_credentials_stop_it(self, s3: Bucket, monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
        put(s3, "a.mp4")
        (tmp_path / "list.txt").write_text(f"{s3.uri}/a.mp4\n")
        use(monkeypatch, AWS_SECRET_ACCESS_KEY="wrong-and-private")
        with pytest.raises(StoreError, match="AWS_SECRET_ACCESS_KEY") as raised:
            list(list_videos(str(tmp_path / "list.txt")))
        assert "wrong-and-private" not in str(raised.value)

    def test_a_silent_endpoint_stops_it(self, s3: Bucket, monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
        (tmp_path / "list.txt").write_text("".join(f"{s3.uri}/{n}.mp4\n" for n in range(200)))
        use(monkeypatch, AWS_ENDPOINT_URL="http://127.0.0.1:1")
        with pytest.raises(StoreError, match="nothing answers at the endpoint"):
            list(list_videos(str(tmp_path / "list.txt")))


class TestNothing:
    """Each mistake has its own message; a wrong place is the user's (exit code 2), a closed one the store's (3)."""

    def test_an_empty_prefix_and_an_empty_bucket(self, s3: Bucket) -> None:
        for uri in (s3.uri, f"{s3.uri}/", f"{s3.uri}/nothing", f"{s3.uri}/nothing/", f"{s3.uri}/no-*"):
            with pytest.raises(ConfigError, match=r"no videos at .*: no object has a key that begins so"):
                list(list_videos(uri))

    def test_a_prefix_without_videos(self, s3: Bucket) -> None:
        put(s3, *(f"pics/{n}.jpg" for n in range(3)))
        with pytest.raises(
            ConfigError, match=r"looked at 3 other files for .*\.mp4.*, the first was .*pics/0\.jpg"
        ):
            list(list_videos(f"{s3.uri}/pics"))

    @pytest.mark.usefixtures("s3")
    @pytest.mark.parametrize("name", ["", "/", "/in/", "/in/a.mp4", "/in/*.mp4", "/list.csv"])
    def test_no_such_bucket(self, name: str) -> None:
        with pytest.raises(StoreError, match=r"no bucket 'no-such-bucket-here' at this endpoint; check"):
            list(list_videos(f"s3://no-such-bucket-here{name}"))

    def test_no_permission_to_list(self, s3: Bucket) -> None:
        put(s3, "in/a.mp4")
        deny(s3, "s3:ListBucket", "")
        with pytest.raises(StoreError, match=r"cannot list .*: access denied \(AccessDenied\)"):
            list(list_videos(f"{s3.uri}/in/"))

    @pytest.mark.parametrize(
        ("variable", "value", "message"),
        [
            (
                "AWS_SECRET_ACCESS_KEY",
                "wrong-and-private",
                "credentials were refused .SignatureDoesNotMatch.",
            ),
            ("AWS_ACCESS_KEY_ID", "wrong-and-private", "credentials were refused .InvalidAccessKeyId."),
            (
                "AWS_ENDPOINT_URL",
                "http://127.0.0.1:1",
                "nothing answers at the endpoint; check AWS_ENDPOINT_URL",
            ),
        ],
    )
    def test_a_way_that_is_closed(
        self, s3: Bucket, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, message: str
    ) -> None:
        use(monkeypatch, **{variable: value})
        with pytest.raises(StoreError, match=message):
            list(list_videos(f"{s3.uri}/in/"))
