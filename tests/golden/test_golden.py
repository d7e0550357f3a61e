"""What strangers build on changes only on purpose: `make golden` writes these files anew."""

import pytest

from tests.golden import regenerate


@pytest.mark.parametrize("name", regenerate.GOLDEN)
def test_nothing_public_changed_unseen(name: str) -> None:
    golden = (regenerate.FOLDER / name).read_text()
    assert golden.strip(), f"{name} is empty: the pattern that reads it fits no more"
    assert regenerate.GOLDEN[name]() == golden, (
        f"{name} is out of date: run `make golden` and review the change"
    )


def test_every_golden_file_has_a_source() -> None:
    assert {path.name for path in regenerate.FOLDER.glob("*.txt")} == set(regenerate.GOLDEN)
