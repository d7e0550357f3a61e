"""What counts as lost, duplicated and different, and what is refused."""

import pytest

from jobs import bench_chaos
from pipeline.errors import ConfigError

WHOLE = {"videos": {("a",): ["a"]}, "answers": {("a", "q"): ["yes"], ("b", "q"): ["no"]}}


@pytest.mark.parametrize(
    ("answers", "lost", "duplicated", "different"),
    [
        ({("a", "q"): ["yes"], ("b", "q"): ["no"]}, 0, 0, 0),
        ({("a", "q"): ["yes"]}, 1, 0, 0),
        ({("a", "q"): ["yes", "yes"], ("b", "q"): ["no"]}, 0, 1, 0),
        ({("a", "q"): ["yes", "no"], ("b", "q"): ["no"]}, 0, 1, 1),
        ({("a", "q"): ["yes"], ("b", "q"): ["perhaps"]}, 0, 0, 1),
        ({("a", "q"): ["yes"], ("b", "q"): ["no"], ("c", "q"): ["yes"]}, 0, 1, 0),
        ({}, 2, 0, 0),
    ],
)
def test_rows_are_counted_by_key(answers, lost, duplicated, different):
    found = bench_chaos.compare(WHOLE, {**WHOLE, "answers": answers})
    assert found == {"lost": lost, "duplicated": duplicated, "different": different}


@pytest.mark.parametrize(("s3", "endpoint"), [("", "http://h:1"), ("/disk", "http://h:1"), ("s3://b/p", "")])
def test_without_a_server_of_ones_own_nothing_starts(monkeypatch, s3, endpoint):
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    with pytest.raises(ConfigError, match="`make chaos` starts one"):
        bench_chaos.main(["--s3", s3])
