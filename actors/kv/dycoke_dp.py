"""While an answer is written, deep layers attend to the visual tokens that the newest token looks at, and to all text.

Shape letters: K rows, V visual tokens, R rows that deep layers see.
"""

from typing import Any

import torch

from actors.kv.cache import KvCache, New, attend
from actors.kv.quick_prefill import num_kept
from actors.kv.rows import Rows
from actors.kv.settings import KvSettings
from actors.kv.tokens import Tokens
from pipeline.errors import ConfigError
from pipeline.methods import Method

METHOD = Method(
    source="DyCoke (arXiv 2411.15024), dynamic pruning of the KV cache",
    stage="cache",
    what="keeps everything, but from layer 3 on a decoding step attends to 30 % of the visual tokens: those that the"
    " newest token attends to most one layer below. They are chosen anew when its attention has turned (cosine below"
    " 0.9 to that of the step before). It saves bandwidth in long answers, no memory",
    differs="after the paper, not its code: the choice is used again while attention stays alike, where the code then"
    " attends to everything; chosen tokens stay in order; one query's attention is"
    " computed beside the kernel, so that any kernel will do",
    needs=("keys-and-values",),
    query_dependent=True,
)


class DyCokeDp(KvCache):
    """See the module."""

    takes_back = False

    def __init__(self, decoder: Any, settings: KvSettings | None = None) -> None:
        """Take the decoder.

        Raises:
            ConfigError: it has no layer that would be pruned.
        """
        super().__init__(decoder, settings)
        self._first: int = self.settings.prune_layer
        if self._first >= self.num_layers:
            msg = (
                f"kv.prune_layer is {self._first}, and the model has {self.num_layers} layers: nothing would be pruned;"
                f" expected at most {self.num_layers - 1}"
            )
            raise ConfigError(msg)
        self._visual: list[torch.Tensor] = []
        self._last_V: torch.Tensor | None = None
        """The newest token's attention one step before; None = this is the first."""
        self._chosen_R: torch.Tensor | None = None
        self.num_choices = 0
        """How often visual tokens were chosen, over all answers."""
        self._seen: dict[int, Rows] = {}
        """What deep layers see, gathered when it was chosen and appended to since."""

    def settle(self, tokens: Tokens) -> None:
        """Note which rows are visual; everything stays."""
        start = self.layers[0].num_rows - len(tokens)
        self._visual = [torch.cat([*self._visual, tokens.is_visual_L.nonzero()[:, 0] + start])]

    @property
    def num_bytes(self) -> int:
        """Bytes that are held on the decoder's device; see KvCache."""
        known = sum(one.nbytes for one in (*self._visual, self._last_V, self._chosen_R) if one is not None)
        return super().num_bytes + known + sum(rows.num_bytes for rows in self._seen.values())

    def close_question(self) -> None:
        """Take back the question, its answer and the choice made for it."""
        super().close_question()
        self._last_V = self._chosen_R = None
        self._seen = {}

    def attend(self, layer: int, new: New) -> torch.Tensor:
        """Store what is new in one layer and return attention; a step's deep layers see fewer rows."""
        rows = self.layers[layer]
        rows.append(new.keys, new.values)
        if self.stage != "step" or not self._visual or not len(self._visual[0]):
            return attend(new, rows.keys, rows.values)
        if layer == self._first - 1:
            self._choose(new, rows)
        if layer < self._first:
            return attend(new, rows.keys, rows.values)
        if layer not in self._seen:
            self._seen[layer] = self._gathered(rows)
        else:
            self._seen[layer].append(new.keys, new.values)
        return attend(new, self._seen[layer].keys, self._seen[layer].values)

    def _choose(self, new: New, rows: Rows) -> None:
        """Choose visual tokens by the newest token's attention, unless it is much as it was one step before."""
        visual_V = self._visual[0]
        attention_V = attention_of(new.query[0, :, -1], rows.keys[0], new.scaling)[visual_V]
        before_V, self._last_V = self._last_V, attention_V
        if before_V is not None:
            cosine = torch.cosine_similarity(attention_V, before_V, dim=0)
            if float(cosine) >= self.settings.similarity:
                return
        self.num_choices += 1
        count = num_kept(len(visual_V), 1 - self.settings.prune_ratio)
        kept_K = torch.ones(rows.num_rows, dtype=torch.bool, device=visual_V.device)
        kept_K[visual_V] = False
        kept_K[visual_V[attention_V.argsort(descending=True, stable=True)[:count]]] = True
        self._chosen_R = kept_K.nonzero()[:, 0]
        self._seen = {}

    def _gathered(self, rows: Rows) -> Rows:
        seen = Rows()
        seen.append(rows.keys[:, :, self._chosen_R], rows.values[:, :, self._chosen_R])
        return seen


def attention_of(query: torch.Tensor, keys: torch.Tensor, scaling: float) -> torch.Tensor:
    """Return the attention, float32 [K], of one query [heads, d] to keys [key heads, K, d], averaged over heads."""
    grouped = query.float().unflatten(0, (len(keys), -1))
    scores = grouped @ keys.float().transpose(1, 2) * scaling
    return scores.softmax(-1).mean((0, 1))
