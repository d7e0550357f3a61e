"""What heads and language model are trained on together: questions, their answers, and what of a video they show.

A question is shown by the policy that its category was labelled with and by the frames it was labelled with, at a
budget that is drawn anew in every epoch: so the model meets the mixed resolutions that routes will show it.
"""

import json
import logging
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

from jobs.training import parts
from jobs.training.settings import JointConfig, PolicyConfig, RoutersConfig
from jobs.training.splits import DEV, TRAIN, split_of
from pipeline import store
from pipeline.budget import Plan, RouteName, plan_tokens
from pipeline.errors import ConfigError
from pipeline.queries import Kind, Query
from pipeline.rows import Row

SMALLEST_SHARE_LOG2 = 3.0
"""Budgets go down to 2 to the minus this, an eighth, of what all frames cost."""
MAX_DEV_BATCHES = 256
"""Most batches that one worker measures behind every epoch, while the others wait."""
QTR_COLUMNS = ("id", "policy", "error_type")
FLR_COLUMNS = (
    "id", "video", "split", "question", "kind", "choices", "answer", "frame_pts_s", "relevant", "necessity",
    "error_type",
)  # fmt: skip

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Lesson:
    """One question with its answer and its labels."""

    id: str
    text: str
    kind: Kind
    choices: tuple[str, ...]
    answer: str
    policy: RouteName
    frame_pts_s: tuple[float, ...]
    relevant: tuple[int, ...]
    """Places in `frame_pts_s`."""
    teaches_frames: bool
    """Whether `relevant` is known to be what the answer rests on: else it is shown, and nothing is learnt from it."""

    @property
    def query(self) -> Query:
        """The question as answerers take it."""
        return Query(self.id, self.text, self.kind, self.choices)

    @property
    def target(self) -> str:
        """The answer as the model is to write it: labels are compared as yes and no with a capital."""
        return self.answer.capitalize() if self.kind == "flag" else self.answer

    def plan(self, config: JointConfig, tokens_per_frame: int, seed: str) -> Plan:
        """Return what is shown, at a budget that follows from the seed."""
        whole = min(len(self.frame_pts_s) * tokens_per_frame, config.budget_tokens)
        drawn = random.Random(f"{seed} {self.id}").uniform(0.0, SMALLEST_SHARE_LOG2)
        return plan_tokens(
            [float(frame in self.relevant) for frame in range(len(self.frame_pts_s))],
            route=self.policy,
            route_confidence=1.0,
            tokens_per_frame=tokens_per_frame,
            budget_tokens=max(tokens_per_frame, round(whole * 2.0**-drawn)),
            threshold=0.5,
            scale_global=config.scale_global,
            scale_relevant=config.scale_relevant,
            scale_background=config.scale_background,
            max_relevant_share=1.0,
        )


def read_lessons(labels: str, batch_rows: int, dev_share: float) -> dict[str, list[Row]]:
    """Return per split tables.GROUP rows, each a batch: lessons about one video, as JSON.

    A question that was labelled with a policy is one, also where no frame is known that it rests on.

    Raises:
        ConfigError: no labels there.
    """
    found: dict[str, list[Row]] = {}
    flr, qtr = (store.join(labels, table) for table in ("flr", "qtr"))
    for name in sorted(parts.names(flr) & parts.names(qtr)):
        policies = {
            row["id"]: row["policy"]
            for row in parts.scan(qtr, [name], QTR_COLUMNS)
            if not row["error_type"] and row["policy"]
        }
        usable = [row for row in parts.scan(flr, [name], FLR_COLUMNS) if row["id"] in policies]
        for (video, split), mine in groupby(usable, key=lambda row: (row["video"], row["split"] or "")):
            lessons = [_lesson(row, policies[row["id"]]) for row in mine if row["frame_pts_s"]]
            groups = found.setdefault(split_of(split, video, dev_share), [])
            groups += [
                _group(video, lessons[at : at + batch_rows]) for at in range(0, len(lessons), batch_rows)
            ]
    if not found:
        msg = (
            f"{labels}: found no question with a policy and with frames; expected a folder written by"
            " `reelsift train label`"
        )
        raise ConfigError(msg)
    return found


def read_batches(
    labels: str, batch_rows: int, config: RoutersConfig | PolicyConfig, option: str
) -> dict[str, list[Row]]:
    """Return the batches of lessons to train on and those held back, mixed; see `read_lessons`.

    Args:
        labels: folder written by `label`.
        batch_rows: most questions of a batch.
        config: workers, seed, share that is held back.
        option: what `batch_rows` is called on the command line.

    Raises:
        ConfigError: no labels there, or fewer batches to train on than workers.
    """
    found = read_lessons(labels, batch_rows, config.dev_share)
    groups = {
        split: random.Random(config.seed).sample(found.get(split, []), len(found.get(split, [])))
        for split in (TRAIN, DEV)
    }
    groups[DEV] = groups[DEV][:MAX_DEV_BATCHES]
    if len(groups[TRAIN]) < config.num_workers:
        msg = (
            f"found {len(groups[TRAIN])} batches of up to {batch_rows} questions about one video to train on, expected"
            f" at least one for each of {config.num_workers} workers; label more questions, or lower {option},"
            " --num-workers or --dev-share"
        )
        raise ConfigError(msg)
    if not groups[DEV]:
        logger.warning("no row is held back: what is trained is neither measured nor calibrated")
    return groups


def _lesson(row: Row, policy: RouteName) -> Lesson:
    teaches_frames = not row["error_type"] and not row["necessity"]["masked_answerable"]
    return Lesson(
        id=row["id"],
        text=row["question"],
        kind=row["kind"],
        choices=tuple(row["choices"] or ()),
        answer=row["answer"],
        policy=policy,
        frame_pts_s=tuple(row["frame_pts_s"]),
        relevant=tuple(row["relevant"] or ()),
        teaches_frames=teaches_frames,
    )


def _group(video: str, lessons: Sequence[Lesson]) -> Row:
    values = [asdict(lesson) for lesson in lessons]
    return {
        "part": parts.name_of(video, values), "video": video, "questions": json.dumps(values), "error_type": "",
        "error_message": "",
    }  # fmt: skip


def lessons_of(group: Row) -> Iterator[Lesson]:
    """Yield the lessons of a group."""
    for values in json.loads(group["questions"]):
        lists: dict[str, Any] = {name: tuple(values[name]) for name in ("choices", "frame_pts_s", "relevant")}
        yield Lesson(**(values | lists))
