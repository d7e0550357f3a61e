"""A failed answer has the columns of a good one, also after a trip through Arrow inside its window."""

from pipeline import rows
from pipeline.answers import failed_rows
from pipeline.queries import one_query


def test_a_failed_answer_has_every_column_and_no_null():
    window = {"window_id": "w", "error_type": "DecodeError", "error_message": "gone", "end_s": 4.0}
    [row] = failed_rows(window, [one_query("a dog")], {"scorer": "s"})
    table = rows.to_table([{**window, "answers": [row]}], rows.ANSWERED)
    [answer] = table.to_pylist()[0]["answers"]
    assert list(answer) == rows.ANSWERS.names
    assert None not in answer.values()
    assert (answer["error_type"], answer["tokens_dense"], answer["scorer"]) == ("DecodeError", 0, "s")
