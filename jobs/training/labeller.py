"""The labelling actor: holds the answerer, finds out by its answers what serves each question of a video."""

import json
import re
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from actors.device import exit_on_poisoned_cuda, limit_gpu_memory, poisoned_is_fatal
from actors.models import (
    Answer,
    Answerer,
    AnswererFacts,
    Ask,
    Device,
    FrameScorer,
    Request,
    ScorerEntry,
    WindowView,
)
from actors.models.video_llm import VideoLlm
from jobs.training import parts
from jobs.training.questions import Question
from jobs.training.search import Found, Judged, Show, probe, search_frames, trust_frames
from jobs.training.seen import SeenFrames
from jobs.training.settings import LabelConfig
from jobs.training.tables import PROBED
from pipeline import rows
from pipeline.budget import Plan, plan_tokens
from pipeline.errors import AnswerError, FatalWorkerError, JobError
from pipeline.frames import Frames
from pipeline.guard import bug
from pipeline.rows import Row

Probing = Generator[Plan, Judged, Row]


class Labeller:
    """Turns looked-at videos (tables.LOOKED) into a part each, one probed row per question (tables.PROBED)."""

    def __init__(
        self, folder: str, make: Callable[..., Answerer], scorer: ScorerEntry, config: LabelConfig,
        facts: AnswererFacts, device: Device, num_gpus: float = 0.0,
    ) -> None:  # fmt: skip
        limit_gpu_memory(num_gpus, device)
        self.folder = folder
        self.config = config
        self.facts = facts
        self.answerer = make(config.answer, config.compress, device)
        self.seen = SeenFrames(self.answerer) if isinstance(self.answerer, VideoLlm) else None
        self.scorer: FrameScorer = scorer.make(config.score, device)
        plan = config.plan
        if not facts.cuts_frames:
            plan = replace(plan, scale_global=1, scale_relevant=1, scale_background=1)
        self.settings = {
            name: getattr(plan, name)
            for name in ("budget_tokens", "scale_global", "scale_relevant", "scale_background")
        }

    def __call__(self, table: pa.Table) -> pa.Table:
        """Write tables.PROBED, and return parts.DONE; the questions of a video that was not read carry its reason.

        Written here, where a part is whole: between stages Ray may cut a table.
        """
        with exit_on_poisoned_cuda():
            found = [row for group in rows.to_rows(table) for row in self._label(group)]
        return parts.write(self.folder, rows.to_table(found, PROBED))

    def _label(self, group: Row) -> list[Row]:
        questions = [read_question(values) for values in json.loads(group["questions"])]
        if group["error_type"]:
            probed = [{name: group[name] for name in ("error_type", "error_message")} for _ in questions]
        else:
            try:
                with poisoned_is_fatal():
                    probed = self._probe(group, questions)
            except (JobError, FatalWorkerError):
                raise
            except Exception as error:
                raise bug(error, group["video"]) from error
        pts_s: list[float] = group["pts_s"]
        shared = {
            "part": group["part"],
            "duration_s": group["duration_s"],
            "frame_pts_s": pts_s,
            "fps_sampled": len(pts_s) / group["duration_s"] if group["duration_s"] else 0.0,
        }
        return [
            {**shared, **columns_of(question), **row} for question, row in zip(questions, probed, strict=True)
        ]

    def _probe(self, group: Row, questions: Sequence[Question]) -> list[Row]:
        """Return what the answers say about each question, all of them put side by side, step by step."""
        if self.seen:
            self.seen.forget()
        pts_s_N = np.asarray(group["pts_s"])
        window = WindowView(
            0.0, group["duration_s"], pts_s_N, range(len(pts_s_N)), Frames(rows.unpack(group["pixels"]), pts_s_N)
        )  # fmt: skip
        relevance_NP = self._relevance(group, questions)
        no_choices = np.zeros((len(pts_s_N), 0), np.float32)
        running: dict[int, tuple[Probing, Plan]] = {}
        found: dict[int, Row] = {}

        def go_on(index: int, step: Callable[[Probing], Plan], probing: Probing) -> None:
            try:
                running[index] = (probing, step(probing))
            except StopIteration as stop:
                running.pop(index, None)
                found[index] = stop.value
            except AnswerError as error:
                running.pop(index, None)
                found[index] = {"error_type": "AnswerError", "error_message": str(error)}

        for index, question in enumerate(questions):
            go_on(index, next, self._start(question, relevance_NP[:, index], pts_s_N))
        while running:
            asked = list(running)
            asks = [
                Ask(questions[index].query, running[index][1], relevance_NP[:, index], no_choices, 0.5)
                for index in asked
            ]
            [answers] = self.answerer.answer([Request(window, asks)])
            for index, answer in zip(asked, answers, strict=True):
                go_on(index, _told(questions[index], answer), running[index][0])
        return [found[index] for index in range(len(questions))]

    def _start(
        self, question: Question, relevance_N: npt.NDArray[np.float32], pts_s_N: npt.NDArray[np.float64]
    ) -> Probing:
        """Return the probing of one question: frames that lie in its evidence come first."""
        given_N = np.zeros(len(pts_s_N), dtype=bool)
        for start_s, end_s in question.evidence_s:
            given_N |= (pts_s_N >= start_s) & (pts_s_N < end_s)
        given = given_N.nonzero()[0].tolist()
        if self.config.evidence == "trust" and question.evidence_s:
            search = trust_frames(given, len(pts_s_N))
        else:
            ranked = np.lexsort((-relevance_N, ~given_N)).tolist()
            search = search_frames(ranked, self.config.max_rounds)
        show = Show(len(pts_s_N), self.settings, self.facts.tokens_per_frame)
        believed_N = given_N.astype(np.float32) if given else relevance_N
        return self._probing(believed_N, show, search)

    def _probing(
        self, relevance_N: npt.NDArray[np.float32], show: Show, search: Generator[tuple[int, ...], bool, Found],
    ) -> Probing:  # fmt: skip
        """Return a generator; planning is inside, so that a budget that buys nothing fails this question alone."""

        def plan(route: Any) -> Plan:
            return plan_tokens(
                relevance_N, route=route, route_confidence=1.0, tokens_per_frame=self.facts.tokens_per_frame,
                threshold=self.config.score.threshold, max_relevant_share=1.0, **self.settings,
            )  # fmt: skip

        policies = {route: plan(route) for route in ("global", "fragment")}
        return (yield from probe(policies, show, search, self.config.min_likelihood))

    def _relevance(self, group: Row, questions: Sequence[Question]) -> npt.NDArray[np.float32]:
        """Return how relevant the scorer holds each frame to each question, [N, P]."""
        texts_PE = self.scorer.embed_texts([question.text for question in questions])
        return self.scorer.relevance(self.scorer.embed_frames(rows.unpack(group["scorer_pixels"])), texts_PE)


def _told(question: Question, answer: Answer) -> Callable[[Probing], Plan]:
    """Return what tells a probing its answer, or why there is none."""
    if answer.error:
        return lambda probing: probing.throw(AnswerError(answer.error))
    judged = judge(question, answer.answer, answer.confidence)
    return lambda probing: probing.send(judged)


def judge(question: Question, given: str, confidence: float) -> Judged:
    """Return whether an answer is the known one, and how likely the known one is.

    Of a wrong choice only the likelihood of what was chosen is known; the rest is shared among the others. A wrong
    free text leaves none. Free text is right when it holds the known answer as whole words.
    """
    if question.kind == "ask":
        is_right = f" {_words(question.answer)} " in f" {_words(given)} "
        return Judged(is_right, confidence if is_right else 0.0)
    is_right = given.casefold() == question.answer.casefold()
    others = max(1, len(question.choices) - 1)
    return Judged(is_right, confidence if is_right else (1.0 - confidence) / others)


def _words(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.casefold()))


def columns_of(question: Question) -> Row:
    """Return the columns of labels that a question brings along."""
    return {
        "id": question.id, "video": question.video, "question": question.text, "kind": question.kind,
        "answer": question.answer, "choices": list(question.choices), "category": question.category,
        "split": question.split,
    }  # fmt: skip


def read_question(values: dict[str, Any]) -> Question:
    """Return the question that `dataclasses.asdict` and JSON made plain values of."""
    evidence_s = tuple((start_s, end_s) for start_s, end_s in values["evidence_s"])
    fields: dict[str, Any] = {**values, "choices": tuple(values["choices"]), "evidence_s": evidence_s}
    return Question(**fields)
