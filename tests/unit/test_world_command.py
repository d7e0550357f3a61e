"""`reelsift world`: the files it writes are what `reelsift answer` and `reelsift train label` read."""

import json

import pytest

from jobs import world
from jobs.training.questions import Question, read_questions
from jobs.world.command import QUERIES, rows_of, video_name
from jobs.world.questions import ask
from jobs.world.scenes import make_scene
from jobs.world.splits import seeds
from jobs.world.words import UNKNOWN, make_tokenizer
from pipeline.errors import ConfigError
from pipeline.queries import KINDS, load_queries


def test_files_are_read_by_the_other_commands(tmp_path, capsys):
    assert world.main([str(tmp_path), "--split", "dev", "--videos", "2", "--held-out"]) == 0
    counts = json.loads(capsys.readouterr().out.splitlines()[-1])
    own = seeds("dev", 2)
    videos = sorted(path.name for path in (tmp_path / "videos").iterdir())
    assert videos == [video_name(seed) for seed in own]
    assert {query.kind for query in load_queries(str(tmp_path / "queries.jsonl"))} == set(KINDS)
    questions = list(read_questions(str(tmp_path / "questions.jsonl")))
    assert all(isinstance(one, Question) for one in questions)
    asked = [one for seed in own for one in ask(make_scene(seed), held_out=True)]
    assert [one.text for one in questions] == [one.text for one in asked]
    assert [one.answer for one in questions] == [one.answer for one in asked]
    assert [one.evidence_s for one in questions] == [one.evidence_s for one in asked]
    assert {one.split for one in questions} == {"dev"}
    assert counts["questions"] == len(questions)

    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "videos").iterdir()}
    assert world.main([str(tmp_path), "--split", "dev", "--videos", "2", "--open"]) == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "videos").iterdir()} == before
    assert {one.kind for one in read_questions(str(tmp_path / "questions.jsonl"))} == {"ask"}


def test_questions_are_of_the_kind_that_their_answers_allow():
    for row in rows_of(3_000_000, "test", False, False):
        assert row["kind"] == ("choose" if "choices" in row else "flag")
        assert row["answer"] in row.get("choices", ("yes", "no"))


def test_queries_hold_no_word_that_the_model_does_not_know():
    tokenizer = make_tokenizer()
    unknown = tokenizer.convert_tokens_to_ids(UNKNOWN)
    assert not any(unknown in tokenizer(query["text"])["input_ids"] for query in QUERIES)


@pytest.mark.parametrize("options", [["--videos", "0"], ["--processes", "0"], ["--videos", "2000000"]])
def test_numbers_out_of_range_are_refused(tmp_path, options):
    with pytest.raises(ConfigError, match=options[0]):
        world.main([str(tmp_path / "out"), *options])
    assert not (tmp_path / "out").exists()


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot write"):
        world.main([str(tmp_path / "file")])
