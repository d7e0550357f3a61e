"""From a prefilled trunk to likelihoods and text: questions put to it together, and greedy decoding of many at once.

transformers' `generate` is not used: it recomputes positions from a cache's length, which is wrong once visual tokens
were dropped, and it copies the cache for every sequence of a batch. Here questions are branches of one token tree
(token_tree.py), so that what one of them answers does not depend on who else is asked.

Shape letters: L tokens, D hidden size, V vocabulary, P position axes, R kept tokens, M (row, token) pairs, B answers
under way, N tokens of an answer.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Generic, TypeVar

import torch

from actors.device import OutOfMemory, halve_on_out_of_memory
from actors.models.token_tree import TRUNK, Segment, TokenTree, forward, unchanged_on_error

Key = TypeVar("Key")

ROWS_OF_LOGITS = 64
"""Rows whose logits are in memory at once: a row of 150,000 words is as large as a whole hidden layer's."""
NOT_FINITE = (
    "the model's logits are not finite numbers; with float16 weights try --answer.dtype bfloat16 or float32,"
    " otherwise the weights are damaged"
)


@dataclass(frozen=True, slots=True)
class Question:
    """The tokens behind a trunk, and the labels whose likelihoods are wanted; none = the answer is free text."""

    ids: tuple[int, ...]
    labels: tuple[tuple[int, ...], ...] = ()

    @property
    def num_tokens(self) -> int:
        """Tokens that go through the model to put this question: its own, and of each label all but the last."""
        return len(self.ids) + sum(len(label) - 1 for label in self.labels)


@dataclass(frozen=True, slots=True)
class Heard:
    """What the model makes of one question."""

    branch: int
    next_position: int
    label_logs: torch.Tensor
    """[labels] float32: mean log-probability per token of each label, so that long ones are not punished."""
    first: tuple[int, float]
    """The most likely next token and its log-probability."""
    error: str = ""


class Language:
    """The text half of a model: its decoder, its embeddings and its head."""

    def __init__(self, model: Any, decoder: Any, axes: int, ends: frozenset[int]) -> None:
        self.decoder = decoder
        self.num_layers: int = decoder.config.num_hidden_layers
        self.axes = axes
        self.ends = ends
        self.embed = model.get_input_embeddings()
        self.head = model.get_output_embeddings()
        self.device: torch.device = self.embed.weight.device
        self.out_of_memory = OutOfMemory()
        """How often a pass, or a batch of frames of the same model, did not fit."""

    def tree(self, capacity: int) -> TokenTree:
        """Return an empty tree with room for some rows."""
        return TokenTree(capacity, self.num_layers, self.device)

    def show(
        self,
        tree: TokenTree,
        embeds_LD: torch.Tensor,
        positions_PL: torch.Tensor,
        next_position: int,
        extra: Mapping[str, Any],
    ) -> None:
        """Prefill the trunk of an empty tree.

        Args:
            tree: has room for it.
            embeds_LD: the trunk's embeddings, visual ones injected.
            positions_PL: their positions, gaps where visual tokens were dropped.
            next_position: position of the first token behind them; not their largest plus one where the last visual
                tokens were dropped.
            extra: more inputs of the decoder (Qwen3-VL's features for its first layers).
        """
        nothing = torch.empty(0, dtype=torch.int64, device=self.device)
        trunk_L = torch.full((len(embeds_LD),), TRUNK, device=self.device)
        forward(self.decoder, [Segment(tree, trunk_L, embeds_LD, positions_PL, nothing, extra)])
        tree.next_position = next_position

    def span(self, start: int, length: int) -> torch.Tensor:
        """Return text positions [P, L] from `start` on: the same on every axis."""
        return torch.arange(start, start + length, device=self.device).expand(self.axes, -1)

    def read(
        self, hidden_RD: torch.Tensor, pairs_M: Sequence[tuple[int, int]] = ()
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return what the head says behind hidden states, some rows at a time.

        Args:
            hidden_RD: final hidden states.
            pairs_M: (row, token) whose log-probability is wanted.

        Returns:
            The most likely token of each row, its log-probability (not a number where the logits are not finite), and
            the log-probability of each pair.
        """
        rows_M, ids_M = torch.tensor(pairs_M, dtype=torch.int64, device=self.device).reshape(-1, 2).T
        best_R: list[torch.Tensor] = []
        best_log_R: list[torch.Tensor] = []
        log_M = torch.empty(len(rows_M), device=self.device)
        with torch.inference_mode():
            for start in range(0, len(hidden_RD), ROWS_OF_LOGITS):
                logits_RV = self.head(hidden_RD[start : start + ROWS_OF_LOGITS]).float()
                total_R = logits_RV.logsumexp(-1)
                most_R, found_R = logits_RV.max(-1)
                best_R.append(found_R)
                best_log_R.append(torch.where(total_R.isfinite(), most_R - total_R, torch.nan))
                here_M = ((rows_M >= start) & (rows_M < start + len(logits_RV))).nonzero()[:, 0]
                rows = rows_M[here_M] - start
                log_M[here_M] = logits_RV[rows, ids_M[here_M]] - total_R[rows]
        return torch.cat(best_R), torch.cat(best_log_R), log_M

    def put(self, tree: TokenTree, questions: Sequence[Question]) -> list[Heard]:
        """Put questions to a trunk in one forward pass, each with its labels; their rows stay in the tree."""
        ids: list[int] = []
        branches: list[int] = []
        positions: list[torch.Tensor] = []
        keep: list[int] = []
        pairs: list[tuple[int, int]] = []
        branch_of: list[int] = []

        def append(tokens: Sequence[int], branch: int, start: int) -> None:
            ids.extend(tokens)
            branches.extend([branch] * len(tokens))
            positions.append(self.span(start, len(tokens)))

        for question in questions:
            branch = tree.grow()
            branch_of.append(branch)
            append(question.ids, branch, tree.next_position)
            behind, asked_row = tree.next_position + len(question.ids), len(keep)
            keep.append(len(ids) - 1)
            for label in question.labels:
                pairs.append((asked_row, label[0]))
                if len(label) > 1:
                    pairs += [(len(keep) + at, token) for at, token in enumerate(label[1:])]
                    keep += range(len(ids), len(ids) + len(label) - 1)
                    append(label[:-1], tree.grow(branch), behind)
        ids_L = torch.tensor(ids, device=self.device)
        segment = Segment(
            tree, torch.tensor(branches, device=self.device), self.embed(ids_L), torch.cat(positions, dim=1),
            torch.tensor(keep, device=self.device),
        )  # fmt: skip
        with unchanged_on_error([tree]):
            [hidden_RD] = forward(self.decoder, [segment])
            best_R, best_log_R, log_M = (tensor.cpu() for tensor in self.read(hidden_RD, pairs))
        return _hear(questions, branch_of, tree.next_position, best_R, best_log_R, log_M)


def _hear(
    questions: Sequence[Question], branch_of: Sequence[int], start: int, best_R: torch.Tensor,
    best_log_R: torch.Tensor, log_M: torch.Tensor,
) -> list[Heard]:  # fmt: skip
    """Return what was kept for each question, in the order in which `Language.put` kept it."""
    found: list[Heard] = []
    row = pair = 0
    for question, branch in zip(questions, branch_of, strict=True):
        logs: list[torch.Tensor] = []
        first = (int(best_R[row]), float(best_log_R[row]))
        row += 1
        for label in question.labels:
            logs.append(log_M[pair : pair + len(label)].mean())
            pair += len(label)
            row += len(label) - 1
        label_logs = torch.stack(logs) if logs else torch.empty(0)
        is_finite = first[1] == first[1] and bool(label_logs.isfinite().all())
        error = "" if is_finite else NOT_FINITE
        found.append(Heard(branch, start + len(question.ids), label_logs, first, error))
    return found


@dataclass(frozen=True, slots=True)
class Said:
    """A finished free-text answer."""

    ids: list[int]
    """Without the end token."""
    confidence: float
    """Geometric mean of the tokens' probabilities."""
    num_steps: int
    error: str = ""


class Speech(Generic[Key]):
    """Free-text answers under way, behind any number of trees: every step appends one token to each.

    Plain greedy: a checkpoint's own sampling settings and repetition penalty are not applied, since the confidence
    must be the model's own. The end token is neither returned nor counted.
    """

    def __init__(
        self, language: Language, max_new_tokens: int, is_over: Callable[[list[int]], bool] | None = None
    ) -> None:
        """Take the longest answer in tokens, and what else ends one: a function of its tokens so far."""
        self.language = language
        self.is_over = is_over
        self.keys: list[Key] = []
        self.trees: list[TokenTree] = []
        self.num_passes = 0
        """Forward passes so far."""
        device = language.device
        self._branch_B = torch.empty(0, dtype=torch.int64, device=device)
        self._position_B = torch.empty(0, dtype=torch.int64, device=device)
        self._num_B = torch.empty(0, dtype=torch.int64, device=device)
        self._ids_BN = torch.empty((0, max_new_tokens), dtype=torch.int64, device=device)
        self._logs_BN = torch.empty((0, max_new_tokens), device=device)
        self._ends = torch.tensor(sorted(language.ends), dtype=torch.int64, device=device)

    def add(self, keys: Sequence[Key], tree: TokenTree, heard: Sequence[Heard]) -> None:
        """Let answers begin with the tokens already heard; `step` appends the next ones."""

        def column(values: Sequence[float], dtype: torch.dtype) -> torch.Tensor:
            return torch.tensor(values, dtype=dtype, device=self.language.device)

        self.keys += keys
        self.trees += [tree] * len(keys)
        whole, size = torch.int64, self._ids_BN.shape[1]
        self._branch_B = torch.cat([self._branch_B, column([one.branch for one in heard], whole)])
        self._position_B = torch.cat([self._position_B, column([one.next_position for one in heard], whole)])
        self._num_B = torch.cat([self._num_B, column([0] * len(heard), whole)])
        self._ids_BN = torch.cat([self._ids_BN, self._ids_BN.new_zeros((len(heard), size))])
        self._logs_BN = torch.cat([self._logs_BN, self._logs_BN.new_zeros((len(heard), size))])
        self._append(
            column([one.first[0] for one in heard], whole),
            column([one.first[1] for one in heard], torch.float32),
        )

    def _append(self, best_B: torch.Tensor, log_B: torch.Tensor) -> None:
        """Write a token to the newest answers, as many as are given."""
        new = slice(len(self.keys) - len(best_B), None)
        rows, at = torch.arange(len(best_B), device=best_B.device), self._num_B[new]
        self._ids_BN[new][rows, at] = best_B
        self._logs_BN[new][rows, at] = log_B
        self._num_B[new] += 1

    def finished(self) -> list[tuple[Key, Said]]:
        """Take out and return the answers that have come to their end."""
        if not self.keys:
            return []
        last = self._num_B[:, None] - 1
        last_B, last_log_B = self._ids_BN.gather(1, last)[:, 0], self._logs_BN.gather(1, last)[:, 0]
        is_end_B = torch.isin(last_B, self._ends)
        is_done_B = is_end_B | (self._num_B == self._ids_BN.shape[1]) | last_log_B.isnan()
        done = set(is_done_B.nonzero()[:, 0].tolist())
        if self.is_over:
            done |= {row for row in range(len(self.keys)) if self.is_over(self._ids(row))}
        found = [(self.keys[row], self._said(row, is_end=bool(is_end_B[row]))) for row in sorted(done)]
        self._keep([row for row in range(len(self.keys)) if row not in done])
        return found

    def keys_of(self, tree: TokenTree) -> list[Key]:
        """Return the answers behind one tree."""
        return [key for key, own in zip(self.keys, self.trees, strict=True) if own is tree]

    def drop(self, keys: Sequence[Key]) -> list[tuple[Key, int]]:
        """Take out answers, unfinished as they are; return each with the steps it took part in."""
        rows = [row for row, key in enumerate(self.keys) if key in keys]
        found = [(self.keys[row], int(self._num_B[row]) - 1) for row in rows]
        self._keep([row for row in range(len(self.keys)) if row not in rows])
        return found

    def _ids(self, row: int) -> list[int]:
        return self._ids_BN[row, : int(self._num_B[row])].tolist()

    def _said(self, row: int, *, is_end: bool) -> Said:
        ids = self._ids(row)
        logs = self._logs_BN[row, : len(ids)]
        error = NOT_FINITE if bool(logs.isnan().any()) else ""
        words = len(ids) - is_end
        confidence = float(logs[:words].mean().exp()) if words and not error else 0.0
        return Said(ids[:words], confidence, len(ids) - 1, error)

    def _keep(self, rows: list[int]) -> None:
        if len(rows) == len(self.keys):
            return
        self.keys = [self.keys[row] for row in rows]
        self.trees = [self.trees[row] for row in rows]
        index = torch.tensor(rows, dtype=torch.int64, device=self._num_B.device)
        self._branch_B, self._position_B, self._num_B = (
            tensor[index] for tensor in (self._branch_B, self._position_B, self._num_B)
        )
        self._ids_BN, self._logs_BN = self._ids_BN[index], self._logs_BN[index]

    def step(self) -> None:
        """Append one token to every answer.

        Raises:
            AnswerError: out of memory, also with half of the answers at a time.
        """
        rows = list(range(len(self.keys)))
        what = f"{len(rows)} answers being decoded"
        with unchanged_on_error(set(self.trees)):
            found = halve_on_out_of_memory(self._pass, rows, what, self.language.out_of_memory)
        best_B, log_B = (torch.stack(tensors) for tensors in zip(*found, strict=True))
        self._position_B += 1
        self._append(best_B, log_B)

    def _pass(self, rows: Sequence[int]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Return the token behind each of some answers, and its log-probability."""
        last_B = self._ids_BN.gather(1, self._num_B[:, None] - 1)[:, 0]
        segments: list[Segment] = []
        for _, group in groupby(rows, key=lambda row: id(self.trees[row])):
            members = list(group)
            here = slice(members[0], members[-1] + 1)
            positions_PL = self._position_B[here].expand(self.language.axes, -1)
            keep = torch.arange(len(members), device=last_B.device)
            embeds_LD = self.language.embed(last_B[here])
            segments.append(
                Segment(self.trees[members[0]], self._branch_B[here], embeds_LD, positions_PL, keep)
            )
        with unchanged_on_error([segment.tree for segment in segments]):
            hidden_BD = torch.cat(forward(self.language.decoder, segments))
            best_B, log_B, _ = self.language.read(hidden_BD)
        self.num_passes += 1
        return list(zip(best_B.unbind(), log_B.unbind(), strict=True))


def end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    """Return the tokens that end an answer: the checkpoint's generation settings, else the tokenizer's."""
    ends = model.generation_config.eos_token_id
    if ends is None:
        ends = tokenizer.eos_token_id
    return frozenset([ends] if isinstance(ends, int) else ends or [])
