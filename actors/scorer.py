"""The scoring actor: holds one frame scorer, turns seen windows into relevance; pixels end here.

A scorer that is small and needs no GPU is held by the processes that decode instead.
"""

import logging
import time
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa

from actors.device import exit_on_poisoned_cuda, limit_gpu_memory, poisoned_is_fatal
from actors.models import Device, Floats, FrameScorer
from pipeline import rows
from pipeline.config import ScoreConfig
from pipeline.guard import run_rows
from pipeline.queries import Query, texts
from pipeline.rows import Row
from pipeline.smooth import smooth

logger = logging.getLogger(__name__)


class Scorer:
    """Scores every frame of a window against every text of the batch of queries.

    A window is scored by itself, never mixed with another, so its scores do not depend on which actor it met or
    what came before it.
    """

    def __init__(
        self,
        make: Callable[[ScoreConfig, Device], FrameScorer],
        config: ScoreConfig,
        queries: Sequence[Query],
        device: Device,
        num_gpus: float = 0.0,
    ) -> None:
        started = time.perf_counter()
        limit_gpu_memory(num_gpus, device)
        self.config = config
        self.scorer = make(config, device)
        self.texts_PE = self.scorer.embed_texts(texts(queries))
        logger.info("scorer ready on %s in %.1f s", device, time.perf_counter() - started)

    def __call__(self, table: pa.Table) -> pa.Table:
        """Return rows.SCORED for a table of rows.DECODED."""
        with exit_on_poisoned_cuda():
            return run_rows(self.score, rows.SCORED, table)

    def score(self, window: Row) -> Row:
        """Return embedding [N, E], smoothed relevance [N, P] and the seconds they took."""
        started, cpu_started = time.perf_counter(), time.process_time()
        with poisoned_is_fatal():
            embedding_NE = self._embed(window)
            relevance_NP = self._relevance(embedding_NE)
        relevance_NP = smooth(relevance_NP, np.asarray(window["pts_s"]), self.config.smooth_s, embedding_NE)
        return {
            "embedding": rows.pack(embedding_NE),
            "relevance": rows.pack(relevance_NP.astype(np.float32)),
            "score_s": time.perf_counter() - started,
            "score_cpu_s": time.process_time() - cpu_started,
        }

    def _embed(self, window: Row) -> Floats:
        """Return the embedding of every frame: the one that came back from frames/, or a new one from its pixels."""
        known = window.get("embedding")
        if known is not None and known["shape"] != [0]:
            return rows.unpack(known)
        return self.scorer.embed_frames(rows.unpack(window["pixels"])).astype(np.float32)

    def _relevance(self, embedding_NE: Floats) -> Floats:
        """Return [N, P]; one text at a time, so that no text's last bits depend on how many others there are."""
        columns = [self.scorer.relevance(embedding_NE, text_1E) for text_1E in self.texts_PE[:, None]]
        return np.concatenate(columns, axis=1)


_of_run: dict[str, Scorer] = {}


def scorer_of_process(
    run_id: str,
    make: Callable[[ScoreConfig, Device], FrameScorer],
    config: ScoreConfig,
    queries: Sequence[Query],
) -> Scorer:
    """Return the scorer that this process keeps for the tasks of a run: on a CPU, made for the first of them."""
    if run_id not in _of_run:
        _of_run.clear()
        _of_run[run_id] = Scorer(make, config, queries, "cpu")
    return _of_run[run_id]
