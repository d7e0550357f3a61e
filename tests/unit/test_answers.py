"""Answer rows say what they cost; a failed one has the columns of a good one, also after a trip through Arrow."""

from actors.models import Answer, Cost
from pipeline import rows
from pipeline.answers import answer_row, failed_rows
from pipeline.queries import one_query


def test_a_failed_answer_has_every_column_and_no_null():
    window = {"window_id": "w", "error_type": "DecodeError", "error_message": "gone", "end_s": 4.0}
    [row] = failed_rows(window, [one_query("a dog")], {"scorer": "s"})
    table = rows.to_table([{**window, "answers": [row]}], rows.ANSWERED)
    [answer] = table.to_pylist()[0]["answers"]
    assert list(answer) == rows.ANSWERS.names
    assert None not in answer.values()
    assert (answer["error_type"], answer["tokens_dense"], answer["scorer"]) == ("DecodeError", 0, "s")


def test_an_answer_carries_what_was_computed_for_it_also_when_it_is_refused():
    window = {"pts_s": [0.0], "decode_s": 0.0}
    plan = {"route": "global", "route_confidence": 1.0, "route_reason": "rules: x", "reason": ""}
    cost = Cost(
        vision_frames=4,
        prefills=1,
        prefill_tokens=900,
        decode_steps=7,
        decode_passes=5,
        oom_halvings=1,
        router_tokens=640,
    )
    judged = ((1.0, 0.25, 0), (2.0, 0.75, 8))
    for error in ("", "no text"):
        answer = Answer("yes", 0.5, cost=cost, error=error, judged=judged)
        row = answer_row(window, one_query("a dog"), plan, answer=answer, answer_s=0.1, labels={})
        [stored] = rows.to_table([row], rows.ANSWERS).to_pylist()
        assert {name: stored[name] for name in rows.COST} == {
            "vision_frames": 4, "prefills": 1, "prefill_tokens": 900, "decode_steps": 7,
            "decode_passes": 5, "oom_halvings": 1, "router_tokens": 640,
        }  # fmt: skip
        assert [tuple(frame.values()) for frame in stored["judged"]] == list(judged)
