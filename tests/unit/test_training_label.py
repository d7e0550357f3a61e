"""Reading questions with known answers, judging answers, votes of categories, and parts that are done once."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from jobs.training import parts
from jobs.training.label import flr_row, label, qtr_row, vote, write_labels
from jobs.training.labeller import judge, read_question
from jobs.training.look import find_video, times_to_see
from jobs.training.loop import join, mixed
from jobs.training.parts import read_states
from jobs.training.questions import Question, read_questions
from jobs.training.routers import read_labels
from jobs.training.settings import LabelConfig, RoutersConfig, fingerprint
from jobs.training.splits import split_of
from jobs.training.tables import PROBED, STATES
from pipeline import rows
from pipeline.config import AnswerConfig, CompressConfig, PoolConfig
from pipeline.errors import ConfigError, ProbeError

GOOD = {"id": "a", "video": "v.mp4", "question": "Is there a fire?", "kind": "flag", "answer": "yes"}


def read(tmp_path, *items):
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(f"{item if isinstance(item, str) else json.dumps(item)}\n" for item in items))
    return list(read_questions(str(path)))


def test_a_setting_that_the_compressor_does_not_read_is_refused():
    compress = CompressConfig(compressor="dycoke", threshold=0.5)
    config = LabelConfig(answer=AnswerConfig(model="package:world/model"), compress=compress)
    with pytest.raises(ConfigError, match=r"threshold.*dycoke"):
        label("videos", "questions.jsonl", "out", config)


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
    groups = read_labels(str(tmp_path), ["image", "semantic"])
    ids = {
        head: [(one["head"], one["id"]) for group in mine for one in json.loads(group["questions"])]
        for head, mine in groups.items()
    }
    assert ids["image"] == [("image", "where-True-True")]
    assert ids["semantic"] == [("semantic", name) for name in ("where-True-True", "n", "m")]
    # what is computed for one head does not depend on the stages that are run together
    assert read_labels(str(tmp_path), ["image"]) == {"image": groups["image"]}
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


def states_row(number, num_items=3, **changes):
    states = np.full((num_items, 4), number, np.float32)
    return {
        "part": "p", "id": str(number), "head": "image", "split": "train", "states": rows.pack(states),
        "labels": [number % 2] * num_items, "error_type": "", **changes,
    }  # fmt: skip


def test_states_are_read_a_few_rows_at_a_time(tmp_path):
    several = [states_row(number) for number in range(9)]
    several[1] |= {"head": "semantic"}
    several[2] |= {"split": "dev"}
    several[3] |= {"error_type": "AnswerError"}
    parts.write(str(tmp_path), rows.to_table(several, STATES))
    asked = pa.table({"part": ["p"]})
    found = list(read_states(str(tmp_path), "image", "train", asked))
    assert all(table.num_rows <= parts.ROWS_PER_GROUP and table.schema == STATES for table in found)
    read = [row for table in found for row in rows.to_rows(table)]
    assert [row["id"] for row in read] == ["0", "4", "5", "6", "7", "8"]
    assert rows.unpack(read[1]["states"]).tolist() == [[4.0] * 4] * 3
    assert sum(table.num_rows for table in read_states(str(tmp_path), "image", "test", asked)) == 0


def num_bytes(row):
    return row[0].nbytes


def test_rows_are_mixed_in_few_bytes_and_the_same_again():
    held = []

    def one(number):
        states = torch.full((1 + number % 3, 4), float(number))
        held.append(states.nbytes)
        return states, torch.full((len(states),), number)

    def order(seed):
        del held[:]
        found = []
        for states, labels in mixed(map(one, range(60)), seed, 200, num_bytes):
            assert sum(held) <= 200 + 3 * 16  # and the one that was just read
            held.remove(states.nbytes)
            assert states[:, 0].tolist() == labels.tolist()
            found.append(int(labels[0]))
        return found

    assert sorted(order(1)) == list(range(60))
    assert order(1) == order(1) != order(2)
    assert order(1)[:10] != list(range(10))


def test_a_row_larger_than_all_that_is_held_goes_through():
    several = [(torch.zeros(100, 4), torch.zeros(100)), (torch.zeros(1, 4), torch.zeros(1))]
    assert [len(labels) for _, labels in mixed(iter(several), 0, 100, num_bytes)] == [100, 1]


def test_items_of_a_batch_keep_their_labels():
    two, three = ((torch.full((n, 4), float(n)), torch.arange(n)) for n in (2, 3))
    states, labels = join([two, three])
    assert states[:, 0].tolist() == [2, 2, 3, 3, 3]
    assert labels.tolist() == [0, 1, 0, 1, 2]


def test_settings_that_change_no_result_do_not_count():
    small, large = (LabelConfig(answer=AnswerConfig(pool=PoolConfig(max_size=size))) for size in (1, 4))
    assert fingerprint(small) == fingerprint(large)
    assert fingerprint(LabelConfig(num_frames=8)) != fingerprint(small)


@pytest.mark.parametrize("stages", ["", "4", "1,1", "1 2"])
def test_stages_that_are_none(stages):
    with pytest.raises(ConfigError, match=r"--stages .* expected"):
        RoutersConfig(stages=stages)
