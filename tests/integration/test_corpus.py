"""The awkward files through the product's own reader: which picture comes, and what is said of each file."""

import shutil

import pytest

from jobs.bench_decode_corpus import check_corpus, child_peak_mb
from jobs.corpus import CASES, make_corpus
from pipeline.config import DecodeConfig, WindowConfig
from pipeline.errors import ProbeError
from pipeline.isolation import Reader
from pipeline.listing import list_videos

pytestmark = pytest.mark.skipif(
    shutil.which("ffmpeg") is None, reason="ffmpeg makes the awkward videos; apt-get install ffmpeg"
)
MOST_MB = 200


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    make_corpus(folder, small=True)
    return folder


def test_no_wrong_picture_under_a_good_flag_in_either_order(corpus):
    checked = check_corpus(corpus, small=True, tell=lambda _: None)
    assert len(checked) > 30
    for item in checked:
        assert item.num_wrong == item.num_wrong_stale, item
        # after a hole that nothing tells of, pictures are doubtful until the next key picture, and some are wrong
        assert item.num_wrong_stale == 0 or item.name == "hole.ts", item
        # of pictures lost one by one at the edge of a hole nothing tells: the one before stands in, 33 ms late
        assert item.num_late <= 1, item
        if item.group == "intact":
            assert (item.num_wrong, item.num_lacking, item.error) == (0, 0, ""), item
    assert 0 < child_peak_mb() < MOST_MB


@pytest.mark.parametrize("name", [case.name for case in CASES if case.is_small])
def test_every_file_gets_its_verdict(corpus, name):
    case = next(case for case in CASES if case.name == name)
    [file] = [file for file in list_videos(str(corpus)) if file["uri"] == str(corpus / name)] or [
        next(list_videos(str(corpus / name)))
    ]
    reader = Reader(DecodeConfig(), WindowConfig())
    if case.verdicts[0] in ("unreadable", "no_video"):
        with pytest.raises(ProbeError) as refused:
            reader.probe(file)
        assert refused.value.status in case.verdicts
        assert str(refused.value).startswith(file["uri"])
        return
    columns = reader.probe(file)
    assert columns["status"] in case.verdicts, columns["note"]
    assert columns["note"] or columns["status"] == "ok"
    if case.group == "intact" and case.truth is not None:
        assert columns["status"] == "ok"
        assert columns["duration_s"] == pytest.approx(float(case.truth.end_s), abs=0.5)
