"""A job whose frames are chosen by another selector than relevance, and one whose scorer would not heed it."""

from tests.integration.results import read

SELECTOR = ("--recipe", "world", "--plan.selector", "clusters")


def test_a_selector_spends_the_budget_and_the_router_keeps_its_word(reelsift, tmp_path):
    world, out = tmp_path / "world", tmp_path / "out"
    assert reelsift("world", world, "--split", "test", "--videos", "1").code == 0
    command = ("answer", world / "videos", world / "queries.jsonl", out, *SELECTOR)
    refused = reelsift(*command)
    assert refused.code == 2
    assert "score.scorer 'trained'" in refused.err
    assert "plan.selector 'clusters'" in refused.err

    done = reelsift(*command, "--score.scorer", "dual-encoder")
    assert done.code == 0, done.err
    answers = [row for row in read(out, "answers") if row["kind"] != "find"]
    assert answers
    for row in answers:
        assert row["error_message"] == ""
        assert "clusters of 32 frames" in row["plan_reason"]
        assert row["route_reason"].startswith("trained")
        assert {frame["tokens"] for frame in row["evidence"]} <= {4, 16}
        assert 0 < row["tokens_used"] <= 164
