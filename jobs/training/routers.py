"""`reelsift train routers`: from labels to trained heads, stage by stage, on Ray Train.

    labels -> states of the answerer's first layers (once) -> stages 1, 2: image, semantic head -> heads.json
    labels, videos, heads -> stage 3: heads and language model together -> heads.json, model/     (joint_stage.py)

The states of a part of the labels are one file, a stage has one checkpoint per epoch: the same command goes on where it
was interrupted.
"""

import json
import logging
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from actors.models.heads import FACTS_FILE as HEADS_FILE
from actors.models.heads import Heads, load_heads, read_heads, save_heads
from jobs.training import parts
from jobs.training.adapter import check_layers, check_peft
from jobs.training.joint_stage import BEFORE_FOLDER, train_jointly
from jobs.training.label import FACTS_FILE
from jobs.training.look import look_again
from jobs.training.loop import Spec, make_head, train_head
from jobs.training.settings import RoutersConfig, StageConfig, fingerprint
from jobs.training.splits import DEV, TEST, TRAIN
from pipeline import store
from pipeline.config import JobConfig, WindowConfig
from pipeline.errors import ConfigError, ModelError
from pipeline.isolation import Reader
from pipeline.rows import Row

OF_STAGES = ("stages", "epochs", "image", "semantic", "joint", "num_workers", "seed")
"""Settings that states do not depend on."""
QTR_COLUMNS = ("id", "video", "split", "question", "policy", "error_type")
FLR_COLUMNS = ("id", "video", "split", "question", "frame_pts_s", "relevant", "necessity", "error_type")
UNKNOWN = {"masked_answerable": False}

logger = logging.getLogger(__name__)


def train_routers(labels: str, out: str, config: RoutersConfig, videos: str = "") -> dict[str, Any]:
    """Train heads and write them to a folder; return what they reached.

    Args:
        labels: folder written by `label`.
        out: local or shared folder for heads, states and checkpoints.
        config: settings.
        videos: where the videos lie now, if not where they lay when they were labelled.

    Raises:
        ConfigError: no labels there, none to train on, or settings that do not fit.
        ModelError: the model is none that heads can read.
        JobError: a stage broke; its checkpoints stay.
    """
    from actors.models.prompting import read_parts
    from jobs import cluster

    _check(out, config)
    stages = [stage for stage in (IMAGE, SEMANTIC) if stage.number in config.stages.split(",")]
    groups = read_labels(labels, [stage.head for stage in stages]) if stages else {}
    model = read_parts(config.answer, weights=False)
    if JOINT in config.stages.split(","):
        check_layers(model)
    hidden_size = int(model.config.get_text_config().hidden_size)
    heads = _begun(out, config, hidden_size, f"{model.files.name}@{model.files.revision}")
    folder = store.join(out, "_states", parts.name_of(fingerprint(config, without=OF_STAGES), heads.model))
    place = videos or videos_of(labels)
    with cluster.connected(whole=True):  # Ray Train asks a head's server for the state of its actors
        _compute_states(place, [group for mine in groups.values() for group in mine], folder, config)
        for stage in stages:
            _train(stage, heads, folder, [group["part"] for group in groups[stage.head]], out, config)
            save_heads(out, heads)
        if JOINT in config.stages.split(","):
            train_jointly(labels, place, model.frame_size, out, heads, config)
            save_heads(out, heads)
    return {"out": out, "model": heads.model, **heads.metrics}


def _check(out: str, config: RoutersConfig) -> None:
    """Refuse settings that do not fit.

    Raises:
        ConfigError: no model, a bucket to write to, or a stage 3 that cannot be.
    """
    if not config.answer.model:
        msg = "heads read the first layers of a model, and none is named; give --answer.model"
        raise ConfigError(msg)
    if "://" in out:
        msg = f"{out}: heads, states and checkpoints go to a folder that all workers see; name a path"
        raise ConfigError(msg)
    if JOINT in config.stages.split(","):
        check_peft()
        if config.answer.quantize != "none":
            msg = f"stage 3 writes a model with whole weights, found --answer.quantize {config.answer.quantize}:"
            raise ConfigError(msg + " leave it at none")


@dataclass(frozen=True, slots=True)
class Stage:
    """One head and its stage."""

    number: str
    head: str
    settings: Callable[[RoutersConfig], StageConfig]


IMAGE = Stage("1", "image", lambda config: config.image)
SEMANTIC = Stage("2", "semantic", lambda config: config.semantic)
JOINT = "3"


def read_labels(labels: str, wanted: Sequence[str]) -> dict[str, list[Row]]:
    """Return per head tables.GROUP rows: the labels of one part that it can be trained on, as JSON.

    A part is one head's: what is there of it does not depend on which stages are run together. Frames of a question
    that is still answered without them are left out: nothing tells them from others.

    Raises:
        ConfigError: no labels there.
    """
    found: dict[str, list[Row]] = {head: [] for head in wanted}
    for head, table, columns in (("image", "flr", FLR_COLUMNS), ("semantic", "qtr", QTR_COLUMNS)):
        folder = store.join(labels, table)
        for name in sorted(parts.names(folder)) if head in wanted else ():
            mine = [
                {**row, "head": head}
                for row in parts.scan(folder, [name], columns)
                if not row.pop("error_type") and not row.pop("necessity", UNKNOWN)["masked_answerable"]
            ]
            if mine:
                found[head].append(_group(mine))
    if not any(found.values()):
        msg = (
            f"{labels}: found no label to train {' or '.join(wanted)} head on; expected a folder written by"
            " `reelsift train label` with questions that the model can answer"
        )
        raise ConfigError(msg)
    return found


def _group(labelled: Sequence[Row]) -> Row:
    return {
        "part": parts.name_of(labelled), "video": labelled[0]["video"], "questions": json.dumps(labelled),
        "error_type": "", "error_message": "",
    }  # fmt: skip


def videos_of(labels: str) -> str:
    """Return where the videos lay when they were labelled.

    Raises:
        ConfigError: the labels do not say.
    """
    uri = store.join(labels, FACTS_FILE)
    if not store.exists(uri):
        msg = f"{labels}: found no {FACTS_FILE}, so it is not known where the videos lie; give --videos"
        raise ConfigError(msg)
    return json.loads(store.read_bytes(uri))["videos"]


def _begun(out: str, config: RoutersConfig, hidden_size: int, model: str) -> Heads:
    """Return the heads an earlier stage left in the folder if they belong to the same layers, else none yet."""
    heads = Heads(hidden_size, config.early_layers, config.early_tokens, None, None, model=model)
    for folder in (Path(out), Path(out) / BEFORE_FOLDER):
        if not (folder / HEADS_FILE).exists():
            continue
        try:
            facts = read_heads(folder)
            if all(facts[name] == getattr(heads, name) for name in ("early_layers", "early_tokens", "model")):
                return load_heads(folder, hidden_size=hidden_size)
        except ModelError as error:
            logger.warning("heads in %s are not gone on with: %s", folder, error)
    return heads


def _compute_states(videos: str, groups: Sequence[Row], folder: str, config: RoutersConfig) -> None:
    """Compute the states that are not there yet, with the answerer's actors."""
    from actors.models.tables import find_answerer
    from jobs.placement import place as place_actors
    from jobs.training import flow

    there = parts.names(folder)
    missing = [group for group in groups if group["part"] not in there]
    if not missing:
        return
    answerer = find_answerer(config.answer)
    size = answerer.describe(config.answer).frame_size
    if size is None:
        msg = f"model {config.answer.model!r} looks at no frames; expected a video language model"
        raise ConfigError(msg)
    job = JobConfig(answer=config.answer, decode=config.decode)
    seat = place_actors(job, scorer_gpu=False, answerer_gpu=True).answerer
    assert seat, "a model is named: it looks at frames"
    look = partial(look_again, Reader(config.decode, WindowConfig()), videos, size)
    made = (answerer.make, config, seat.device, seat.num_gpus)
    written, failed = flow.run(flow.states(missing, look, made, seat, folder))
    logger.info("states of %d labels, %d failed", written, failed)


def _train(
    stage: Stage, heads: Heads, folder: str, names: Sequence[str], out: str, config: RoutersConfig
) -> None:
    """Train one head from its newest checkpoint on, and put it into `heads` with what it reached.

    Raises:
        ConfigError: fewer rows to train on than workers.
        JobError: a worker died more often than allowed.
    """
    from jobs.training import flow

    counts = _check_rows(stage.head, folder, names, config)
    settings = stage.settings(config)
    epochs = config.epochs or settings.epochs
    spec = Spec(
        stage.head, heads.hidden_size, epochs, settings.learning_rate, settings.batch_rows, settings.accumulate,
        config.seed,
    )  # fmt: skip
    # more epochs go on from fewer
    lasting = {**asdict(spec), "epochs": 0, "workers": config.num_workers}
    name = f"{stage.head}-{parts.name_of(folder, list(names), lasting)}"
    mixed = random.Random(config.seed).sample(list(names), len(names))
    datasets = {split: flow.rows_for(stage.head, split, folder, mixed) for split in (TRAIN, DEV)}
    state = flow.fit(train_head, asdict(spec), datasets, name, out, config)
    head = make_head(stage.head, heads.hidden_size)
    head.load_state_dict(state["head"])
    history = state["history"]
    setattr(heads, stage.head, head.eval().requires_grad_(False))
    setattr(heads, f"{stage.head}_temperature", history[-1]["temperature"])
    heads.metrics[stage.head] = {**history[-1], **counts, "history": history}


def _check_rows(head: str, folder: str, names: Sequence[str], config: RoutersConfig) -> dict[str, int]:
    """Return how many rows there are of each split, and how many failed.

    Raises:
        ConfigError: fewer rows to train on than workers.
    """
    counts: Counter[str] = Counter()
    why = ""
    for row in parts.scan(folder, names, ("head", "split", "error_type", "error_message")):
        if row["head"] == head:
            counts["failed" if row["error_type"] else row["split"]] += 1
            why = why or row["error_message"]
    if counts[TRAIN] < config.num_workers:
        msg = (
            f"found {counts[TRAIN]} rows to train the {head} head on ({counts[DEV]} held back, {counts[TEST]} of the"
            f" test split, {counts['failed']} failed{': ' + why if why else ''}), expected at least one for each of"
            f" {config.num_workers} workers; label more questions, or lower --num-workers or --dev-share"
        )
        raise ConfigError(msg)
    if not counts[DEV]:
        logger.warning("no row is held back for the %s head: it is neither measured nor calibrated", head)
    return {"train_rows": counts[TRAIN], "dev_rows": counts[DEV], "failed_rows": counts["failed"]}
