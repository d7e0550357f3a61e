"""A part is committed when it is staged, not when the next one is: a long video behind it adds nothing to a kill."""

from tests.integration.results import read


def test_a_part_is_committed_while_the_next_is_worked_on(reelsift, clips, tmp_path):
    out = tmp_path / "out"
    done = reelsift(
        "answer", clips / "bikes.mp4", out, "--query", "a bicycle",
        "--window.length-s", "2", "--sink.windows-per-part", "1",
        # each window is scored only when all before it are committed
        "--score.scorer", "tests.plugins_sample:ONE_BY_ONE", "--score.model", out, "--score.pool.device", "cpu",
    )  # fmt: skip
    assert done.code == 0, done.err
    answers = read(out, "answers")
    assert len(answers) > 3
    assert [row["error_message"] for row in answers] == [""] * len(answers)
