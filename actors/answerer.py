"""The answering actor: holds an answerer, turns planned windows into one answer row per query.

It takes several windows a call, so that an answerer can decode their answers side by side.
"""

import logging
import time
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa

from actors import confirm
from actors.device import exit_on_poisoned_cuda, limit_gpu_memory, poisoned_is_fatal
from actors.models import (
    Answer,
    Answerer,
    AnswererFacts,
    Ask,
    Device,
    RefineFn,
    Request,
    WindowView,
    relevance,
)
from actors.models.refine import attach
from pipeline import rows
from pipeline.answers import answer_row, failed_rows
from pipeline.budget import Plan
from pipeline.config import JobConfig
from pipeline.errors import FatalWorkerError, JobError
from pipeline.frames import Frames
from pipeline.guard import bug, guard
from pipeline.queries import Query, columns
from pipeline.rows import Row

logger = logging.getLogger(__name__)


class AnswerActor:
    """Answers every open query of some windows. `find` is answered from relevance, the rest by the answerer."""

    def __init__(
        self,
        make: Callable[..., Answerer],
        config: JobConfig,
        queries: Sequence[Query],
        facts: AnswererFacts,
        scorer: str,
        device: Device,
        num_gpus: float = 0.0,
        refine: RefineFn | None = None,
    ) -> None:
        started = time.perf_counter()
        limit_gpu_memory(num_gpus, device)
        self.config = config
        self.queries = {query.query_id: query for query in queries}
        self.columns = columns(queries)
        self.facts = facts
        self.scorer = scorer
        self.answerer = make(config.answer, config.compress, device)
        if refine is not None:
            attach(self.answerer, refine, config)
        self.finder = relevance.RelevanceAnswerer()
        self.confirms = config.answer.confirm_find and facts.tokens_per_frame > 0
        logger.info("answerer ready on %s in %.1f s", device, time.perf_counter() - started)

    def __call__(self, table: pa.Table) -> pa.Table:
        """Return rows.ANSWERED for a table of rows.PLANNED or rows.EVIDENCE_FRAMES."""
        with exit_on_poisoned_cuda():
            opened = [guard(self._open, row) for row in rows.to_rows(table)]
            good = [row for row in opened if not row["error_type"]]
            started, cpu_started = time.perf_counter(), time.process_time()
            try:
                with poisoned_is_fatal():
                    given = self._answer(good)
            except (JobError, FatalWorkerError):
                raise
            except Exception as error:
                raise bug(error, ", ".join(row["window_id"] for row in good)) from error
            num_asked = max(1, sum(len(row["request"].asks) for row in good))
            share_s = (time.perf_counter() - started) / num_asked
            share_cpu_s = (time.process_time() - cpu_started) / num_asked
        closed = {
            row["window_id"]: {
                **self._close(row, found, share_s),
                "answer_cpu_s": share_cpu_s * len(row["request"].asks),
            }
            for row, found in zip(good, given, strict=True)
        }
        answered = (closed.get(row["window_id"]) or self._with_failures(row) for row in opened)
        return rows.to_table(answered, rows.ANSWERED)

    def _open(self, window: Row) -> Row:
        """Return `request`, what is put to the answerers, and `broken`: why a query has no plan."""
        asks, broken = self._asks(window)
        return {"request": Request(self._view(window), asks), "broken": broken}

    def _answer(self, windows: Sequence[Row]) -> list[dict[str, Answer]]:
        """Return the answers of some windows by query id: `find` from relevance, all else from the answerer."""
        given: list[dict[str, Answer]] = []
        checked: list[list[tuple[str, confirm.Span, Ask]]] = []
        asked: list[Request] = []
        for row in windows:
            window: WindowView = row["request"].window
            finds = [ask for ask in row["request"].asks if ask.query.kind == "find"]
            others = [ask for ask in row["request"].asks if ask.query.kind != "find"]
            [relevant] = self.finder.answer([Request(window, finds)])
            checks = [
                (ask.query.query_id, span, check)
                for ask, answer in zip(finds, relevant, strict=True)
                for span, check in (confirm.candidates(window, ask, answer) if self.confirms else ())
            ]
            given.append({ask.query.query_id: answer for ask, answer in zip(finds, relevant, strict=True)})
            checked.append(checks)
            asked.append(Request(window, [*others, *(check for _, _, check in checks)]))
        answered = (
            self.answerer.answer(asked) if any(request.asks for request in asked) else [[] for _ in asked]
        )
        for found, checks, request, answers in zip(given, checked, asked, answered, strict=True):
            own, on_spans = answers[: len(answers) - len(checks)], answers[len(answers) - len(checks) :]
            found.update({ask.query.query_id: answer for ask, answer in zip(request.asks, own, strict=False)})
            for query_id in dict.fromkeys(owner for owner, _, _ in checks):
                pairs = zip(checks, on_spans, strict=True)
                mine = [(span, answer) for (owner, span, _), answer in pairs if owner == query_id]
                found[query_id] = confirm.confirm(found[query_id], mine)
        return given

    def _close(self, window: Row, given: dict[str, Answer], share_s: float) -> Row:
        """Return the window with `answers`: one complete rows.ANSWERS row per open query."""
        plans = {plan["query_id"]: plan for plan in window["plans"]}
        refused = {query_id: Answer("", 0.0, error=why) for query_id, why in window["broken"].items()}
        answers = [
            answer_row(
                window,
                self.queries[query_id],
                _final(plans[query_id], (given | refused)[query_id]),
                answer=(given | refused)[query_id],
                answer_s=0.0 if query_id in refused else share_s,
                labels=self._labels(),
            )
            for query_id in window["query_ids"]
        ]
        return {**window, "answers": answers}

    def _labels(self) -> Row:
        """Return the columns that say who did the work."""
        return {
            "scorer": self.scorer,
            "compressor": self._compressor(),
            "model": self.facts.name,
            "model_revision": self.facts.revision,
        }

    def _compressor(self) -> str:
        """Return what shortens frames: nothing where no pixels are seen, and nothing where none can be cut."""
        if not self.facts.tokens_per_frame:
            return ""
        return self.config.compress.compressor if self.facts.cuts_frames else "none"

    def _asks(self, window: Row) -> tuple[list[Ask], dict[str, str]]:
        """Return what can be asked, and per query id the reason where no plan could be made."""
        relevance_NP = rows.unpack(window["relevance"])
        asks: list[Ask] = []
        broken: dict[str, str] = {}
        for plan in window["plans"]:
            query = self.queries[plan["query_id"]]
            if plan["error_message"]:
                broken[query.query_id] = plan["error_message"]
                continue
            own, choices = self.columns[query.query_id]
            asks.append(
                Ask(
                    query=query,
                    plan=Plan(plan["route"], tuple(plan["tokens"]), plan["reason"]),
                    relevance_N=relevance_NP[:, own],
                    choices_NC=relevance_NP[:, list(choices)],
                    threshold=self.config.score.threshold if query.threshold is None else query.threshold,
                    candidates=tuple(plan.get("candidates") or ()),
                )
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


def _final(plan: Row, answer: Answer) -> Row:
    """Return the plan as the answer followed it."""
    final = answer.plan
    return plan if final is None else {**plan, "route": final.route, "reason": final.reason}
