"""Questions about single videos whose answers are known, from JSON lines or Parquet; a bad one fails alone."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import store
from pipeline.errors import ConfigError, RowError
from pipeline.queries import MAX_TEXT_CHARACTERS, Kind, Query
from pipeline.rows import Row

FIELDS = ("id", "video", "question", "kind", "answer", "choices", "category", "split", "evidence_s")
KINDS: tuple[Kind, ...] = ("flag", "choose", "ask")
"""Kinds that a language model answers right or wrong."""


class QuestionError(RowError):
    """A question cannot be used; its row says why."""


@dataclass(frozen=True, slots=True)
class Question:
    """One question about one video, and its answer."""

    id: str
    video: str
    """Path below the folder of videos."""
    text: str
    kind: Kind
    answer: str
    choices: tuple[str, ...] = ()
    category: str = ""
    """What kind of question it is: a policy is chosen per category. Empty in the file = its kind."""
    split: str = ""
    """train, dev or test; empty = decided later, by the video."""
    evidence_s: tuple[tuple[float, float], ...] = ()
    """Half-open intervals in seconds in which the answer can be seen; empty = not known."""

    @property
    def query(self) -> Query:
        """The question as answerers take it."""
        return Query(self.id, self.text, self.kind, self.choices)


def read_questions(uri: str) -> Iterator[Question | Row]:
    """Yield the questions of a .jsonl or .parquet file; one that cannot be used comes as a failed row.

    A failed row has `id`, `video`, `question`, `error_type` and `error_message`.

    Raises:
        ConfigError: no such file, another kind of file, or Parquet that cannot be read.
        StoreError: the bucket cannot be read.
    """
    suffix = PurePosixPath(uri).suffix.lower()
    if suffix not in (".jsonl", ".parquet"):
        msg = f"{uri}: cannot tell what kind of file this is; expected questions as *.jsonl or *.parquet"
        raise ConfigError(msg)
    if not store.exists(uri):
        msg = f"{uri}: no such file of questions"
        raise ConfigError(msg)
    data = store.read_bytes(uri)
    seen: set[str] = set()
    for place, given in _lines(data) if suffix == ".jsonl" else _table(uri, data):
        known = {name: str(given[name]) for name in ("id", "video", "question") if given.get(name)}
        try:
            question = _question(given)
            if question.id in seen:
                msg = f"the id {question.id!r} was used before; expected one of its own"
                raise QuestionError(msg)
            seen.add(question.id)
            yield question
        except QuestionError as error:
            yield {"id": place, **known, "error_type": "QuestionError", "error_message": f"{place}: {error}"}


def _lines(data: bytes) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the place and the object of every JSON line; what is none has no fields."""
    for number, line in enumerate(data.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            value = None
        yield f"line {number}", value if isinstance(value, dict) else {}


def _table(uri: str, data: bytes) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        table = pq.read_table(pa.BufferReader(data))
    except (pa.ArrowException, OSError) as error:
        msg = f"{uri}: not Parquet: {error}; write the questions anew"
        raise ConfigError(msg) from error
    yield from ((f"row {number}", row) for number, row in enumerate(table.to_pylist(), start=1))


def _question(given: dict[str, Any]) -> Question:
    """Return a question whose fields fit together.

    Raises:
        QuestionError: a field is missing or is not what it should be.
    """
    id_, video, text, kind, answer = (
        _text(given, name) for name in ("id", "video", "question", "kind", "answer")
    )
    found: Kind | None = next((one for one in KINDS if one == kind), None)
    if found is None:
        msg = f"kind {kind!r}: expected one of {', '.join(KINDS)}, which a language model answers right or wrong"
        raise QuestionError(msg)
    parts = PurePosixPath(video).parts
    if "://" in video or video.startswith("/") or ".." in parts:
        msg = f"video {video!r}: expected a path below the folder of videos"
        raise QuestionError(msg)
    choices = _choices(given.get("choices")) if found == "choose" else ()
    if found == "choose" and answer not in choices:
        msg = f"answer {answer!r}: expected one of the {len(choices)} choices {list(choices)}"
        raise QuestionError(msg)
    if found == "flag" and answer.lower() not in ("yes", "no"):
        msg = f"answer {answer!r} to a flag: expected yes or no"
        raise QuestionError(msg)
    return Question(
        id=id_, video=video, text=text, kind=found, answer=answer, choices=choices,
        category=_text(given, "category", found), split=_text(given, "split", ""),
        evidence_s=_intervals(given.get("evidence_s")),
    )  # fmt: skip


def _text(given: dict[str, Any], name: str, missing: str | None = None) -> str:
    value = given.get(name)
    if value is None and missing is not None:
        return missing
    if isinstance(value, bool):
        value = "yes" if value else "no"
    if not isinstance(value, str | int | float) or not (text := str(value).strip()):
        msg = f"{name} {value!r}: expected text; the fields are {', '.join(FIELDS)}"
        raise QuestionError(msg)
    if len(text) > MAX_TEXT_CHARACTERS:
        msg = f"{name} has {len(text)} characters, expected at most {MAX_TEXT_CHARACTERS}"
        raise QuestionError(msg)
    return text


def _choices(value: Any) -> tuple[str, ...]:
    items = [str(item).strip() for item in value] if isinstance(value, list) else []
    if len(items) < 2 or len(set(items)) < len(items) or not all(items):
        msg = f"choices {value!r}: expected two or more different texts"
        raise QuestionError(msg)
    return tuple(items)


def _intervals(value: Any) -> tuple[tuple[float, float], ...]:
    try:
        found = tuple((float(start_s), float(end_s)) for start_s, end_s in value or ())
    except (TypeError, ValueError):
        found = ((1.0, 0.0),)
    if not all(0 <= start_s < end_s for start_s, end_s in found):
        msg = f"evidence_s {value!r}: expected pairs of seconds, each start before its end"
        raise QuestionError(msg)
    return found
