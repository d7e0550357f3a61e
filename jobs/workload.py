"""How much there is to do in a window: frames, tokens, bytes, before one of its pictures is decoded."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jobs.calibrate import SURE, Calibration, plan_of
from jobs.resolve import Resolved
from pipeline import rows
from pipeline.config import JobConfig
from pipeline.origin import MOST_BYTES, WHOLE_BYTES
from pipeline.queries import Query
from pipeline.route import Route
from pipeline.rows import Row
from pipeline.times import sample_times

TEXT_TOKENS = 40
"""Tokens of a question and what stands around it, where no model was asked."""
DISTINCT_LENGTHS = 32
"""Windows are planned as if they had one of so many numbers of frames per doubling."""
FEW_PIECES = 8
"""Sampled windows whose relevance stands for that of all."""

ROW_BYTES = 200
"""Of a row of videos/, without its key times."""

Amounts = Counter[str]
"""What a window, a video or an archive needs; names as in cost.COUNTS where they are the same."""


class Workload:
    """Says what the windows of a job need, by what was learnt from a few of them."""

    def __init__(
        self, config: JobConfig, queries: Sequence[Query], plan: Resolved, found: Calibration
    ) -> None:
        self._config = config
        self._queries = queries
        self._plan = plan
        self._found = found
        planned = sum(row["frames_planned"] for row in found.windows)
        seen = sum(row["frames"] for row in found.windows)
        self.seen_share = seen / planned if planned else 1.0
        """Of the times that are looked at, those with a picture of their own."""
        video_s = sum(row["video_s"] for row in found.windows)
        self._frames_per_s = planned / video_s if video_s else 0.0
        read = sum(row["read_bytes"] for row in found.windows)
        expected = sum(self._bytes(row)[0] for row in found.windows)
        self._read_share = read / expected if read and expected else 1.0
        self._per_class = decoding_by_class(found)
        self._planned: dict[int, dict[str, tuple[float, float, float]]] = {}
        self._prompts: dict[int, float] = {}
        self._prompt_share = 1.0
        if found.answered_by_model and found.windows and plan.answerer_facts.tokens_per_frame:
            every = {query.query_id for query in queries}
            foreseen = sum(self._tokens(row["frames"], every)["prefill_tokens"] for row in found.windows)
            seen = sum(row["prefill_tokens"] for row in found.windows)
            self._prompt_share = seen / foreseen if seen and foreseen else 1.0

    def of_file(self, file: Row, windows: Sequence[Row]) -> Amounts:
        """Return what a probed file and its windows need, probing included."""
        found: Amounts = Amounts(
            files=1,
            probe_cpu_s=file.get("probe_cpu_s", 0.0),
            read_bytes=file.get("probe_bytes", 0),
            read_requests=file.get("probe_requests", 0),
            video_rows_bytes=ROW_BYTES + 8 * len(file.get("key_times_s", ())),
        )
        for window in windows:
            found.update(self.of_window(window))
        return found

    def of_window(self, window: Row) -> Amounts:
        """Return what a window needs; `class` and `megapixels` are "" and 0 where they are not known."""
        asked, video_s = window["query_ids"], window["end_s"] - window["start_s"]
        is_indexed = bool(window["frames_uri"])
        num_planned = self._num_times(window)
        num_seen = max(1, round(num_planned * self.seen_share))
        read_bytes, read_requests = self._bytes(window)
        is_large = window["size_bytes"] > WHOLE_BYTES
        found: Amounts = Amounts(
            windows=1,
            recalled=int(is_indexed),
            video_s=video_s,
            **({} if is_indexed else self._decoding(window, video_s, num_seen)),
            answers=len(asked),
            frames_planned=num_planned,
            frames_seen=num_seen,
            evidence_s=video_s * self._weight(window, video_s),  # pyright: ignore[reportArgumentType]
            read_bytes=read_bytes * (self._read_share if is_large else 1.0),  # pyright: ignore[reportArgumentType]
            read_requests=read_requests,
            frame_rows=num_seen if window["write_frames"] else 0,
        )
        if self._plan.answerer_facts.tokens_per_frame:
            found.update(self._tokens(num_seen, set(asked)))
        return found

    def _decoding(self, window: Row, video_s: float, num_frames: int) -> dict[str, Any]:
        """Return what a window needs whose frames are not indexed."""
        return {
            "decoded_s": video_s,
            "weighted_s": video_s * self._weight(window, video_s),
            "megapixels": window["megapixels"],
            "frames_scored": num_frames,
        }

    def _weight(self, window: Row, video_s: float) -> float:
        """Return how many times the usual seconds a video second of a window takes to decode.

        A class of which nothing was decoded is compared by its pixels.
        """
        usual, per_megapixel, by_class = self._per_class
        if not usual or not window["class"]:
            return 1.0
        if window["class"] in by_class:
            return by_class[window["class"]] / usual
        return per_megapixel * window["megapixels"] / video_s / usual if per_megapixel else 1.0

    def _num_times(self, window: Row) -> int:
        """Return how often a window is looked at."""
        settings = self._config.window
        if settings.sampler == "rate":
            return len(sample_times(window["start_s"], window["end_s"], settings.sample_fps))
        if settings.sampler == "count":
            return settings.count
        per_s = self._frames_per_s or settings.sample_fps
        return max(1, round(per_s * (window["end_s"] - window["start_s"])))

    def _bytes(self, window: Row) -> tuple[float, int]:
        """Return bytes and requests to read a window of an object of a bucket; a local file is not counted."""
        if "://" not in window["uri"]:
            return 0.0, 0
        times = (not window["frames_uri"]) + (self._plan.answerer_facts.frame_size is not None)
        size_bytes = window["size_bytes"]
        if size_bytes <= WHOLE_BYTES:
            return float(times * size_bytes), times
        share = (window["end_s"] - window["start_s"]) / max(window.get("duration_s", 0.0), window["end_s"])
        num_bytes = times * size_bytes * share
        return num_bytes, times + int(num_bytes // MOST_BYTES)

    def _tokens(self, num_frames: int, asked: set[str]) -> Mapping[str, Any]:
        """Return the visual tokens of a window of so many frames, for the questions that are asked."""
        step = max(1, 2 ** (num_frames.bit_length() - 1) // DISTINCT_LENGTHS)
        like = max(1, round(num_frames / step) * step)
        if like not in self._planned:
            self._planned[like], self._prompts[like] = self._plans(like)
        spending = [
            query
            for query in self._queries
            if query.query_id in asked and (query.kind != "find" or self._config.answer.confirm_find)
        ]
        used = [self._planned[like][query.query_id] for query in spending]
        low, mid, high = (sum(one[end] for one in used) for end in range(3))
        all_mid = sum(mid for _, mid, _ in self._planned[like].values())
        shared = self._prompts[like] / all_mid if all_mid else 0.0
        dense = self._plan.answerer_facts.tokens_per_frame * num_frames * len(spending)
        return {
            "tokens_dense": dense,
            "tokens_used_low": low,
            "tokens_used": mid,
            "tokens_used_high": high,
            "prefill_tokens": (shared * mid + TEXT_TOKENS * len(spending)) * self._prompt_share,
            "model_answers": len(spending),
        }

    def _plans(self, num_frames: int) -> tuple[dict[str, tuple[float, float, float]], float]:
        """Return the tokens of each question (low, mid, high) in a window of so many frames, and those of all prompts.

        Plans that show the same share a prompt.
        """
        routes = self._plan.routes
        ways = [routes] if routes else self._both_routes()
        tokens: dict[str, list[int]] = {query.query_id: [] for query in self._queries}
        prompts: list[int] = []
        for window in self._stand_ins(num_frames):
            for way in ways:
                made = plan_of(window, way, self._config, self._queries, self._plan)["plans"]
                for one in made:
                    tokens[one["query_id"]].append(sum(one["tokens"]))
                prompts.append(sum(sum(shown) for shown in {tuple(one["tokens"]) for one in made}))
        is_guess = not (routes and self._found.scored)
        return {name: _between(values, is_guess=is_guess) for name, values in tokens.items()}, _mean(prompts)

    def _both_routes(self) -> list[dict[str, Route]]:
        """Return what a model may say of the questions, which is known only when the run starts."""
        return [
            {query.query_id: Route(route, 1.0, SURE.reason) for query in self._queries}
            for route in ("global", "fragment")
        ]

    def _stand_ins(self, num_frames: int) -> list[Row]:
        """Return scored windows of so many frames: sampled ones, stretched or cut, or made-up ones."""
        pieces = (
            [row for row in self._found.windows if row["frames"]][:FEW_PIECES] if self._found.scored else []
        )
        if pieces:
            return [_stretched(row, num_frames) for row in pieces]
        return [self._made_up(num_frames, share) for share in (0.0, 0.25)]

    def _made_up(self, num_frames: int, share: float) -> Row:
        """Return a scored window of which a share of the frames is relevant to every question."""
        num_texts = sum(1 + len(query.choices) for query in self._queries)
        relevance_NP = np.zeros((num_frames, num_texts), np.float32)
        relevance_NP[: round(share * num_frames)] = 1.0
        return {
            "relevance": rows.pack(relevance_NP),
            "embedding": rows.pack(np.random.default_rng(0).random((num_frames, 16), np.float32)),
            "novelty": [1.0] * num_frames,
            "slow": [True] * num_frames,
            **_clock(num_frames),
            "query_ids": [query.query_id for query in self._queries],
        }


def decoding_by_class(found: Calibration) -> tuple[float, float, dict[str, float]]:
    """Return CPU seconds of decoding per video second, per megapixel, and per video second of each class."""

    def per(unit: str, windows: Sequence[Row]) -> float:
        units = sum(row[unit] for row in windows)
        return sum(row["decode_cpu_s"] for row in windows) / units if units else 0.0

    classes = {row["class"] for row in found.windows}
    by_class = {
        name: per("video_s", [row for row in found.windows if row["class"] == name]) for name in classes
    }
    known = [row for row in found.windows if row["megapixels"]]
    return per("video_s", found.windows), per("megapixels", known), by_class


def _stretched(row: Row, num_frames: int) -> Row:
    """Return a scored window with another number of frames, those of a real one repeated or left out evenly."""
    index = (np.arange(num_frames) * row["frames"]) // num_frames
    return {
        **row,
        "relevance": rows.pack(rows.unpack(row["relevance"])[index]),
        "embedding": rows.pack(rows.unpack(row["embedding"])[index]),
        "novelty": np.asarray(row["novelty"])[index].tolist(),
        "slow": np.asarray(row["slow"])[index].tolist(),
        **_clock(num_frames),
    }


def _clock(num_frames: int) -> Row:
    return {"start_s": 0.0, "end_s": float(num_frames), "pts_s": [float(k) for k in range(num_frames)]}


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else 0.0


def _between(values: Sequence[float], *, is_guess: bool) -> tuple[float, float, float]:
    """Return low, mid and high of what plans spend: their extremes where they are guesses, else two standard errors."""
    if is_guess or len(values) == 1:
        return float(min(values)), _mean(values), float(max(values))
    off = 2 * float(np.std(values, ddof=1)) / len(values) ** 0.5
    return max(0.0, _mean(values) - off), _mean(values), _mean(values) + off
