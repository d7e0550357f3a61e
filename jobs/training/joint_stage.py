"""Stage 3 on Ray Train: videos are decoded while they are learnt from, one row is one batch of questions about one.

The heads go on from where stages 1 and 2 left them. These stay in `_before_joint`: they belong to the model as it was.
"""

import logging
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from actors.models.heads import Heads, load_heads, save_heads
from jobs.training import parts
from jobs.training.adapter import write_model
from jobs.training.joint import DEV_SEED, Joint
from jobs.training.lessons import lessons_of, read_batches
from jobs.training.look import look_again
from jobs.training.loop import SHUFFLED_BYTES, mixed, run_epochs, train_epoch
from jobs.training.measures import measure
from jobs.training.settings import RoutersConfig, fingerprint
from pipeline import rows
from pipeline.config import CompressConfig, WindowConfig
from pipeline.errors import ConfigError, ModelError
from pipeline.frames import FrameSize
from pipeline.isolation import Reader
from pipeline.rows import Row

BEFORE_FOLDER = "_before_joint"
NOT_OF_JOINT = ("stages", "epochs", "image", "semantic")

logger = logging.getLogger(__name__)


def train_jointly(
    labels: str, videos: str, size: FrameSize, out: str, heads: Heads, config: RoutersConfig
) -> None:
    """Train heads and language model together, write the model, and put into `heads` what became of them.

    Args:
        labels: folder written by `label`.
        videos: where the videos lie.
        size: of the frames that the model wants.
        out: folder of all output.
        heads: of stages 1 and 2.
        config: settings.

    Raises:
        ConfigError: a head is missing, or there are fewer batches than workers.
        JobError: workers died more often than allowed, or the model could not be written.
    """
    from jobs.training import flow

    if heads.semantic is None or heads.image is None:
        msg = f"{out}: found no trained {'image' if heads.image is None else 'semantic'} head to go on from; run"
        raise ConfigError(msg + " --stages 1,2,3")
    before = str(Path(out) / BEFORE_FOLDER)
    save_heads(before, heads)
    groups = read_batches(labels, config.joint.batch_rows, config, "--joint.batch-rows")
    epochs = config.epochs or config.joint.epochs
    spec = {"epochs": epochs, "config": config, "heads": before, "hidden_size": heads.hidden_size}
    name = parts.name_of(
        heads.model, heads.metrics, fingerprint(config, without=NOT_OF_JOINT), config.joint.learning_rate,
        videos, {split: [group["part"] for group in mine] for split, mine in groups.items()},
    )  # fmt: skip
    look = partial(look_again, Reader(config.decode, WindowConfig()), videos, size)
    datasets = {split: flow.looked(mine, look) for split, mine in groups.items() if mine}
    state = flow.fit(train_joint, spec, datasets, f"joint-{name}", out, config)
    folder = flow.in_a_task(write_model, config, _part(state["head"], "added"), out)
    _take(
        heads,
        state,
        {split: sum(1 for one in mine for _ in lessons_of(one)) for split, mine in groups.items()},
    )
    heads.model = _name_of(folder)


def _take(heads: Heads, state: dict[str, Any], counts: dict[str, int]) -> None:
    """Put the trained heads and what they reached into `heads`."""
    history = state["history"]
    for name in ("semantic", "image"):
        head: Any = getattr(heads, name)
        head.load_state_dict(_part(state["head"], name))
        head.eval().requires_grad_(False)
        if history[-1].get(name, {}).get("dev_items"):
            setattr(heads, f"{name}_temperature", history[-1][name]["temperature"])
    rows_of = {f"{split}_rows": count for split, count in counts.items()}
    heads.metrics["joint"] = {**history[-1], **rows_of, "history": history}


def _part(state: dict[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    """Return the weights of one part of a `Joint`."""
    prefix = f"{name}."
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def _name_of(folder: str) -> str:
    from actors.models.loading import fetch

    return f"{folder}@{fetch(folder, '', weights=False).revision}"


def begin(config: RoutersConfig, heads: Heads, device: Any) -> Joint:
    """Return a loaded model with new added weights and some trained heads.

    Raises:
        ModelError: it is no video language model of a known family.
    """
    from actors.models.tables import find_answerer
    from actors.models.video_llm import VideoLlm

    llm = find_answerer(config.answer).make(config.answer, CompressConfig(), device)
    if not isinstance(llm, VideoLlm) or heads.semantic is None or heads.image is None:
        msg = f"model {config.answer.model!r}: only video language models of known families are trained here"
        raise ModelError(msg)
    return Joint(llm, heads.semantic, heads.image, config)


def train_joint(values: dict[str, Any]) -> None:
    """Train on this worker's share of `train`; the first worker measures on `dev` and keeps what was trained."""
    import ray.train
    import ray.train.torch

    config: RoutersConfig = values["config"]
    device: Any = ray.train.torch.get_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    torch.manual_seed(config.seed)
    joint = begin(config, load_heads(values["heads"], hidden_size=values["hidden_size"]), device.type)
    model: Any = ray.train.torch.prepare_model(joint)
    optimizer = torch.optim.AdamW(joint.parameters(), lr=config.joint.learning_rate)
    train = ray.train.get_dataset_shard("train")

    def learn(epoch: int, seed: int) -> float:
        joint.seed = f"{seed} {epoch}"
        return train_epoch(model, optimizer, mixed_rows(train, seed), config.joint.accumulate, model)

    def check() -> dict[str, Any]:
        joint.seed = DEV_SEED
        try:
            dev = ray.train.get_dataset_shard("dev")
        except KeyError:
            return {}
        return measure_joint(joint, rows_of(dev))

    run_epochs(values["epochs"], config.seed, joint, optimizer, learn, check)


def rows_of(shard: Any) -> Iterator[Row]:
    """Yield a shard's rows, each of them a batch."""
    for table in shard.iter_batches(batch_size=1, batch_format="pyarrow", prefetch_batches=1):
        yield from rows.to_rows(table)


def mixed_rows(shard: Any, seed: int) -> Iterator[Row]:
    """Yield a shard's rows in an order that follows from a seed; a worker holds the pictures of some videos."""
    own = map(_in_own_memory, rows_of(shard))
    return mixed(own, seed, SHUFFLED_BYTES, lambda row: len(row["pixels"]["data"]))


def _in_own_memory(row: Row) -> Row:
    """Return a row whose pictures are a copy: a view would hold all of its block."""
    return {**row, "pixels": {**row["pixels"], "data": bytes(row["pixels"]["data"])}}


def measure_joint(joint: Joint, groups: Iterator[Row]) -> dict[str, Any]:
    """Return the mean loss of the answers, and per head what it reaches."""
    joint.eval()
    answers: list[torch.Tensor] = []
    heads: dict[str, tuple[list[torch.Tensor], list[torch.Tensor]]] = {
        "semantic": ([], []),
        "image": ([], []),
    }
    with torch.no_grad():
        for group in groups:
            read = joint.read(group)
            answers += read.answers
            for name, given, wanted in (
                ("semantic", read.semantic, read.policies),
                ("image", read.image, read.relevant),
            ):
                heads[name][0].extend(given)
                heads[name][1].extend(wanted)
    found = {
        name: measure(name, _joined(logits), _joined(labels)) for name, (logits, labels) in heads.items()
    }
    loss = float(torch.stack(answers).mean()) if answers else None
    return {"dev_answers": len(answers), "dev_answer_loss": loss, **found}


def _joined(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.cat(list(tensors)).float().cpu() if tensors else torch.empty(0)
