"""Reading questions with known answers, judging answers, votes of categories, and parts that are done once."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from jobs.training import parts
from jobs.training.label import flr_row, qtr_row, vote, write_labels
from jobs.training.labeller import judge, read_question
from jobs.training.look import find_video, times_to_see
from jobs.training.loop import to_batch
from jobs.training.questions import Question, read_questions
from jobs.training.routers import read_labels
from jobs.training.settings import LabelConfig, RoutersConfig, fingerprint
from jobs.training.states import split_of
from jobs.training.tables import PROBED, STATES
from pipeline import rows
from pipeline.config import AnswerConfig, PoolConfig
from pipeline.errors import ConfigError, ProbeError

GOOD = {"id": "a", "video": "v.mp4", "question": "Is there a fire?", "kind": "flag", "answer": "yes"}


def read(tmp_path, *items):
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(f"{item if isinstance(item, str) else json.dumps(item)}\n" for item in items))
    return list(read_questions(str(path)))


def test_questions_are_read_from_lines_and_tables(tmp_path):
    full = {**GOOD, "kind": "choose", "answer": "dog", "choices": ["cat", "dog"], "category": "what",
            "split": "dev", "evidence_s": [[1, 2.5]]}  # fmt: skip
    expected = Question(
        "a", "v.mp4", "Is there a fire?", "choose", "dog", ("cat", "dog"), "what", "dev", ((1.0, 2.5),)
    )
    assert read(tmp_path, full) == [expected]
    pq.write_table(pa.Table.from_pylist([full]), tmp_path / "questions.parquet")
    assert list(read_questions(str(tmp_path / "questions.parquet"))) == [expected]
    assert read(tmp_path, GOOD)[0].category == "flag"
    assert read(tmp_path, {**GOOD, "answer": True})[0].answer == "yes"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"answer": None}, "answer None: expected text"),
        ({"kind": "find"}, "kind 'find': expected one of flag, choose, ask"),
        ({"video": "../v.mp4"}, "expected a path below"),
        ({"answer": "perhaps"}, "expected yes or no"),
        ({"kind": "choose", "choices": ["one"]}, "expected two or more"),
        ({"kind": "choose", "choices": ["cat", "dog"]}, "answer 'yes': expected one of the 2 choices"),
        ({"evidence_s": [[2, 1]]}, "each start before its end"),
        ({"evidence_s": [1, 2]}, "expected pairs"),
    ],
)
def test_a_bad_question_fails_alone_and_says_why(tmp_path, change, why):
    bad, good = read(tmp_path, {**GOOD, **change}, {**GOOD, "id": "b"})
    assert bad["error_type"] == "QuestionError"
    assert why in bad["error_message"]
    assert good.id == "b"


def test_nonsense_and_repeated_ids_fail_alone(tmp_path):
    good, nonsense, number, again = read(tmp_path, GOOD, "nonsense", "7", GOOD)
    assert isinstance(good, Question)
    assert "line 2" in nonsense["error_message"]
    assert "line 3" in number["error_message"]
    assert "was used before" in again["error_message"]


def test_files_that_are_none(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        list(read_questions(str(tmp_path / "none.jsonl")))
    with pytest.raises(ConfigError, match="cannot tell what kind"):
        list(read_questions(str(tmp_path / "none.txt")))


def test_a_question_survives_json():
    from dataclasses import asdict

    question = Question("a", "v", "t", "choose", "x", ("x", "y"), "c", "dev", ((1.0, 2.0),))
    assert read_question(json.loads(json.dumps(asdict(question)))) == question


@pytest.mark.parametrize(
    ("kind", "choices", "known", "given", "is_right", "likelihood"),
    [
        ("flag", (), "Yes", "yes", True, 0.7),
        ("flag", (), "no", "yes", False, 0.3),
        ("choose", ("a", "b", "c"), "a", "a", True, 0.7),
        ("choose", ("a", "b", "c"), "a", "b", False, 0.15),
        ("ask", (), "Red", "It is red.", True, 0.7),
        ("ask", (), "red", "It is reddish.", False, 0.0),
    ],
)
def test_answers_are_judged(kind, choices, known, given, is_right, likelihood):
    found = judge(Question("q", "v", "t", kind, known, choices), given, 0.7)
    assert (found.is_right, found.likelihood) == (is_right, pytest.approx(likelihood))


def test_times_cover_the_video_and_every_evidence():
    assert times_to_see(8.0, 4, []) == [1.0, 3.0, 5.0, 7.0]
    assert times_to_see(8.0, 4, [[2.5, 3.5]]) == [1.0, 3.0, 5.0, 7.0]
    assert times_to_see(8.0, 4, [[1.5, 2.5], [1.8, 2.2], [7.5, 20.0], [9.0, 10.0]]) == [
        1.0,
        2.0,
        3.0,
        5.0,
        7.0,
        7.75,
    ]


def test_a_missing_video_is_a_row(tmp_path):
    with pytest.raises(ProbeError, match=r"none\.mp4"):
        find_video(str(tmp_path), "none.mp4")


def probed(category, right_global, right_fragment, likely=(0.5, 0.5), **more):
    return {
        "id": f"{category}-{right_global}-{right_fragment}", "video": "v", "category": category, "split": "",
        "error_type": "",
        "right_global": right_global, "right_fragment": right_fragment, "likelihood_global": likely[0],
        "likelihood_fragment": likely[1], **more,
    }  # fmt: skip


def test_a_category_gets_its_better_policy():
    votes = vote([
        probed("where", False, True), probed("where", True, True), probed("sum", True, False),
        probed("tie", True, True), probed("near", True, True, (0.6, 0.7)),
        probed("sum", False, True, error_type="AnswerError"),
    ])  # fmt: skip
    assert votes["where"] == ("fragment", 0.5, 1.0)
    assert votes["sum"] == ("global", 1.0, 0.0)
    assert votes["tie"][0] == "global"
    assert votes["near"][0] == "fragment"
    row = qtr_row(probed("where", True, False), votes)
    assert (row["policy"], row["acc_fragment"], row["right_fragment"]) == ("fragment", 1.0, False)
    assert flr_row({**probed("sum", True, True), "search_error": "no"}, votes)["error_message"] == "no"


def test_rows_kept_for_measuring_have_no_vote():
    kept = [probed("where", True, False, split=split) for split in ("dev", "validation", "test")]
    votes = vote(
        [probed("where", False, True, split="train"), *kept, probed("sum", True, True, split="test")]
    )
    assert votes == {"where": ("fragment", 0.0, 1.0)}
    row = qtr_row(probed("sum", True, True, split="test"), votes)
    assert row["error_type"] == "QuestionError"
    assert "no question of category 'sum' to train on" in row["error_message"]


def test_labels_are_one_row_per_question_in_both_tables(tmp_path):
    shown = {"relevant": [1], "frame_pts_s": [0.5, 1.5], "masked_answerable": False}
    found = [
        probed("where", True, True, part="p", **shown),
        {**probed("where", False, True, part="p"), "search_error": "never answered", "id": "n"},
        {**probed("where", True, True, part="p", **shown), "masked_answerable": True, "id": "m"},
    ]
    folder = str(tmp_path / "_probed")
    parts.write(folder, rows.to_table(found, PROBED))
    refused = {"id": "r", "error_type": "QuestionError", "error_message": "no answer"}
    (tmp_path / "qtr").mkdir()
    pq.write_table(pa.table({"part": ["old"]}), tmp_path / "qtr" / "stale.parquet")
    counts = write_labels(str(tmp_path), folder, ["p"], [refused])
    assert (counts["questions"], counts["failed"], counts["qtr"], counts["flr"]) == (4, 1, 3, 2)
    assert counts["still_answerable"] == 1
    assert parts.names(str(tmp_path / "qtr")) == {"p", "refused"}
    [group] = read_labels(str(tmp_path), ["image", "semantic"])
    labels = json.loads(group["questions"])
    heads = [(one["head"], one["id"]) for one in labels]
    assert heads == [
        ("image", "where-True-True"), ("semantic", "where-True-True"), ("semantic", "n"), ("semantic", "m"),
    ]  # fmt: skip
    with pytest.raises(ConfigError, match="found no label"):
        read_labels(str(tmp_path / "elsewhere"), ["image"])


def test_counting_a_part_does_not_read_its_states(tmp_path):
    states = rows.pack(np.random.default_rng(0).standard_normal((2048, 1024)).astype(np.float32))
    row = {"part": "p", "head": "image", "split": "train", "states": states, "labels": [0], "error_type": ""}
    parts.write(str(tmp_path), rows.to_table([row], STATES))

    def num_read():
        return int(Path("/proc/self/io").read_text().split()[1])

    before = num_read()
    assert list(parts.scan(str(tmp_path), ["p"], ("head", "split"))) == [{"head": "image", "split": "train"}]
    assert num_read() - before < (tmp_path / "p.parquet").stat().st_size / 2


def test_splits():
    assert split_of("Validation", "v", 0.1) == "dev"
    assert split_of("holdout", "v", 0.1) == "test"
    assert split_of("", "v", 0.0) == "train"
    found = [split_of("", f"{number}.mp4", 0.2) for number in range(1000)]
    assert 150 < found.count("dev") < 250
    assert found == [split_of("", f"{number}.mp4", 0.2) for number in range(1000)]


def test_items_of_a_batch_keep_their_labels():
    def row(num_items, labels):
        states = torch.full((num_items, 4), float(num_items)).numpy()
        return {"states": rows.pack(states), "labels": labels}

    states, labels = to_batch(rows.to_table([row(2, [0, 1]), row(3, [1, 0, 0])], STATES))
    assert states[:, 0].tolist() == [2, 2, 3, 3, 3]
    assert labels.tolist() == [0, 1, 1, 0, 0]


def test_settings_that_change_no_result_do_not_count():
    small, large = (LabelConfig(answer=AnswerConfig(pool=PoolConfig(max_size=size))) for size in (1, 4))
    assert fingerprint(small) == fingerprint(large)
    assert fingerprint(LabelConfig(num_frames=8)) != fingerprint(small)


@pytest.mark.parametrize("stages", ["", "4", "1,1", "1 2"])
def test_stages_that_are_none(stages):
    with pytest.raises(ConfigError, match=r"--stages .* expected"):
        RoutersConfig(stages=stages)
