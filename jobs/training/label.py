"""`reelsift train label`: what the answerer's own answers say about questions whose answers are known.

    groups of questions -> look at their video -> probe the answerer -> one file per group     (a Ray Data job)
    probed rows -> every category votes for its policy -> qtr/ and flr/                        (the driver)

A group is the questions about one video, a few dozen at most; running the same command again does missing groups only.
"""

import json
import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from itertools import groupby
from typing import Any

from actors.models import AnswererEntry, AnswererFacts, ScorerEntry
from actors.models.tables import find_answerer, find_scorer
from jobs.training import parts
from jobs.training.look import look_to_label
from jobs.training.questions import Question, read_questions
from jobs.training.settings import LabelConfig, fingerprint
from jobs.training.splits import TRAIN, split_of
from jobs.training.tables import FLR, QTR
from pipeline import rows, store
from pipeline.compress import check_settings
from pipeline.config import JobConfig, WindowConfig
from pipeline.errors import ConfigError, JobError
from pipeline.isolation import Reader
from pipeline.rows import Row

FACTS_FILE = "labels.json"
QUESTIONS_PER_GROUP = 32
VOTES = ("right_global", "right_fragment", "likelihood_global", "likelihood_fragment")
REASONS = 5

logger = logging.getLogger(__name__)


def label(videos: str, questions: str, out: str, config: LabelConfig) -> dict[str, Any]:
    """Label every question; return what was counted.

    Raises:
        ConfigError: no model, no questions, or settings that do not fit.
        ModelError: see `describe` of the answerer.
        StoreError: questions or output cannot be reached.
        JobError: not one question could be labelled.
    """
    if not config.answer.model:
        msg = "labels come from a model's answers, and none is named; give --answer.model"
        raise ConfigError(msg)
    check_settings(config.compress)
    scorer = find_scorer(config.score)
    if scorer.refine is not None:
        msg = (
            f"--score.scorer {config.score.scorer!r} is what is to be trained or runs inside the answerer; expected one"
            " that looks at frames by itself, such as embedded"
        )
        raise ConfigError(msg)
    good: list[Question] = []
    refused: list[Row] = []
    for one in read_questions(questions):
        good.append(one) if isinstance(one, Question) else refused.append(one)
    if not good and not refused:
        msg = f"{questions}: found no question; expected one JSON object a line, or a row each"
        raise ConfigError(msg)
    answerer = find_answerer(config.answer)
    made = answerer.describe(config.answer)
    model = f"{made.name}@{made.revision}"
    folder = store.join(out, "_probed", parts.name_of(fingerprint(config), model))
    groups = list(_groups(good, videos))
    there = parts.names(folder)
    missing = [group for group in groups if group["part"] not in there]
    logger.info("%d questions in %d groups, %d to do", len(good), len(groups), len(missing))
    names = [group["part"] for group in groups]
    if missing:
        _probe(videos, folder, missing, config, scorer, answerer, made)
    counts = write_labels(out, folder, names, refused)
    facts = {"videos": videos, "model": model, "settings": fingerprint(config), **counts}
    store.write_bytes(store.join(out, FACTS_FILE), json.dumps(facts, indent=2).encode() + b"\n")
    if counts["failed"] == counts["questions"]:
        msg = (
            f"not one of the {counts['questions']} questions could be labelled, most often because of:"
            f" {counts['reasons'][0] if counts['reasons'] else 'no reason'}; their rows are in {out}"
        )
        raise JobError(msg)
    return facts


def _groups(questions: Sequence[Question], videos: str) -> Iterator[Row]:
    """Yield tables.GROUP rows: the questions of one video, not too many."""
    ordered = sorted(questions, key=lambda one: (one.video, one.id))
    for video, mine in groupby(ordered, key=lambda one: one.video):
        several = list(mine)
        for start in range(0, len(several), QUESTIONS_PER_GROUP):
            values = [asdict(one) for one in several[start : start + QUESTIONS_PER_GROUP]]
            yield {
                "part": parts.name_of(videos, values),
                "video": video,
                "questions": json.dumps(values),
                "error_type": "",
                "error_message": "",
            }


def _probe(
    videos: str,
    folder: str,
    groups: Sequence[Row],
    config: LabelConfig,
    scorer: ScorerEntry,
    answerer: AnswererEntry,
    facts: AnswererFacts,
) -> None:
    """Probe the answerer about groups of questions, on Ray.

    Raises:
        ConfigError: it looks at no frames.
    """
    from jobs import cluster

    if facts.frame_size is None:
        msg = f"model {config.answer.model!r} looks at no frames; expected a video language model"
        raise ConfigError(msg)
    job = JobConfig(answer=config.answer, score=config.score, decode=config.decode)
    with cluster.connected():
        from jobs.placement import place
        from jobs.training import flow

        seat = place(job, scorer_gpu=False, answerer_gpu=True).answerer
        assert seat, "a model is named: it looks at frames"
        sizes = (facts.frame_size, scorer.describe(config.score).frame_size)
        look = partial(look_to_label, Reader(config.decode, WindowConfig()), videos, sizes, config.num_frames)
        made = (answerer.make, scorer, config, facts, seat.device, seat.num_gpus)
        flow.run(flow.probed(groups, look, made, seat, folder))


def write_labels(out: str, folder: str, names: Sequence[str], refused: Sequence[Row]) -> dict[str, Any]:
    """Let every category vote for its policy, and write qtr/ and flr/; return what was counted.

    Args:
        out: where the labels go.
        folder: of probed parts.
        names: of the parts that belong to this run.
        refused: rows of questions that could not be used.
    """
    votes = vote(parts.scan(folder, names, ("category", "split", "video", *VOTES, "error_type")))
    counts: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    for name, found in [*((name, None) for name in names), ("refused", refused)]:
        probed = list(parts.scan(folder, [name]) if found is None else found)
        for table, schema, made in (("qtr", QTR, qtr_row), ("flr", FLR, flr_row)):
            labelled = [made(row, votes) for row in probed]
            store.write_table(parts.uri_of(store.join(out, table), name), rows.to_table(labelled, schema))
            counts[table] += sum(not row.get("error_type") for row in labelled)
            reasons.update(row["error_message"] for row in labelled if row.get("error_type"))
        counts["questions"] += len(probed)
        counts["failed"] += sum(bool(row.get("error_type")) for row in probed)
        counts["still_answerable"] += sum(bool(row.get("masked_answerable")) for row in probed)
    for table in ("qtr", "flr"):
        for stale in parts.names(store.join(out, table)) - {*names, "refused"}:
            store.delete(parts.uri_of(store.join(out, table), stale))
    categories = {
        name: {"policy": policy, "acc_global": a, "acc_fragment": b} for name, (policy, a, b) in votes.items()
    }
    return {
        "questions": counts["questions"], "failed": counts["failed"], "qtr": counts["qtr"], "flr": counts["flr"],
        "still_answerable": counts["still_answerable"], "categories": categories,
        "reasons": [reason for reason, _ in reasons.most_common(REASONS)],
    }  # fmt: skip


Votes = dict[str, tuple[str, float, float]]
"""Per category its policy, and the shares answered right under global and under fragment."""


def vote(probed: Iterable[Row]) -> Votes:
    """Return the better policy of each category: more right answers, else likelier ones, else global.

    Rows that are called dev or test have no vote: what is measured on them must not have been learned from them.
    """
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0] * (1 + len(VOTES)))
    for row in probed:
        if not row["error_type"] and split_of(row["split"] or "", row["video"], 0.0) == TRAIN:
            mine = sums[row["category"]]
            for index, value in enumerate([1.0, *(float(row[name]) for name in VOTES)]):
                mine[index] += value
    found: Votes = {}
    for category, (count, right_global, right_fragment, like_global, like_fragment) in sorted(sums.items()):
        is_fragment = (right_fragment, like_fragment) > (right_global, like_global)
        policy = "fragment" if is_fragment else "global"
        found[category] = (policy, right_global / count, right_fragment / count)
    return found


def qtr_row(probed: Row, votes: Votes) -> Row:
    """Return a row of tables.QTR; a question of a category without a vote is a failed one."""
    category = probed.get("category", "")
    policy, acc_global, acc_fragment = votes.get(category, ("", 0.0, 0.0))
    row = {**probed, "policy": policy, "acc_global": acc_global, "acc_fragment": acc_fragment}
    if not policy and not row.get("error_type"):
        msg = (
            f"no question of category {category!r} to train on was probed, so it has no policy; add some"
            " of split train"
        )
        row |= {"error_type": "QuestionError", "error_message": msg}
    return row


def flr_row(probed: Row, votes: Votes) -> Row:
    """Return a row of tables.FLR; a question without frames that matter is a failed one."""
    del votes
    row = {**probed, "necessity": {"masked_answerable": bool(probed.get("masked_answerable"))}}
    if probed.get("search_error"):
        row |= {"error_type": "AnswerError", "error_message": probed["search_error"]}
    return row
