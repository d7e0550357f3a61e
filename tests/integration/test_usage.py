"""Wrong usage: exit code 2, one clear message, Ray never started, nothing written."""

import pytest

GOOD = {"query_id": "q", "kind": "find", "text": "a dog"}


@pytest.fixture
def refused(reelsift, tmp_path):
    """Run the job with a Ray address nobody listens on: reaching for Ray would be another error."""

    def run(*args, **environment):
        done = reelsift("answer", *args, **{"RAY_ADDRESS": "127.0.0.1:1", **environment})
        assert not (tmp_path / "out").exists(), "nothing may be written"
        return done

    return run


def test_a_wrong_option_names_the_right_one(reelsift):
    wrong = reelsift("answer", "a", "b", "c", "--window.sample-fsp", "2")
    assert wrong.code == 2
    assert "--window.sample-fps" in wrong.err


def test_a_folder_without_videos(refused, ask, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "notes.txt").write_text("no video here")
    done = refused(empty, ask(GOOD), tmp_path / "out")
    assert done.code == 2
    assert str(empty) in done.err


def test_no_such_folder(refused, ask, tmp_path):
    done = refused(tmp_path / "nowhere", ask(GOOD), tmp_path / "out")
    assert done.code == 2
    assert "nowhere" in done.err


def test_all_mistakes_of_a_query_file_at_once(refused, ask, clips, tmp_path):
    queries = ask(
        GOOD,
        GOOD,
        {"query_id": "k", "kind": "fnd", "text": "x"},
        {"query_id": "b", "kind": "find", "text": "x", "budget_tokens": 0},
        {"query_id": "l", "kind": "find", "text": "x" * 10_000},
    )
    done = refused(clips, queries, tmp_path / "out")
    assert done.code == 2
    for line, words in {2: "query_id", 3: "fnd", 4: "budget_tokens", 5: "10000"}.items():
        assert any(f"{line}" in text and words in text for text in done.err.splitlines()), (line, done.err)


def test_an_empty_query_file(refused, clips, tmp_path):
    path = tmp_path / "queries.jsonl"
    path.touch()
    done = refused(clips, path, tmp_path / "out")
    assert done.code == 2
    assert "queries.jsonl" in done.err


def test_a_name_that_does_not_exist(refused, ask, clips, tmp_path):
    done = refused(clips, ask(GOOD), tmp_path / "out", "--compress.compressor", "unifrom")
    assert done.code == 2
    assert "did you mean 'uniform'" in done.err
    assert "Traceback" not in done.err


def test_a_dry_run_starts_nothing(refused, ask, clips, tmp_path):
    done = refused(clips, ask(GOOD), tmp_path / "out", "--dry-run")
    assert done.code == 0
    assert done.json["dry_run"] is True
    assert "embedded" in done.err


def test_a_cluster_that_is_not_there(reelsift, ask, clips, tmp_path):
    done = reelsift("answer", clips, ask(GOOD), tmp_path / "out", RAY_ADDRESS="127.0.0.1:1")
    assert done.code == 3
    assert "127.0.0.1:1" in done.err
    assert not (tmp_path / "out").exists()


def test_a_job_that_can_never_fit_leaves_nothing(reelsift, ask, clips, tmp_path):
    done = reelsift(
        "answer",
        clips,
        ask(GOOD),
        tmp_path / "out",
        "--score.pool.device=cpu",
        "--score.pool.min-size=999",
        "--score.pool.max-size=999",
    )
    assert done.code == 3
    assert "--score.pool.min-size asks for 999 seats" in done.err
    assert not (tmp_path / "out").exists()
