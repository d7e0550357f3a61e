"""`reelsift train policy`: how much of each frame a model needs to answer, learnt from its own answers.

    labels, videos -> batches of questions about one video -> answers at a price per token -> policy

The model is frozen. The network's word hides tokens from the model's attention, softly on the way back, so that the
loss of the right answer tells it what was needed, and the price of what is kept tells it what was not. At its start it
keeps almost everything.

Shape letters: L tokens, T frames, N tokens of one frame, R kept tokens.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from actors.models.video_llm import FrameFeatures, VideoLlm
from jobs.training import parts
from jobs.training.joint import run, unlocked
from jobs.training.joint_stage import mixed_rows, rows_of
from jobs.training.lessons import Lesson, lessons_of, read_batches
from jobs.training.look import look_again
from jobs.training.loop import run_epochs, train_epoch
from jobs.training.settings import PolicyConfig, fingerprint
from jobs.training.written import write_lesson
from pipeline import rows
from pipeline.compress.policy import KeepPolicy, keep_mask, novelty
from pipeline.config import CompressConfig, WindowConfig
from pipeline.errors import AnswerError, ConfigError, ModelError
from pipeline.isolation import Reader
from pipeline.rows import Row

HIDDEN_LOGIT = 14.0
"""How much lower attention to a hidden token is: less than a millionth is left of it."""
KEPT_AT_FIRST = 3.0
"""Logit of the share that is kept before anything is learnt: 95 %."""


class Keeping(nn.Module):
    """A policy in front of a frozen model. Its parameters are the policy's, and nothing else."""

    def __init__(self, llm: VideoLlm, policy: KeepPolicy, price: float) -> None:
        super().__init__()
        self.llm = llm
        self.price = price
        self.policy = policy
        # token trees keep no gradients
        llm.model.set_attn_implementation({"text_config": "sdpa"})
        llm.model.requires_grad_(False)

    def forward(self, group: Row) -> torch.Tensor:
        """Return the loss of a batch (tables.LOOKED, lessons as JSON): that of its answers, and the price."""
        # every weight takes part in every batch, or workers would wait for each other's gradients
        loss = torch.stack([weight.sum() * 0.0 for weight in self.parameters()]).sum()
        read = self.read(group)
        if read:
            answers, shares = zip(*read, strict=True)
            loss = loss + torch.stack(answers).mean() + self.price * torch.stack(shares).mean()
        return loss

    def read(self, group: Row) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Return of each lesson the loss of its answer and the share of tokens it was shown.

        Lessons that cannot be shown are left out.
        """
        with torch.no_grad():
            features = unlocked(self.llm.encode(rows.unpack(group["pixels"])))
        place = {time_s: index for index, time_s in enumerate(group["pts_s"])}
        found: list[tuple[torch.Tensor, torch.Tensor]] = []
        for lesson in lessons_of(group):
            index = [place[time_s] for time_s in lesson.frame_pts_s]
            try:
                found.append(self._answer(features, index, lesson))
            except AnswerError:
                continue
        return found

    def _answer(
        self, features: FrameFeatures, index: list[int], lesson: Lesson
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the loss of one answer, and the share of tokens it was shown.

        Positions are those of all tokens; where a family closes positions up, an answerer's are others.

        Raises:
            AnswerError: tokens are not finite, or the prompt does not fit into the model's context.
        """
        values_TND = features.values_NKD[index]
        keep_T = self.policy(self.policy.features(values_TND))
        # as the compressor has it: nothing is known before the first frame, which stays whole
        keep_T = torch.cat([torch.ones_like(keep_T[:1]), keep_T[1:]])
        kept_TN = keep_mask(novelty(values_TND), keep_T)
        whole = [(frame, self.llm.parts.tokens_per_frame) for frame in range(len(index))]
        written = write_lesson(self.llm, lesson, self.llm.reduce(features, index, whole))
        bias_L = values_TND.new_zeros(len(written.segment.embeds_LD))
        bias_L = bias_L.index_add(0, written.visual_C, HIDDEN_LOGIT * (kept_TN.flatten() - 1.0).to(bias_L))
        [hidden_RD] = run(self.llm.language.decoder, [written.segment], bias_L)
        logits = self.llm.language.head(hidden_RD).float()
        return functional.cross_entropy(logits, written.target), kept_TN.mean()


def train_policy(labels: str, out: str, config: PolicyConfig, videos: str = "") -> dict[str, Any]:
    """Train a policy and write it to a folder; return what it reached.

    Args:
        labels: folder written by `label`.
        out: local or shared folder for policy and checkpoints.
        config: settings.
        videos: where the videos lie now, if not where they lay when they were labelled.

    Raises:
        ConfigError: no model, no labels, or fewer batches than workers.
        ModelError: the model is none whose tokens can be hidden.
        JobError: workers died more often than allowed; checkpoints stay.
    """
    from actors.models.prompting import read_parts
    from jobs import cluster
    from jobs.training.routers import videos_of

    if not config.answer.model:
        msg = "a policy learns from a model's answers, and none is named; give --answer.model"
        raise ConfigError(msg)
    if "://" in out:
        msg = f"{out}: policy and checkpoints go to a folder that all workers see; name a path"
        raise ConfigError(msg)
    model = read_parts(config.answer, weights=False)
    groups = read_batches(labels, config.batch_rows, config, "--batch-rows")
    place = videos or videos_of(labels)
    name = parts.name_of(
        f"{model.files.name}@{model.files.revision}", fingerprint(config, without=("epochs",)), place,
        {split: [group["part"] for group in mine] for split, mine in groups.items()},
    )  # fmt: skip
    with cluster.connected(whole=True):  # Ray Train asks a head's server for the state of its actors
        from jobs.training import flow

        look = partial(look_again, Reader(config.decode, WindowConfig()), place, model.frame_size)
        datasets = {split: flow.looked(mine, look) for split, mine in groups.items() if mine}
        spec = {"epochs": config.epochs, "config": config}
        state = flow.fit(train_on_worker, spec, datasets, f"policy-{name}", out, config)
    policy = KeepPolicy()
    prefix = "policy."
    policy.load_state_dict({key.removeprefix(prefix): value for key, value in state["head"].items()})
    reached = state["history"][-1]
    facts = {"model": f"{model.files.name}@{model.files.revision}", "price": config.price, **reached}
    policy.save(out, {**facts, "history": state["history"]})
    return {"out": str(Path(out)), **facts}


def begin(config: PolicyConfig, device: Any) -> Keeping:
    """Return a loaded model behind a new policy that keeps almost everything.

    Raises:
        ModelError: it is no video language model of a known family.
    """
    from actors.models.tables import find_answerer

    llm = find_answerer(config.answer).make(config.answer, CompressConfig(), device)
    if not isinstance(llm, VideoLlm):
        msg = f"model {config.answer.model!r}: only of video language models of known families can tokens be hidden"
        raise ModelError(msg)
    policy = KeepPolicy().to(device)
    last: Any = policy.layers[-1]
    nn.init.constant_(last.bias, KEPT_AT_FIRST)
    return Keeping(llm, policy, config.price)


def train_on_worker(values: dict[str, Any]) -> None:
    """Train on this worker's share of `train`; the first worker measures on `dev` and keeps what was trained."""
    import ray.train
    import ray.train.torch

    config: PolicyConfig = values["config"]
    device: Any = ray.train.torch.get_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    torch.manual_seed(config.seed)
    keeping = begin(config, device.type)
    model: Any = ray.train.torch.prepare_model(keeping)
    optimizer = torch.optim.AdamW(keeping.parameters(), lr=config.learning_rate)
    train = ray.train.get_dataset_shard("train")

    def learn(epoch: int, seed: int) -> float:
        del epoch
        return train_epoch(model, optimizer, mixed_rows(train, seed), config.accumulate, model)

    def check() -> dict[str, Any]:
        try:
            dev = ray.train.get_dataset_shard("dev")
        except KeyError:
            return {}
        return measure_policy(keeping, rows_of(dev))

    run_epochs(values["epochs"], config.seed, keeping, optimizer, learn, check)


def measure_policy(keeping: Keeping, groups: Iterator[Row]) -> dict[str, Any]:
    """Return the mean loss of the answers of some batches, and the share of tokens they were shown."""
    with torch.no_grad():
        read = [one for group in groups for one in keeping.read(group)]
    losses, shares = ([float(pair[side]) for pair in read] for side in (0, 1))
    count = max(1, len(read))
    return {
        "dev_answers": len(read),
        "dev_answer_loss": sum(losses) / count if read else None,
        "dev_retention": sum(shares) / count if read else None,
    }
