"""The answering actor: holds an answerer, turns planned windows into one answer row per query."""

import logging
import time
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa

from actors.device import exit_on_poisoned_cuda
from actors.models import Answer, Answerer, AnswererFacts, Ask, Device, WindowView, relevance
from pipeline import rows
from pipeline.answers import answer_row, failed_rows
from pipeline.budget import Plan
from pipeline.config import JobConfig
from pipeline.frames import Frames
from pipeline.guard import run_rows
from pipeline.queries import Query, columns
from pipeline.rows import Row

logger = logging.getLogger(__name__)


class AnswerActor:
    """Answers every open query of a window. `find` is answered from relevance, the rest by the answerer."""

    def __init__(
        self,
        make: Callable[..., Answerer],
        config: JobConfig,
        queries: Sequence[Query],
        facts: AnswererFacts,
        scorer: str,
        device: Device,
    ) -> None:
        started = time.perf_counter()
        self.config = config
        self.queries = {query.query_id: query for query in queries}
        self.columns = columns(queries)
        self.facts = facts
        self.scorer = scorer
        self.answerer = make(config.answer, config.compress, device)
        self.finder = relevance.RelevanceAnswerer()
        logger.info("answerer ready on %s in %.1f s", device, time.perf_counter() - started)

    def __call__(self, table: pa.Table) -> pa.Table:
        """Return rows.ANSWERED for a table of rows.PLANNED or rows.EVIDENCE_FRAMES."""
        with exit_on_poisoned_cuda():
            answered = run_rows(self.answer_window, rows.ANSWERED, table)
        return rows.to_table((self._with_failures(row) for row in rows.to_rows(answered)), rows.ANSWERED)

    def answer_window(self, window: Row) -> Row:
        """Return `answers`: one complete rows.ANSWERS row per open query of the window."""
        view = self._view(window)
        asks, broken = self._asks(window)
        given: dict[str, tuple[Answer, float]] = {}
        for answerer, group in self._by_answerer(list(asks.values())):
            started = time.perf_counter()
            answers = answerer.answer(view, group)
            share_s = (time.perf_counter() - started) / max(1, len(group))
            for ask, answer in zip(group, answers, strict=True):
                given[ask.query.query_id] = (answer, share_s)
        for query_id, message in broken.items():
            given[query_id] = (Answer("", 0.0, error=message), 0.0)
        plans = {plan["query_id"]: plan for plan in window["plans"]}
        return {
            "answers": [
                answer_row(
                    window,
                    self.queries[query_id],
                    plans[query_id],
                    answer=given[query_id][0],
                    answer_s=given[query_id][1],
                    labels=self._labels(),
                )
                for query_id in window["query_ids"]
            ]
        }

    def _labels(self) -> Row:
        """Return the columns that say who did the work."""
        return {
            "scorer": self.scorer,
            "compressor": self.config.compress.compressor if self.facts.tokens_per_frame else "",
            "model": self.facts.name,
            "model_revision": self.facts.revision,
        }

    def _by_answerer(self, asks: list[Ask]) -> list[tuple[Answerer, list[Ask]]]:
        """Return the asks in two groups, in order: from relevance, and for the answerer."""
        finds = [ask for ask in asks if ask.query.kind == "find"]
        others = [ask for ask in asks if ask.query.kind != "find"]
        return [(who, group) for who, group in ((self.finder, finds), (self.answerer, others)) if group]

    def _asks(self, window: Row) -> tuple[dict[str, Ask], dict[str, str]]:
        """Return what can be asked per query id, and the reason where no plan could be made."""
        relevance_NP = rows.unpack(window["relevance"])
        asks: dict[str, Ask] = {}
        broken: dict[str, str] = {}
        for plan in window["plans"]:
            query = self.queries[plan["query_id"]]
            if plan["error_message"]:
                broken[query.query_id] = plan["error_message"]
                continue
            own, choices = self.columns[query.query_id]
            asks[query.query_id] = Ask(
                query=query,
                plan=Plan(plan["route"], tuple(plan["tokens"]), plan["reason"]),
                relevance_N=relevance_NP[:, own],
                choices_NC=relevance_NP[:, list(choices)],
                threshold=self.config.score.threshold if query.threshold is None else query.threshold,
            )
        return asks, broken

    def _view(self, window: Row) -> WindowView:
        """Return the window as answerers see it."""
        pts_s_N = np.asarray(window["pts_s"])
        index = list(window.get("evidence_index", []))
        evidence = None
        if index:
            evidence = Frames(rows.unpack(window["evidence_pixels"]), pts_s_N[index])
        return WindowView(window["start_s"], window["end_s"], pts_s_N, index, evidence)

    def _with_failures(self, window: Row) -> Row:
        """Return a failed window with one failed answer per open query; a good one as it is."""
        if not window["error_type"]:
            return window
        queries = [self.queries[query_id] for query_id in window["query_ids"]]
        return {**window, "answers": failed_rows(window, queries, self._labels())}
