"""What Ray's stages are doing, from inner parts of Ray Data.

Ray calls an execution callback from its scheduling loop; this one notes a few numbers now and then and does nothing
else there. Should a release of Ray call these parts otherwise, nothing is noted any more, which is said once; the run
goes on.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

logger = logging.getLogger(__name__)

EVERY_S = 0.5
"""Seconds between two looks."""
NAMES = {
    "probe": "probe",
    "sample_window": "sample",
    "Scorer": "score",
    "plan_window": "plan",
    "fetch_evidence": "fetch",
    "AnswerActor": "answer",
    "stage_videos": "",
    "stage_windows": "",
    "judge_shards": "",
}
"""What the functions of flow.py are called for people; "" = writing, which counts when it is committed."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One stage at one time."""

    names: tuple[str, ...]
    """Of the functions in it, as NAMES calls them: several where Ray has joined them into one task."""
    num_rows: int
    """That it has put out."""
    num_tasks: int
    """Running now."""
    actors: tuple[int, int] | None
    """Running, and not yet running; None = it has none."""
    num_cpus: float
    num_gpus: float
    """Of one task or actor."""


class _Notes:
    """What was seen last, of the dataset that runs now."""

    latest: ClassVar[Sequence[Seen]] = ()
    seen_s: ClassVar[float] = -EVERY_S
    is_broken: ClassVar[bool] = False


def latest() -> Sequence[Seen]:
    """Return what was seen last, upstream first; nothing where no dataset runs, or Ray does not tell."""
    return _Notes.latest


def forget() -> None:
    """Forget what was seen: another dataset begins."""
    _Notes.latest = ()


def watch(context: Any) -> None:
    """Have every dataset of a DataContext watched from now on."""
    try:
        from ray.data._internal.execution.execution_callback import ExecutionCallback
    except ImportError as error:
        _give_up(error)
        return

    class Watched(ExecutionCallback):
        """Notes what the stages are doing."""

        def on_execution_step(self, executor: Any) -> None:
            """Look at the stages when the last look is old enough."""
            if _Notes.is_broken or time.monotonic() - _Notes.seen_s < EVERY_S:
                return
            _look(executor)

        def after_execution_succeeds(self, executor: Any) -> None:
            """Look once more, at the end."""
            _look(executor)

    context.custom_execution_callback_classes = [Watched]


def _look(executor: Any) -> None:
    try:
        _Notes.latest = tuple(seen for operator in executor._topology if (seen := _stage(operator)))
    except Exception as error:  # noqa: BLE001 - whatever has changed inside Ray must not end a run
        _give_up(error)
    _Notes.seen_s = time.monotonic()


def _give_up(error: Exception) -> None:
    if not _Notes.is_broken:
        logger.warning("no progress of stages: this Ray tells of them in another way (%r)", error)
    _Notes.is_broken, _Notes.latest = True, ()


def _stage(operator: Any) -> Seen | None:
    """Return what an operator is doing; None of one that is no stage of ours."""
    functions = str(operator.name).replace("MapBatches(", "").replace(")", "").split("->")
    names = tuple(NAMES[function] for function in functions if function in NAMES)
    if not names:
        return None
    actors, needs = operator.get_actor_info(), operator.min_scheduling_resources()
    num_actors = actors.running + actors.pending + actors.restarting
    return Seen(
        names=names,
        num_rows=int(operator.metrics.rows_task_outputs_generated),
        num_tasks=int(operator.metrics.num_tasks_running),
        actors=(actors.running, actors.pending + actors.restarting) if num_actors else None,
        num_cpus=float(needs.cpu or 0),
        num_gpus=float(needs.gpu or 0),
    )
