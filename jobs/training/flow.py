"""The data flow of training on Ray: groups of questions become labels, labels become states, states feed workers."""

import json
import logging
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import ray
import ray.data
import ray.train
from ray.data import Dataset, ExecutionOptions
from ray.train.torch import TorchTrainer

from jobs.failures import unwrapped
from jobs.flow import DECODING, LIGHT, actors, on_rows
from jobs.parts import as_staged
from jobs.placement import Seat
from jobs.training.labeller import Labeller
from jobs.training.look import found_only
from jobs.training.loop import read_checkpoint
from jobs.training.parts import read_states
from jobs.training.settings import PolicyConfig, RoutersConfig
from jobs.training.states import StateReader
from jobs.training.tables import LOOKED
from pipeline.errors import ConfigError, JobError
from pipeline.rows import Row

MIN_BLOCKS, PARTS_PER_BLOCK = 8, 32
"""States are read by this many tasks at least, and from there on in blocks of so many parts."""
START_S = 1800
"""Seconds that workers may take to start: a GPU machine may have to come up first."""
FINISHED_FILE = "finished.json"

Found = TypeVar("Found")

logger = logging.getLogger(__name__)


def probed(
    groups: Sequence[Row],
    look: Callable[[Row], Row],
    made: tuple[Any, ...],
    seat: Seat,
    folder: str,
) -> Dataset:
    """Groups of questions (tables.GROUP) -> probed questions, one file per group in a folder."""
    return _looked(groups, look).map_batches(Labeller, fn_constructor_args=(folder, *made), **actors(seat))


def states(
    groups: Sequence[Row], look: Callable[[Row], Row], made: tuple[Any, ...], seat: Seat, folder: str
) -> Dataset:
    """Groups of labels (tables.GROUP) -> what the heads read of them, one file per group in a folder."""
    return _looked(groups, look).map_batches(StateReader, fn_constructor_args=(folder, *made), **actors(seat))


def _looked(groups: Sequence[Row], look: Callable[[Row], Row]) -> Dataset:
    """Return groups with the frames of their videos; one at a time, a video's frames are in memory at once."""
    todo = ray.data.from_items(list(groups), override_num_blocks=len(groups))
    return todo.map_batches(on_rows(look, LOOKED), batch_size=1, **DECODING)


def looked(groups: Sequence[Row], look: Callable[[Row], Row]) -> Dataset:
    """Groups (tables.GROUP) -> the same with frames (tables.LOOKED), in order; lost videos are left out."""
    return _looked(groups, look).map_batches(found_only, **LIGHT)


def rows_for(head: str, split: str, folder: str, names: Sequence[str]) -> Dataset:
    """Return the states of one head and split, in a fixed order."""
    items = [{"part": name} for name in names]
    read = partial(read_states, folder, head, split)
    num_blocks = min(len(items), max(MIN_BLOCKS, len(items) // PARTS_PER_BLOCK))
    return ray.data.from_items(items, override_num_blocks=num_blocks).map_batches(read, **LIGHT)


def run(dataset: Dataset) -> tuple[int, int]:
    """Run a stream of parts to its end; return how many rows it wrote, and how many of them failed.

    Raises:
        JobError: what a stage raised, without Ray's wrapping.
    """
    written = failed = 0
    try:
        for done in as_staged(dataset):
            written, failed = written + done["rows"], failed + done["failed"]
            logger.info("%s: %d rows, %d failed", done["part"], done["rows"], done["failed"])
    except JobError:
        raise
    except Exception as error:
        raise unwrapped(error) from error
    return written, failed


def fit(
    worker: Callable[[dict[str, Any]], None],
    spec: dict[str, Any],
    datasets: dict[str, Dataset],
    name: str,
    out: str,
    config: RoutersConfig | PolicyConfig,
) -> dict[str, Any]:
    """Train with some workers, from the newest checkpoint on; return what the last one holds.

    A run is known by its name: one that was killed goes on, one that was finished is read.

    Args:
        worker: what each worker does.
        spec: handed to it.
        datasets: `train` is shared out among the workers, in the same way every time; others are seen whole.
        name: of the run, below `_runs` of the output.
        out: folder of all output, seen by all workers.
        config: workers and failures.

    Raises:
        JobError: workers died more often than allowed.
        ConfigError: the run has more epochs behind it than are wanted.
    """
    place = Path(out).absolute() / "_runs" / name
    if (done := _finished(place, spec["epochs"])) is not None:
        return done
    _drop_torn_list(place)
    trainer = TorchTrainer(
        worker,
        train_loop_config=spec,
        datasets={**datasets},
        dataset_config=ray.train.DataConfig(
            datasets_to_split=["train"], execution_options=ExecutionOptions(preserve_order=True)
        ),
        scaling_config=_scaling(config),
        run_config=ray.train.RunConfig(
            name=name,
            storage_path=str(place.parent),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
            failure_config=ray.train.FailureConfig(max_failures=config.max_failures),
        ),
    )
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", str(START_S))  # read by `fit`
    try:
        result = trainer.fit()
    except Exception as error:
        raise unwrapped(error) from error
    if result.checkpoint is None:
        msg = f"{name}: the training ended without a checkpoint; its logs are in Ray's session folder"
        raise JobError(msg)
    with result.checkpoint.as_directory() as folder:
        state = read_checkpoint(Path(folder))
    if len(state["history"]) > spec["epochs"]:
        msg = (
            f"{name}: {len(state['history'])} epochs were trained before, more than the {spec['epochs']} asked for now;"
            f" ask for as many with --epochs, or remove {place} to begin anew"
        )
        raise ConfigError(msg)
    done = {"epochs": len(state["history"]), "checkpoint": Path(result.checkpoint.path).name}
    part = place / f"{FINISHED_FILE}.part"
    part.write_text(json.dumps(done))
    part.replace(place / FINISHED_FILE)
    return state


def in_a_task(work: Callable[..., Found], *values: Any) -> Found:
    """Return what a function returns on a machine of the cluster: the driver's holds no model.

    Raises:
        JobError: what it raised, without Ray's wrapping.
    """
    try:
        return ray.get(ray.remote(num_cpus=1)(work).remote(*values))
    except Exception as error:
        raise unwrapped(error) from error


def _drop_torn_list(place: Path) -> None:
    """Remove Ray's list of a run's checkpoints if the run was killed while it was written: then it begins anew."""
    path = place / "checkpoint_manager_snapshot.json"
    try:
        if path.exists():
            json.loads(path.read_text())
    except ValueError:
        logger.warning("%s was cut off while it was written; this stage begins anew", path)
        path.unlink()


def _scaling(config: RoutersConfig | PolicyConfig) -> ray.train.ScalingConfig:
    """Return the workers, a GPU each where the cluster has so many and they are wanted."""
    has_gpus = ray.cluster_resources().get("GPU", 0.0) >= config.num_workers
    on_gpu = has_gpus if config.answer.pool.device == "auto" else config.answer.pool.device == "cuda"
    return ray.train.ScalingConfig(
        num_workers=config.num_workers,
        use_gpu=on_gpu,
        resources_per_worker={"GPU": 1} if on_gpu else {"CPU": config.worker_cpus},
    )


def _finished(place: Path, epochs: int) -> dict[str, Any] | None:
    """Return what the last checkpoint of a run holds, if it was finished with as many epochs."""
    if not (place / FINISHED_FILE).exists():
        return None
    done = json.loads((place / FINISHED_FILE).read_text())
    return read_checkpoint(place / done["checkpoint"]) if done["epochs"] == epochs else None
