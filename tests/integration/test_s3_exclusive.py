"""Creating an object that nobody else creates: on a server with conditional puts, and on one that ignores them."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import fsspec
import pytest

from jobs.fault_proxy import FaultProxy
from pipeline import exclusive, store
from tests.integration.s3_server import Bucket

pytestmark = pytest.mark.needs_ceph


def test_of_many_at_once_one_creates_it(s3: Bucket) -> None:
    with ThreadPoolExecutor(8) as pool:
        for number in range(20):
            uri = store.join(s3.uri, f"o{number}")
            won = list(pool.map(lambda me, uri=uri: exclusive.create_only(uri, b"%d" % me), range(8)))
            assert won.count(True) == 1
            assert store.read_bytes(uri) == b"%d" % won.index(True)


def test_a_put_whose_answer_was_lost_counts(s3: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = store.join(s3.uri, "o")
    store.write_bytes(uri, b"mine")
    monkeypatch.setattr(store, "exists", lambda _: False)
    assert exclusive.create_only(uri, b"mine")
    assert not exclusive.create_only(uri, b"another's")


@pytest.fixture
def careless(s3: Bucket, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """A server that takes a put whatever its conditions say: the object is deleted before each that is passed on."""
    direct = fsspec.get_filesystem_class("s3")(skip_instance_cache=True)
    assert direct.exists(s3.uri)  # it looks up the endpoint when it is first asked
    proxy = FaultProxy(s3.server.endpoint)

    def forget(verb: str, path: str) -> None:
        if verb == "PUT":
            direct.rm_file(path.lstrip("/"))

    proxy.on_request = forget
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.address)
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    yield s3
    proxy.refuse()


def test_a_server_that_ignores_conditions_is_found_out(
    careless: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = store.join(careless.uri, "o")
    other: list[bool] = []

    def meanwhile(_: float) -> None:
        """Another, who had looked for the object before it was written, writes it while the first one waits."""
        if not other:
            other.append(False)
            with monkeypatch.context() as patch:
                patch.setattr(store, "exists", lambda _: False)
                other[0] = exclusive.create_only(uri, b"other")

    monkeypatch.setattr(exclusive.time, "sleep", meanwhile)
    assert not exclusive.create_only(uri, b"one")
    assert other == [True]
    assert store.read_bytes(uri) == b"other"
    assert not exclusive.create_only(uri, b"late")
