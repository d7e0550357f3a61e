"""What each worker of a training stage does: epochs over its share of the states, a checkpoint behind each.

Runs inside Ray Train: the process group (gloo on CPUs, nccl on GPUs) stands when `train_head` is called. Order of rows
and dropout follow from the seed and the epoch, so an interrupted run ends with the same weights as one that was not;
rows are mixed as far as they are held, and a batch of questions about one video stays together.
"""

import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import distributed, nn

from actors.models.heads import ImageHead, SemanticHead
from jobs.training.measures import head_loss, measure
from pipeline import rows
from pipeline.rows import Row

CHECKPOINT_FILE = "head.pt"
SHUFFLED_BYTES = 256 * 2**20
"""Of the rows that are mixed with each other; a worker holds as many. A row may be a megabyte, or 100 of them."""
EPOCH_STRIDE = 1_000_003
"""Parts the seeds of epochs, so that two runs with neighbouring seeds share none."""


@dataclass(frozen=True, slots=True)
class Spec:
    """One stage, in plain values."""

    head: str
    """image or semantic"""
    hidden_size: int
    epochs: int
    learning_rate: float
    batch_rows: int
    accumulate: int
    seed: int


Item = TypeVar("Item")
Batch = tuple[torch.Tensor, torch.Tensor]
"""States [M, width] float32 and labels [M] int64 of some rows, one item per frame or question."""


def train_head(values: dict[str, Any]) -> None:
    """Train one head on this worker's share of `train`; the first worker measures it on `dev` and keeps it."""
    import ray.train
    import ray.train.torch

    spec = Spec(**values)
    torch.manual_seed(spec.seed)
    head: nn.Module = make_head(spec.head, spec.hidden_size)
    model: Any = ray.train.torch.prepare_model(head)
    device = next(head.parameters()).device
    optimizer = torch.optim.AdamW(head.parameters(), lr=spec.learning_rate)
    train, dev = ray.train.get_dataset_shard("train"), ray.train.get_dataset_shard("dev")

    def loss_of(batch: Batch) -> torch.Tensor:
        states, labels = batch
        return head_loss(spec.head, model(states.to(device)), labels.to(device))

    def learn(epoch: int, seed: int) -> float:
        del epoch
        batches = _batches(train, spec.batch_rows, shuffle_seed=seed)
        return train_epoch(model, optimizer, batches, spec.accumulate, loss_of)

    def check() -> dict[str, Any]:
        return measure(spec.head, *_predict(head, _batches(dev, spec.batch_rows)))

    run_epochs(spec.epochs, spec.seed, head, optimizer, learn, check)


def run_epochs(
    epochs: int,
    seed: int,
    trained: nn.Module,
    optimizer: Any,
    learn: Callable[[int, int], float],
    check: Callable[[], dict[str, Any]],
) -> None:
    """Go on from the newest checkpoint; behind every epoch the first worker measures and keeps what is trained.

    Args:
        epochs: how many there are to be.
        seed: of the run.
        trained: what is kept.
        optimizer: of its parameters, kept too.
        learn: (epoch, seed of the order) -> mean loss; every worker takes part.
        check: measures; the first worker does.
    """
    import ray.train

    rank = ray.train.get_context().get_world_rank()
    history = _restore(ray.train.get_checkpoint(), trained, optimizer)
    for epoch in range(len(history), epochs):
        order = seed + EPOCH_STRIDE * (epoch + 1)
        torch.manual_seed(order + rank)
        loss = learn(epoch, order)
        if rank:
            ray.train.report({})
            continue
        history.append({"epoch": epoch, "train_loss": loss, **check()})
        with tempfile.TemporaryDirectory() as folder:
            _save(Path(folder) / CHECKPOINT_FILE, trained, optimizer, history)
            checkpoint = ray.train.Checkpoint.from_directory(folder)
            ray.train.report(history[-1], checkpoint=checkpoint, checkpoint_dir_name=f"epoch-{epoch:04d}")


def make_head(head: str, hidden_size: int) -> nn.Module:
    """Return a new head with the weights that torch's seed gives it."""
    return SemanticHead(hidden_size) if head == "semantic" else ImageHead(hidden_size)


def train_epoch(
    model: Any,
    optimizer: Any,
    batches: Iterator[Item],
    accumulate: int,
    loss_of: Callable[[Item], torch.Tensor],
) -> float:
    """Take a step for every `accumulate` batches; return the mean loss of all batches of all workers."""
    model.train()
    total = torch.zeros(2, dtype=torch.float64)
    device = next(model.parameters()).device
    while group := list(islice(batches, accumulate)):
        optimizer.zero_grad()
        for number, batch in enumerate(group, start=1):
            # gradients of several batches are exchanged once, with the last one
            alone = model.no_sync() if number < len(group) and hasattr(model, "no_sync") else nullcontext()
            with alone:
                loss = loss_of(batch)
                (loss / len(group)).backward()
            total += torch.tensor([float(loss.detach()), 1.0], dtype=torch.float64)
        optimizer.step()
    if distributed.is_initialized():
        total = total.to(device)
        distributed.all_reduce(total)
    loss_sum, num_batches = total.tolist()
    return loss_sum / max(1.0, num_batches)


def _batches(shard: Any, batch_rows: int, shuffle_seed: int | None = None) -> Iterator[Batch]:
    """Yield a shard's rows, some in one, mixed if there is a seed."""
    tables = shard.iter_batches(batch_size=batch_rows, batch_format="pyarrow")
    found = (_row(values) for table in tables for values in rows.to_rows(table))
    several = found if shuffle_seed is None else mixed(found, shuffle_seed, SHUFFLED_BYTES, _bytes_of)
    while group := list(islice(several, batch_rows)):
        yield join(group)


def _row(values: Row) -> Batch:
    """Return one row of tables.STATES, in memory of its own: a view would hold all of its table."""
    states = torch.from_numpy(rows.unpack(values["states"]).copy())
    return states, torch.tensor(values["labels"], dtype=torch.int64)


def _bytes_of(row: Batch) -> int:
    return row[0].nbytes


def mixed(
    several: Iterator[Item], seed: int, max_bytes: int, bytes_of: Callable[[Item], int]
) -> Iterator[Item]:
    """Yield rows in an order that follows from a seed, holding no more than so many bytes of them."""
    draw = random.Random(seed)
    held: list[Item] = []
    held_bytes = 0
    for one in several:
        held.append(one)
        held_bytes += bytes_of(one)
        while held_bytes > max_bytes:
            place = draw.randrange(len(held))
            held[place], held[-1] = held[-1], held[place]
            drawn = held.pop()
            held_bytes -= bytes_of(drawn)
            yield drawn
    draw.shuffle(held)
    yield from held


def join(several: Sequence[Batch]) -> Batch:
    """Return the items of some rows, one behind the other."""
    return torch.cat([states for states, _ in several]), torch.cat([labels for _, labels in several])


def _predict(head: nn.Module, batches: Iterator[Batch]) -> Batch:
    """Return logits and labels of all items, on the CPU."""
    head.eval()
    device = next(head.parameters()).device
    logits: list[torch.Tensor] = []
    labels: list[torch.Tensor] = []
    with torch.inference_mode():
        for states, wanted in batches:
            logits.append(head(states.to(device)).float().cpu())
            labels.append(wanted)
    return (torch.cat(logits), torch.cat(labels)) if labels else (torch.empty(0), torch.empty(0))


def _save(path: Path, trained: nn.Module, optimizer: Any, history: list[dict[str, Any]]) -> None:
    state = {"head": trained.state_dict(), "optimizer": optimizer.state_dict(), "history": history}
    torch.save(state, path)


def _restore(checkpoint: Any, trained: nn.Module, optimizer: Any) -> list[dict[str, Any]]:
    """Fill what is trained and its optimizer from a checkpoint, if there is one; return the metrics so far."""
    if checkpoint is None:
        return []
    with checkpoint.as_directory() as folder:
        state = read_checkpoint(Path(folder))
    trained.load_state_dict(state["head"])
    optimizer.load_state_dict(state["optimizer"])
    return state["history"]


def read_checkpoint(folder: Path) -> dict[str, Any]:
    """Return `head`, `optimizer` and `history` of a checkpoint; nothing in it is run."""
    return torch.load(folder / CHECKPOINT_FILE, map_location="cpu", weights_only=True)
