"""Queries: what is asked of every window, read from a file and checked before anything starts.

A file has one query per JSON line, CSV row, Parquet row or YAML list item. All its mistakes are reported
together, each with its place.
"""

import csv
import difflib
import hashlib
import io
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal, cast

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from pipeline import store
from pipeline.errors import ConfigError

Kind = Literal["find", "flag", "ask", "choose"]
KINDS: tuple[Kind, ...] = ("find", "flag", "ask", "choose")
MAX_TEXT_CHARACTERS = 2000


@dataclass(frozen=True, slots=True)
class Query:
    """One question asked of every window of every video."""

    query_id: str
    text: str
    kind: Kind
    choices: tuple[str, ...] = ()
    """The allowed answers of `choose`; empty for the other kinds."""
    threshold: float | None = None
    """Relevance in [0, 1] from which a frame counts; None = the job's `score.threshold`."""
    budget_tokens: int | None = None
    """Visual tokens one (window, query) may spend; None = the job's `plan.budget_tokens`."""


def texts(queries: Sequence[Query]) -> list[str]:
    """Return every text whose relevance is scored: each query's own, then its choices, query by query."""
    return [text for query in queries for text in (query.text, *query.choices)]


def columns(queries: Sequence[Query]) -> dict[str, tuple[int, range]]:
    """Return, per query id, its own column in `texts` and the columns of its choices."""
    found: dict[str, tuple[int, range]] = {}
    position = 0
    for query in queries:
        after = position + 1 + len(query.choices)
        found[query.query_id] = (position, range(position + 1, after))
        position = after
    return found


def load_queries(path: str) -> list[Query]:
    """Return the queries of a .jsonl, .csv, .parquet, .yaml or .yml file, local or `s3://`, in file order.

    Raises:
        ConfigError: the file does not exist, or holds mistakes; the message lists every one with its line.
        StoreError: the bucket cannot be read.
    """
    read = READERS.get(PurePosixPath(path).suffix.lower())
    if read is None:
        msg = f"{path}: cannot tell what kind of query file this is; name it one of *{', *'.join(READERS)}"
        raise ConfigError(msg)
    if not store.exists(path):
        msg = f"{path}: no such query file"
        raise ConfigError(msg)
    mistakes: list[str] = []
    items = read(store.read_bytes(path), mistakes)
    queries = _check_items(items, mistakes)
    if not items and not mistakes:
        mistakes.append("the file holds no query")
    if mistakes:
        count = f"{len(mistakes)} mistake{'s' * (len(mistakes) > 1)}"
        msg = f"{path}: {count}\n" + "\n".join(f"  {mistake}" for mistake in mistakes)
        raise ConfigError(msg)
    return queries


def one_query(text: str, kind: str = "find") -> Query:
    """Return a query that was typed, not read; its id follows from text and kind, so the same one resumes.

    Raises:
        ConfigError: the text is empty or too long, or the kind is unknown or needs choices.
    """
    digest = hashlib.sha256(f"{kind}:{text}".encode(errors="backslashreplace")).hexdigest()[:8]
    slug = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:32].strip("-")
    query_id = f"{slug}-{digest}" if slug else digest
    query, mistakes = _check_item({"query_id": query_id, "text": text, "kind": kind})
    if query is None:
        msg = f"query {text[:80]!r}: {'; '.join(mistakes)}"
        raise ConfigError(msg)
    return query


def check_budgets(queries: Sequence[Query], job_tokens: int, smallest_tokens: int) -> None:
    """Check that every query can afford one frame.

    Args:
        queries: those that spend visual tokens.
        job_tokens: budget of a query that names none.
        smallest_tokens: visual tokens of one frame at the coarsest scale.

    Raises:
        ConfigError: every query with a smaller budget, where the budget is set, and the least that it may be.
    """
    short: list[str] = []
    for query in queries:
        own = query.budget_tokens
        if (job_tokens if own is None else own) < smallest_tokens:
            field = f"its budget_tokens {own}" if own is not None else f"--plan.budget-tokens {job_tokens}"
            short.append(f"query {query.query_id!r}: {field} does not buy one frame")
    if short:
        more = f"; and {len(short) - 10} more" if len(short) > 10 else ""
        msg = (
            f"{'; '.join(short[:10])}{more}. One frame costs at least {smallest_tokens} visual tokens: set budgets of"
            f" {smallest_tokens} or more, or a larger --plan.scale-background"
        )
        raise ConfigError(msg)


# --- reading: bytes -> (place, fields) ---------------------------------------------------------------

Item = tuple[str, dict[str, Any]]


def _decode(data: bytes, mistakes: list[str]) -> str:
    """Return the text of a file, after a byte order mark if there is one."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        mistakes.append(f"line {line}: byte 0x{data[error.start]:02x} is not UTF-8; save the file as UTF-8")
        return ""


def _read_jsonl(data: bytes, mistakes: list[str]) -> list[Item]:
    items: list[Item] = []
    for number, line in enumerate(_decode(data, mistakes).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            mistakes.append(f"line {number}: not JSON: {error.msg} at column {error.colno}")
            continue
        except (ValueError, RecursionError) as error:
            mistakes.append(f"line {number}: not JSON: {error}")
            continue
        _add_item(items, mistakes, f"line {number}", value)
    return items


def _read_yaml(data: bytes, mistakes: list[str]) -> list[Item]:
    items: list[Item] = []
    text = _decode(data, mistakes)
    try:
        root = yaml.compose(text, yaml.SafeLoader)
        values = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        mistakes.append(f"line {line}: not YAML: {error.problem}")
        return items
    except (yaml.YAMLError, ValueError) as error:
        mistakes.append(f"not YAML: {error}")
        return items
    if root is None:
        return items
    if not isinstance(root, yaml.SequenceNode):
        mistakes.append("line 1: expected a list of queries (`- query_id: ...`)")
        return items
    for node, value in zip(root.value, values, strict=True):
        _add_item(items, mistakes, f"line {node.start_mark.line + 1}", value)
    return items


def _read_csv(data: bytes, mistakes: list[str]) -> list[Item]:
    reader = csv.DictReader(io.StringIO(_decode(data, mistakes), newline=""), restkey="", strict=True)
    items: list[Item] = []
    try:
        if not _columns_fit(reader.fieldnames or [], "line 1", mistakes):
            return items
        for row in reader:
            place = f"line {reader.line_num}"
            if row.pop("", None) is not None:
                mistakes.append(f"{place}: more cells than the header has; quote texts that hold a comma")
                continue
            items.append((place, {name: _cell(name, value) for name, value in row.items() if value}))
    except csv.Error as error:
        mistakes.append(f"line {reader.line_num + 1}: not CSV: {error}")
    return items


def _cell(name: str, value: str) -> Any:
    """Return a CSV cell as the type its column has, or as it stands where that fails."""
    if name == "choices":
        return value.split("|")
    try:
        return {"threshold": float, "budget_tokens": int}.get(name, str)(value)
    except ValueError:
        return value


def _read_parquet(data: bytes, mistakes: list[str]) -> list[Item]:
    try:
        table = pq.read_table(pa.BufferReader(data))
    except (pa.ArrowException, OSError) as error:
        mistakes.append(f"not Parquet: {error}")
        return []
    if not _columns_fit(table.column_names, "columns", mistakes):
        return []
    return [(f"row {number}", row) for number, row in enumerate(table.to_pylist(), start=1)]


READERS: dict[str, Callable[[bytes, list[str]], list[Item]]] = {
    ".jsonl": _read_jsonl,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
    ".yaml": _read_yaml,
    ".yml": _read_yaml,
}


def _add_item(items: list[Item], mistakes: list[str], place: str, value: Any) -> None:
    if isinstance(value, dict):
        items.append((place, cast("dict[str, Any]", value)))
    else:
        mistakes.append(f"{place}: expected an object with query_id, text and kind, found {_show(value)}")


def _columns_fit(names: Sequence[str], place: str, mistakes: list[str]) -> bool:
    """Check the header of a table once, instead of every row; an empty file has no header to check."""
    found = [f"{place}: {mistake}" for mistake in _unknown(names)]
    found += [f"{place}: no column {name!r}" for name in REQUIRED if names and name not in names]
    found += [f"{place}: column {name!r} is there twice" for name in FIELDS if names.count(name) > 1]
    mistakes += found
    return not found


# --- checking ----------------------------------------------------------------------------------------


def _check_items(items: Sequence[Item], mistakes: list[str]) -> list[Query]:
    queries: list[Query] = []
    first: dict[str, str] = {}
    for place, fields in items:
        query, found = _check_item(fields)
        query_id = str(fields.get("query_id") or "").strip()
        if query_id and first.setdefault(query_id, place) != place:
            found.append(f"query_id {query_id!r} is used on {first[query_id]} already")
        mistakes += [f"{place}: {mistake}" for mistake in found]
        if query:
            queries.append(query)
    return queries


def _check_item(fields: dict[str, Any]) -> tuple[Query | None, list[str]]:
    """Return the query that the fields describe, or None and what is wrong with them."""
    mistakes = _unknown(fields)
    values: dict[str, Any] = {}
    for name, check in FIELDS.items():
        given = fields.get(name)
        if given is None and name not in REQUIRED:
            continue
        try:
            values[name] = check(given)
        except ValueError as error:
            mistakes.append(f"{name} {error}")
    choices, kind = values.get("choices", ()), values.get("kind", "")
    choices_read = "choices" in values or fields.get("choices") is None
    if kind == "choose" and choices_read and len(choices) < 2:
        mistakes.append(f"kind 'choose' needs at least 2 choices, found {len(choices)}")
    if choices and kind not in ("choose", ""):
        mistakes.append(f"choices belong to kind 'choose', not to {kind!r}; drop them or change the kind")
    return (None, mistakes) if mistakes else (Query(**values), [])


def _unknown(names: Sequence[str] | dict[str, Any]) -> list[str]:
    mistakes: list[str] = []
    for name in names:
        if name not in FIELDS:
            close = difflib.get_close_matches(str(name), FIELDS, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(FIELDS)}"
            mistakes.append(f"unknown field {name!r}; {hint}")
    return mistakes


def _text(value: Any) -> str:
    if value is None:
        msg = "is missing"
        raise ValueError(msg)
    if not isinstance(value, str):
        msg = f"must be text, found {_show(value)}; put it in quotes"
        raise ValueError(msg)
    text = value.strip()
    if not text:
        msg = "is empty"
        raise ValueError(msg)
    if len(text) > MAX_TEXT_CHARACTERS:
        msg = f"is {len(text)} characters long, the limit is {MAX_TEXT_CHARACTERS}"
        raise ValueError(msg)
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        msg = f"holds half a surrogate pair: {text[:80]!a}"
        raise ValueError(msg)
    return text


def _question(value: Any) -> str:
    """Return a text with something to look for or to ask; signs alone would be scored and answered all the same."""
    text = _text(value)
    if not any(letter.isalnum() for letter in text):
        msg = f"holds no word: {text[:80]!r}; write what to look for or what to ask"
        raise ValueError(msg)
    return text


def _kind(value: Any) -> Kind:
    kind = _text(value)
    for known in KINDS:
        if kind == known:
            return known
    close = difflib.get_close_matches(kind.lower(), KINDS, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(KINDS)}"
    msg = f"{kind!r} is unknown; {hint}"
    raise ValueError(msg)


def _choices(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        msg = f"must be a list of texts, found {_show(value)}"
        raise ValueError(msg)
    found: list[str] = []
    for number, choice in enumerate(cast("list[Any]", value), start=1):
        try:
            found.append(_text(choice))
        except ValueError as error:
            msg = f"number {number} {error}"
            raise ValueError(msg) from error
    twice = sorted({choice for choice in found if found.count(choice) > 1})
    if twice:
        msg = f"must differ, found {', '.join(map(repr, twice))} more than once"
        raise ValueError(msg)
    return tuple(found)


def _threshold(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        msg = f"must be a number from 0 to 1, found {_show(value)}"
        raise ValueError(msg)
    return float(value)


def _budget(value: Any) -> int:
    """Return whole numbers; 512.0 is one, because Parquet writers turn integers with gaps into floats."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1 or value < 1:
        msg = f"must be a whole number of at least 1, found {_show(value)}"
        raise ValueError(msg)
    return int(value)


def _show(value: Any) -> str:
    shown = repr(value)
    return f"{shown[:60]}{'...' * (len(shown) > 60)} ({type(value).__name__})"


REQUIRED = ("query_id", "text", "kind")
FIELDS: dict[str, Callable[[Any], Any]] = {
    "query_id": _text,
    "text": _question,
    "kind": _kind,
    "choices": _choices,
    "threshold": _threshold,
    "budget_tokens": _budget,
}
