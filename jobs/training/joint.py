"""Heads and language model in one loss: answers at mixed resolutions, routes, and frames that matter.

L = L_LM + 0.01 L_sem + 0.01 L_img. The vision tower is frozen, so frames are encoded without gradients; the first
layers, which the heads read, are the language model's own, so what the heads learn reaches them too.

Source: VideoRouter (arXiv 2605.05848), training, stage 3. There all weights of the language model are trained, here
low-rank ones are added to them.

Shape letters: L tokens, N frames, D hidden size, P positions' axes, R kept tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from actors.models.heads import FRAGMENT, GLOBAL, ImageHead, SemanticHead
from actors.models.shadow import SEQUENCES_PER_CALL, Shadow
from actors.models.token_tree import Segment
from actors.models.video_llm import FrameFeatures, VideoLlm
from jobs.training.adapter import adapt, added_weights
from jobs.training.lessons import Lesson, lessons_of
from jobs.training.measures import head_loss
from jobs.training.settings import RoutersConfig
from jobs.training.written import write_lesson
from pipeline import rows
from pipeline.errors import AnswerError
from pipeline.rows import Row

ROUTER_WEIGHT = 0.01
"""Of either head's loss (the paper's lambda)."""
DEV_SEED = "dev"
"""What rows held back are shown is drawn once, so that epochs can be compared."""


@dataclass(slots=True)
class Read:
    """What is made of one batch of lessons; empty where none of them could be read."""

    answers: list[torch.Tensor] = field(default_factory=list[torch.Tensor])
    """Per lesson the mean loss of its answer's tokens."""
    semantic: list[torch.Tensor] = field(default_factory=list[torch.Tensor])
    """Per lesson logits [1, 2]."""
    policies: list[torch.Tensor] = field(default_factory=list[torch.Tensor])
    image: list[torch.Tensor] = field(default_factory=list[torch.Tensor])
    """Per lesson that teaches frames logits [N]."""
    relevant: list[torch.Tensor] = field(default_factory=list[torch.Tensor])


class Joint(nn.Module):
    """A model, its added weights and the two heads. Its parameters are what is trained, and nothing else.

    The model itself is no submodule: workers need not exchange what does not change.
    """

    def __init__(
        self, llm: VideoLlm, semantic: SemanticHead, image: ImageHead, config: RoutersConfig
    ) -> None:
        super().__init__()
        self.llm = llm
        self.config = config.joint
        self.seed = DEV_SEED
        """What budgets are drawn with."""
        # token trees keep no gradients
        llm.model.set_attn_implementation({"text_config": "sdpa"})
        adapted = adapt(llm.model, llm.language.decoder, config.joint)
        self.shadow = Shadow(llm, config.early_layers, config.early_tokens)
        # of a layer only its input is kept for the way back
        llm.language.decoder.activation_checkpointing_enable({"use_reentrant": False})
        # embeddings are filled in place: they must not be leaves of the way back
        llm.language.decoder.disable_input_require_grads()
        self.added = nn.ParameterDict(added_weights(adapted))
        self.semantic = semantic.requires_grad_(True)
        self.image = image.requires_grad_(True)

    def train(self, mode: bool = True) -> "Joint":
        """Set the mode of the text decoder too: it is no submodule."""
        self.llm.language.decoder.train(mode)
        return super().train(mode)

    def forward(self, group: Row) -> torch.Tensor:
        """Return the loss of a batch (tables.LOOKED, lessons as JSON)."""
        read = self.read(group)
        # every weight takes part in every batch, or workers would wait for each other's gradients
        loss = torch.stack([weight.sum() * 0.0 for weight in self.parameters()]).sum()
        if read.answers:
            loss = loss + torch.stack(read.answers).mean()
            loss = loss + ROUTER_WEIGHT * head_loss(
                "semantic", torch.cat(read.semantic), torch.cat(read.policies)
            )
        if read.image:
            loss = loss + ROUTER_WEIGHT * head_loss("image", torch.cat(read.image), torch.cat(read.relevant))
        return loss

    def read(self, group: Row) -> Read:
        """Return answers' losses and heads' logits; lessons that cannot be shown are left out."""
        with torch.no_grad():
            features = unlocked(self.llm.encode(rows.unpack(group["pixels"])))
        place = {time_s: index for index, time_s in enumerate(group["pts_s"])}
        found = Read()
        for lesson in lessons_of(group):
            index = [place[time_s] for time_s in lesson.frame_pts_s]
            try:
                answer = functional.cross_entropy(*self.answer_logits(features, index, lesson))
                semantic = self.semantic(self._question_state(lesson.text))
                image = (
                    self.image(self._frame_states(features, index, lesson)) if lesson.teaches_frames else None
                )
            except AnswerError:
                continue
            found.answers.append(answer)
            found.semantic.append(semantic)
            policy = FRAGMENT if lesson.policy == "fragment" else GLOBAL
            found.policies.append(torch.tensor([policy], device=semantic.device))
            if image is not None:
                found.image.append(image)
                relevant = [int(frame in lesson.relevant) for frame in range(len(index))]
                found.relevant.append(torch.tensor(relevant, device=image.device))
        return found

    def answer_logits(
        self, features: FrameFeatures, index: Sequence[int], lesson: Lesson
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return logits [R, vocabulary] and the tokens [R] that should follow: the answer's, and the one that ends it.

        Raises:
            AnswerError: the budget buys no frame, or the prompt does not fit into the model's context.
        """
        plan = lesson.plan(self.config, self.llm.parts.tokens_per_frame, self.seed)
        shown = [(frame, tokens) for frame, tokens in enumerate(plan.tokens_N) if tokens]
        clip = self.llm.reduce(features, [index[frame] for frame, _ in shown], shown)
        written = write_lesson(self.llm, lesson, clip)
        [hidden_RD] = run(self.llm.language.decoder, [written.segment])
        return self.llm.language.head(hidden_RD).float(), written.target

    def _question_state(self, text: str) -> torch.Tensor:
        """Return [1, D]; as Shadow.question_states, with gradients."""
        [states_LD] = run(self.shadow.decoder, self.shadow.question_segments([text]))
        return states_LD.float().mean(0, keepdim=True)

    def _frame_states(self, features: FrameFeatures, index: Sequence[int], lesson: Lesson) -> torch.Tensor:
        """Return [N, 2 D]; as Shadow.frame_states, with gradients."""
        frames = list(zip(index, lesson.frame_pts_s, strict=True))
        found: list[torch.Tensor] = []
        for start in range(0, len(frames), SEQUENCES_PER_CALL):
            part = frames[start : start + SEQUENCES_PER_CALL]
            kept = run(self.shadow.decoder, self.shadow.frame_segments(features, part, lesson.text))
            found += [torch.cat([states[:-1].float().mean(0), states[-1].float()]) for states in kept]
        return torch.stack(found)


def run(decoder: Any, segments: Sequence[Segment], bias_L: torch.Tensor | None = None) -> list[torch.Tensor]:
    """Return the hidden states [R, D] of each of some sequences, packed into one pass that keeps gradients.

    Args:
        decoder: with an attention that takes a mask.
        segments: trunks of their own trees, to which nothing is written; the first holds the extra inputs of all.
        bias_L: of one sequence, what is added to the logits of attention to each of its tokens.
    """
    lengths = [len(segment.embeds_LD) for segment in segments]
    embeds_LD = torch.cat([segment.embeds_LD for segment in segments])
    positions_PL = torch.cat([segment.positions_PL for segment in segments], dim=1)
    hidden_LD = decoder(
        inputs_embeds=embeds_LD[None],
        position_ids=positions_PL[:, None] if len(positions_PL) > 1 else positions_PL,
        attention_mask=_mask(lengths, embeds_LD.device) if bias_L is None else _biased(bias_L),
        use_cache=False,
        **segments[0].extra,
    ).last_hidden_state[0]
    pieces = zip(segments, hidden_LD.split(lengths), strict=True)
    return [piece_LD[segment.keep_R] for segment, piece_LD in pieces]


def _mask(lengths: Sequence[int], device: torch.device) -> torch.Tensor:
    """Return who sees whom, bool [1, 1, L, L]; of one sequence [1, L], which leaves attention its causal kernel."""
    if len(lengths) == 1:
        return torch.ones((1, lengths[0]), dtype=torch.bool, device=device)
    of_L = torch.repeat_interleave(torch.tensor(lengths, device=device))
    return ((of_L[:, None] == of_L) & torch.ones(len(of_L), len(of_L), device=device).tril().bool())[
        None, None
    ]


def _biased(bias_L: torch.Tensor) -> torch.Tensor:
    """Return a causal mask of logits [1, 1, L, L] that also favours some tokens over others."""
    ahead_LL = torch.ones(len(bias_L), len(bias_L), device=bias_L.device).triu(1).bool()
    return bias_L.expand(len(bias_L), -1).masked_fill(ahead_LL, torch.finfo(bias_L.dtype).min)[None, None]


def unlocked(features: FrameFeatures) -> FrameFeatures:
    """Return features that gradients may pass by: those of an encoding are marked as not to be."""
    values, separators, *layers = (
        tensor.clone() for tensor in (features.values_NKD, features.separators_NKD, *features.layers_NKD)
    )
    return FrameFeatures(values, separators, tuple(layers))
