"""Creating a file that nobody else creates, on a disk; buckets: tests/integration/test_s3_exclusive.py."""

import errno
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline import exclusive, store
from pipeline.errors import StoreError


def test_of_many_at_once_one_creates_it(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        for number in range(50):
            uri = str(tmp_path / "new" / str(number))
            won = list(pool.map(lambda me, uri=uri: exclusive.create_only(uri, b"%d" % me), range(8)))
            assert won.count(True) == 1
            assert store.read_bytes(uri) == b"%d" % won.index(True)
    assert len(list((tmp_path / "new").iterdir())) == 50, "temporary files stayed"


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOTSUP])
def test_a_file_system_without_hard_links_does_it_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, "no links here")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    uri = str(tmp_path / "f")
    assert exclusive.create_only(uri, b"first")
    assert not exclusive.create_only(uri, b"second")
    assert [path.name for path in tmp_path.iterdir()] == ["f"]
    assert store.read_bytes(uri) == b"first"


def test_what_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    with pytest.raises(StoreError, match=r"cannot write .*f/below"):
        exclusive.create_only(str(tmp_path / "f" / "below"), b"")
