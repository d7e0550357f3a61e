"""The answering actor on tables built by hand, with the real answerers: one complete row per window and question."""

import numpy as np
import pyarrow as pa
import pytest

from actors.answerer import AnswerActor
from actors.models import AnswererFacts
from actors.models.tables import find_answerer
from pipeline import rows
from pipeline.config import AnswerConfig, CompressConfig, JobConfig, PlanConfig
from pipeline.errors import JobError, ModelError
from pipeline.queries import Query, texts
from tests import tiny_models, tiny_models_any

FIND = Query("dog", "a dog", "find")
FLAG = Query("car", "a car", "flag")
CHOOSE = Query("place", "Which of these?", "choose", ("street", "dog"))
FREE = Query("free", "What colour is the car?", "ask")
QUERIES = (FIND, FLAG, CHOOSE, FREE)
NUM_FRAMES = 6
PER_FRAME = 16
"""Visual tokens of a frame of the tiny model."""
ALL = (PER_FRAME,) * NUM_FRAMES
SOME = (0, PER_FRAME, 0, 4, PER_FRAME, 0)
NONE = (0,) * NUM_FRAMES


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(tiny_models.build("smolvlm", tmp_path_factory.mktemp("smolvlm")))


@pytest.fixture(scope="module")
def actor(model):
    """Return a maker of actors that keeps what it made; without settings they answer from relevance."""
    kept = {}

    def make(queries=QUERIES, compressor="uniform", **settings):
        key = (tuple(queries), compressor, *settings.items())
        if key not in kept:
            kept[key] = make_actor(queries, compressor, **settings)
        return kept[key]

    def shown(queries=QUERIES, compressor="uniform", **settings):
        named = {"model": model, "frame_px": 64, "dtype": "float32", "max_new_tokens": 5}
        return make(queries, compressor, **{**named, **settings})

    make.shown = shown
    return make


def make_actor(queries, compressor="uniform", **settings):
    plan = PlanConfig(scale_global=1, scale_background=1)
    config = JobConfig(
        answer=AnswerConfig(**settings), compress=CompressConfig(compressor=compressor), plan=plan
    )
    entry = find_answerer(config.answer)
    return AnswerActor(entry.make, config, queries, entry.describe(config.answer), "a scorer", "cpu")


def window(number=0, plans=None, queries=QUERIES, relevance=None, size_px=64, **columns):
    """Return a planned window: per query id the tokens of its frames, or why it has no plan."""
    start_s = 10.0 * number
    if relevance is None:
        relevance = np.random.default_rng(number).random((NUM_FRAMES, len(texts(queries))))
    row = {
        "window_id": f"window-{number}", "video_id": "video", "uri": "file.mp4", "start_s": start_s,
        "end_s": start_s + NUM_FRAMES, "query_ids": [query.query_id for query in queries],
        "pts_s": [start_s + k for k in range(NUM_FRAMES)], "frames_planned": NUM_FRAMES, "decode_s": 2.0,
        "relevance": rows.pack(np.asarray(relevance, np.float32)),
        "plans": [plan_of(query, (plans or {}).get(query.query_id, NONE)) for query in queries],
        "error_type": "", "error_message": "",
    }  # fmt: skip
    index = np.flatnonzero(np.any([plan["tokens"] for plan in row["plans"]], axis=0)) if queries else []
    pixels = np.random.default_rng(100 + number).integers(0, 255, (len(index), size_px, size_px, 3), np.uint8)
    seen = {"evidence_index": list(map(int, index)), "evidence_pixels": rows.pack(pixels), "evidence_s": 0.5}
    return {**row, **seen, **columns}


def plan_of(query, planned):
    why = planned if isinstance(planned, str) else ""
    return {
        "query_id": query.query_id, "route": "fragment", "route_confidence": 0.9, "reason": "a reason",
        "tokens": list(NONE if why else planned), "error_message": why,
    }  # fmt: skip


def ask(actor, *windows, schema=rows.EVIDENCE_FRAMES):
    """Return the answers of each window, by query id."""
    answered = list(rows.to_rows(actor(rows.to_table(windows, schema))))
    assert [row["window_id"] for row in answered] == [row["window_id"] for row in windows]
    for row in answered:
        assert [answer["query_id"] for answer in row["answers"]] == row["query_ids"]
    return [{answer["query_id"]: answer for answer in row["answers"]} for row in answered]


def untimed(answer):
    """Return what does not depend on who else is asked: times do, rounding does, and who pays for a shared step."""
    shared = {"answer_s", "confidence", "decode_passes"}
    return {name: value for name, value in answer.items() if name not in shared}


SHOWN = {"car": SOME, "place": SOME, "free": ALL}


def test_relevance_answers_rows_without_pixels(actor):
    [answers] = ask(actor(), window(), schema=rows.PLANNED)
    assert answers["dog"]["answer"] in {"found", "not found"}
    assert answers["car"]["answer"] in {"yes", "no"}
    assert answers["place"]["answer"] in CHOOSE.choices
    assert answers["free"]["error_type"] == "AnswerError"
    assert "--answer.model" in answers["free"]["error_message"]
    for answer in answers.values():
        assert (answer["tokens_used"], answer["model"], answer["compressor"]) == (0, "", "")
        assert [answer[name] for name in rows.COST] == [0] * len(rows.COST)


def test_every_row_is_complete(actor, model):
    [answers] = ask(actor.shown(), window(3, SHOWN))
    for query in QUERIES:
        row = answers[query.query_id]
        assert row.keys() == set(rows.ANSWERS.names)
        assert (row["query"], row["kind"], row["window_id"]) == (query.text, query.kind, "window-3")
        assert (row["start_s"], row["end_s"], row["frames_seen"]) == (30.0, 36.0, NUM_FRAMES)
        assert (row["scorer"], row["compressor"], row["model"]) == ("a scorer", "uniform", model)
        assert row["model_revision"]
        assert row["decode_s"] == pytest.approx(2.5 / len(QUERIES))
        assert (row["error_type"], row["plan_reason"]) == ("", "a reason")
        assert 0 <= row["confidence"] <= 1


def test_the_tokens_of_a_plan_reach_its_row(actor):
    [answers] = ask(actor.shown(), window(0, SHOWN))
    assert answers["dog"]["tokens_used"] == 0
    assert [frame["tokens"] for frame in answers["free"]["evidence"]] == list(ALL)
    for name in ("car", "place"):
        assert [(frame["pts_s"], frame["tokens"]) for frame in answers[name]["evidence"]] == [
            (1.0, PER_FRAME), (3.0, 4), (4.0, PER_FRAME),
        ]  # fmt: skip
        assert answers[name]["tokens_used"] == 2 * PER_FRAME + 4
        assert answers[name]["tokens_dense"] == NUM_FRAMES * PER_FRAME


def test_windows_of_one_call_answer_as_they_do_alone(actor):
    windows = [window(number, plans) for number, plans in enumerate((SHOWN, {"free": SOME}, SHOWN))]
    together = ask(actor.shown(), *windows)
    for one, answers in zip(windows, together, strict=True):
        [alone] = ask(actor.shown(), one)
        for name, answer in answers.items():
            assert untimed(answer) == untimed(alone[name])
            assert answer["confidence"] == pytest.approx(alone[name]["confidence"], abs=1e-5)


def test_costs_reach_the_rows_and_add_up(actor):
    found = ask(actor.shown(), window(0, SHOWN), window(1, {"car": SOME, "place": SOME, "free": SOME}))
    for answers, frames, prefills in zip(found, (NUM_FRAMES, 3), (2, 1), strict=True):
        total = {name: sum(answer[name] for answer in answers.values()) for name in rows.COST}
        assert (total["vision_frames"], total["prefills"]) == (frames, prefills)
        assert total["prefill_tokens"] > 0
        assert [answers["dog"][name] for name in rows.COST] == [0] * len(rows.COST)
        for name in ("car", "place"):
            assert answers[name]["decode_steps"] == 0
        assert 0 < answers["free"]["decode_steps"] < 5


def test_a_failed_window_among_good_ones_carries_failed_rows(actor, model):
    broken = window(1, SHOWN, error_type="DecodeError", error_message="the file ends early")
    good, failed, other = ask(actor.shown(), window(0, SHOWN), broken, window(2, SHOWN))
    assert not any(answer["error_type"] for answer in (*good.values(), *other.values()))
    for query in QUERIES:
        row = failed[query.query_id]
        assert row.keys() == set(rows.ANSWERS.names)
        assert (row["error_type"], row["error_message"]) == ("DecodeError", "the file ends early")
        assert (row["answer"], row["frames_seen"], row["tokens_used"]) == ("", 0, 0)
        assert (row["query"], row["kind"], row["model"]) == (query.text, query.kind, model)
        assert None not in row.values()


def test_only_failed_windows_are_not_put_to_anyone(actor):
    broken = window(0, SHOWN, error_type="DecodeError", error_message="the file ends early")
    [failed] = ask(actor.shown(), broken)
    assert {row["error_message"] for row in failed.values()} == {"the file ends early"}


def test_a_question_without_a_plan_fails_alone(actor):
    why = "a budget of 1 tokens does not buy one frame"
    [answers] = ask(actor.shown(), window(0, {**SHOWN, "place": why}))
    row = answers.pop("place")
    assert (row["error_type"], row["error_message"]) == ("AnswerError", why)
    assert (row["answer"], row["confidence"], row["answer_s"]) == ("", 0, 0)
    assert not any(answer["error_type"] for answer in answers.values())


def test_evidence_that_could_not_be_had_fails_what_needs_it(actor):
    """As `fetch_evidence` leaves a window: plans with tokens and a reason, no frames."""
    row = window(0, SHOWN, evidence_index=[], evidence_pixels=rows.pack(np.zeros(0, np.uint8)))
    for plan in row["plans"]:
        plan["error_message"] = "the file has changed" if any(plan["tokens"]) else ""
    [answers] = ask(actor.shown(), row)
    assert answers.pop("dog")["error_type"] == ""
    assert {answer["error_message"] for answer in answers.values()} == {"the file has changed"}


def test_a_question_that_is_shown_no_frame_says_so(actor):
    [answers] = ask(actor.shown(), window(0, {"car": SOME, "place": NONE, "free": SOME}))
    assert "shows none of the 3 evidence frames" in answers["place"]["error_message"]
    assert not answers["car"]["error_type"]


def test_only_open_questions_are_answered(actor):
    row = window(0, SHOWN)
    row |= {"query_ids": ["free", "car"], "plans": [row["plans"][3], row["plans"][1]]}
    [answers] = ask(actor.shown(), row)
    assert list(answers) == ["free", "car"]
    assert ask(actor.shown(), {**row, "query_ids": [], "plans": []}) == [{}]


def test_an_empty_table_stays_one(actor):
    assert actor()(rows.to_table([], rows.PLANNED)) == rows.to_table([], rows.ANSWERED)


class Raises:
    def __init__(self, error):
        self.error = error

    def answer(self, _requests):
        raise self.error


@pytest.mark.parametrize(
    ("error", "expected", "words"),
    [
        (KeyError("what"), JobError, "unexpected KeyError on window-0, window-2: 'what'; this is a bug"),
        (ModelError("weights are gone"), ModelError, "^weights are gone$"),
    ],
)
def test_what_an_answerer_raises_ends_the_run_and_names_the_windows(error, expected, words):
    facts = AnswererFacts("raises", "", PER_FRAME, None)
    actor = AnswerActor(lambda *_: Raises(error), JobConfig(), QUERIES, facts, "a scorer", "cpu")
    broken = window(1, error_type="DecodeError", error_message="the file ends early")
    with pytest.raises(expected, match=words):
        ask(actor, window(0, SHOWN), broken, window(2, SHOWN))


def test_a_row_says_what_shortened_its_frames(actor, tmp_path):
    [answers] = ask(actor.shown(compressor="dycoke"), window(0, SHOWN))
    assert {answer["compressor"] for answer in answers.values()} == {"dycoke"}
    whole = make_actor(QUERIES, model=str(tiny_models_any.build("llava", tmp_path)), frame_px=56)
    [answers] = ask(whole, window(0, {"car": ALL}, size_px=56))
    assert answers["car"]["tokens_used"] == NUM_FRAMES * PER_FRAME
    assert {answer["compressor"] for answer in answers.values()} == {"none"}


def relevance_of_find(*values):
    found_NP = np.zeros((NUM_FRAMES, len(texts(QUERIES))))
    found_NP[:, 0] = values
    return found_NP


TWO_SPANS = relevance_of_find(0, 0.9, 0.8, 0, 0.7, 0)


def test_spans_are_confirmed_on_their_own_frames(actor):
    row = window(0, {**SHOWN, "dog": (0, 4, 4, 0, 16, 0)}, relevance=TWO_SPANS)
    [plain], [confirmed] = ask(actor.shown(), row), ask(actor.shown(confirm_find=True), row)
    assert [(span["start_s"], span["end_s"]) for span in plain["dog"]["spans"]] == [(1, 3), (4, 5)]
    assert plain["dog"]["tokens_used"] == plain["dog"]["prefills"] == 0
    dog = confirmed["dog"]
    assert dog["error_type"] == ""
    assert (dog["tokens_used"], dog["prefills"]) == (24, 2)
    assert [frame["pts_s"] for frame in dog["evidence"]] == [1, 2, 4]
    assert {(span["start_s"], span["end_s"]) for span in dog["spans"]} <= {(1, 3), (4, 5)}
    assert all(0.5 <= span["score"] <= 1 for span in dog["spans"])
    assert dog["answer"] == ("found" if dog["spans"] else "not found")
    for name in ("car", "place", "free"):
        assert confirmed[name]["answer"] == plain[name]["answer"]


def test_a_confirmed_span_is_as_sure_as_the_flag_that_asks_the_same(actor):
    tokens = (0, 4, 4, 0, 0, 0)
    flag = Query("flag", FIND.text, "flag")
    queries = (FIND, flag)
    row = window(0, {"dog": tokens, "flag": tokens}, queries, np.repeat(TWO_SPANS[:, :1], 2, axis=1))
    row["relevance"] = rows.pack(np.asarray([[0, 0.9, 0.8, 0, 0, 0]] * 2, np.float32).T)
    [answers] = ask(actor.shown(queries, confirm_find=True), row)
    said = answers["flag"]
    chance = said["confidence"] if said["answer"] == "yes" else 1 - said["confidence"]
    assert answers["dog"]["confidence"] == pytest.approx(chance, abs=1e-6)
    assert answers["dog"]["answer"] == ("found" if chance >= 0.5 else "not found")
    assert answers["dog"]["prefills"] + said["prefills"] == 1  # the same frames: one prompt


def test_without_a_model_there_is_nobody_to_confirm(actor):
    row = window(0, relevance=TWO_SPANS)
    plain, asked = (ask(actor(confirm_find=confirm), row, schema=rows.PLANNED) for confirm in (False, True))
    assert untimed(plain[0]["dog"]) == untimed(asked[0]["dog"])


def test_answers_are_a_table_of_the_schema(actor):
    answered = actor.shown()(rows.to_table([window(0, SHOWN)], rows.EVIDENCE_FRAMES))
    assert isinstance(answered, pa.Table)
    assert answered.schema == rows.ANSWERED


def test_a_question_with_a_mark_is_refused_alone_also_where_priors_are_removed(model):
    marked = Query("marked", "is <s> here", "flag")
    actor = make_actor((marked, FLAG), model=str(model), frame_px=64, dtype="float32", remove_prior=True)
    [found] = ask(actor, window(0, {"marked": ALL, "car": ALL}, (marked, FLAG)))
    assert "holds '<s>'" in found["marked"]["error_message"]
    assert not found["car"]["error_type"]


def test_a_query_may_be_called_what_it_likes_beside_confirmed_finds(model):
    queries = (
        Query("q", "a dog", "find", threshold=0.0),
        Query("q 0.0-6.0", "a car", "flag"),
        Query("q/0", "b", "flag"),
    )
    actor = make_actor(queries, model=str(model), frame_px=64, dtype="float32", confirm_find=True)
    [found] = ask(actor, window(0, {query.query_id: ALL for query in queries}, queries))
    assert found.keys() == {query.query_id for query in queries}
    assert not any(answer["error_type"] for answer in found.values())


def test_a_poisoned_context_ends_the_process_not_the_run(actor, monkeypatch):
    import torch

    def poisoned(_requests):
        raise torch.AcceleratorError("CUDA error: device-side assert triggered")

    def leave(code):
        raise SystemExit(code)

    shown = actor.shown()
    monkeypatch.setattr(shown.answerer, "answer", poisoned)
    monkeypatch.setattr("os._exit", leave)
    with pytest.raises(SystemExit):
        ask(shown, window(0, SHOWN))
