"""Where the language model of the world begins: tokens that say what they show, attention that looks for its like.

From a random start the model stays at chance for a very long time: nothing ties the word "star" to what a star looks
like, and no attention looks from one to the other. So the projector is brought, in closed form, to write each visual
token as the sum of the words for what is in its cell; and attention begins as likeness, values as copies (after
"Mimetic Initialization of Self-Attention Layers", arXiv 2305.09828). One head begins as a clock: it looks at the time
written last and copies it, so that a visual token knows when it is shown. Learning goes on from there.

Shape letters: N tokens, D hidden size.
"""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from jobs.world import lessons as ls
from jobs.world.model import HIDDEN
from jobs.world.scenes import SECONDS, SIDE

TEXT_MARK = 0.7
"""How much of the common mark of words is in each of them."""
LOOK_AT_PICTURES = 12.0
"""How much the first layer's queries prefer visual tokens to words."""
CLOCK_TURNS = {2: 0.5, 3: 1.0, 4: 1.0}
"""Rotary frequencies of the clock's head, by number, and how much each counts: near times count most."""
CLOCK_GAIN = 2.7
PLACE = 0.7
"""How much of its row and of its column is in a visual token."""


@torch.no_grad()
def begin(model: Any, tokens_ND: torch.Tensor, labels: npt.NDArray[np.uint8]) -> torch.Tensor:
    """Set word embeddings, attention and projector; return the map from old to new visual tokens, [D + 1, D].

    Args:
        model: its eye trained; changed in place.
        tokens_ND: visual tokens of whole frames in raster order, as the projector writes them now.
        labels: what the cells hold, as of `lessons.cells`, [N / TOKENS, TOKENS, 3].
    """
    _attend_to_likes(model)
    basis = nn.init.orthogonal_(torch.empty(HIDDEN, HIDDEN))
    words = model.get_input_embeddings().weight
    named = list(dict.fromkeys(name for name in (*ls.THINGS, *ls.INKS, *ls.NUMERALS) if name in ls.WORDS))
    code = dict(zip(named, basis, strict=False))
    empty, unnamed, picture, text, time, *places = basis[len(named) : len(named) + 5 + 2 * SIDE]
    rows, columns = torch.stack(places[:SIDE]), torch.stack(places[SIDE:])
    words.normal_(0, 1 / math.sqrt(HIDDEN))
    seconds = _seconds()
    for second, value in enumerate(seconds):
        words[ls.WORDS[f"<{second}s>"]] = value + time
        words[ls.WORDS[str(second)]] = value
    for name, value in code.items():
        words[ls.WORDS[name]] = value
    words[ls.WORDS["left"]] = columns[: SIDE // 2].sum(0) / math.sqrt(SIDE // 2)
    words[ls.WORDS["right"]] = columns[SIDE // 2 :].sum(0) / math.sqrt(SIDE // 2)
    words += TEXT_MARK * text

    nothing = torch.zeros(HIDDEN)
    things = torch.stack([code.get(name, unnamed) if name else empty for name in ls.THINGS])
    inks, numerals = (
        torch.stack([code.get(name, nothing) for name in names]) for names in (ls.INKS, ls.NUMERALS)
    )
    thing, ink, numeral = torch.from_numpy(labels.reshape(-1, 3).astype(np.int64)).unbind(1)
    place = torch.arange(SIDE * SIDE).repeat(len(labels))
    where = PLACE * (rows[place // SIDE] + columns[place % SIDE])
    wanted_ND = things[thing] + inks[ink] + numerals[numeral] + where + picture
    first = model.get_decoder().layers[0].self_attn
    first.q_proj.bias.copy_(LOOK_AT_PICTURES * first.k_proj.weight @ (picture - text))
    _tell_time(first, seconds, time)
    return _project(model, tokens_ND.float(), wanted_ND)


def project_again(tokens: torch.Tensor, mapping: torch.Tensor) -> None:
    """Bring tokens [clips, N, D], pooled or not, from the old projector to the new, in place."""
    for start in range(0, len(tokens), 200):
        part = tokens[start : start + 200].float()
        tokens[start : start + 200] = (part @ mapping[:-1] + mapping[-1]).to(tokens.dtype)


def _attend_to_likes(model: Any) -> None:
    """Let queries equal keys, and values be copied out as they came in."""
    for layer in model.get_decoder().layers:
        for weight in layer.mlp.parameters():
            weight.normal_(0, 0.06)
        attention = layer.self_attn
        nn.init.orthogonal_(attention.q_proj.weight)
        attention.k_proj.weight.copy_(attention.q_proj.weight)
        nn.init.orthogonal_(attention.v_proj.weight)
        attention.o_proj.weight.copy_(0.5 * attention.v_proj.weight.T)
        for projection in (attention.q_proj, attention.k_proj, attention.v_proj):
            projection.bias.zero_()


def _tell_time(attention: Any, seconds: torch.Tensor, time: torch.Tensor) -> None:
    """Make the last head look at the last token that has the mark of times, and copy what tells seconds apart."""
    width = HIDDEN // attention.config.num_attention_heads
    head = slice(HIDDEN - width, HIDDEN)
    for weight in (attention.q_proj, attention.k_proj, attention.v_proj):
        weight.weight[head] = 0
        weight.bias[head] = 0
    for turn, share in CLOCK_TURNS.items():
        attention.q_proj.bias[head.start + turn] = CLOCK_GAIN * share
        attention.k_proj.weight[head.start + turn] = CLOCK_GAIN * time
    apart = torch.linalg.svd(seconds - seconds.mean(0), full_matrices=False)[2][: width - 1]
    attention.v_proj.weight[head.start : HIDDEN - 1] = apart
    attention.o_proj.weight[:, head] = 0
    attention.o_proj.weight[:, head.start : HIDDEN - 1] = apart.T


def _seconds() -> torch.Tensor:
    """Return one vector of length 1 per second; near seconds are alike."""
    periods_s = torch.exp(torch.linspace(math.log(4), math.log(90), HIDDEN // 2))
    angle = torch.arange(SECONDS)[:, None] * 2 * math.pi / periods_s
    turned = nn.init.orthogonal_(torch.empty(HIDDEN, HIDDEN))
    return torch.cat([angle.sin(), angle.cos()], 1) @ turned / math.sqrt(HIDDEN // 2)


def _project(model: Any, found_ND: torch.Tensor, wanted_ND: torch.Tensor) -> torch.Tensor:
    """Fold the least-squares map from what the projector writes to what it shall write into its last layer."""
    with_one = torch.cat([found_ND, torch.ones(len(found_ND), 1)], 1)
    gram = with_one.T @ with_one / len(with_one) + 1e-6 * torch.eye(HIDDEN + 1)
    mapping = torch.linalg.solve(gram, with_one.T @ wanted_ND / len(with_one))
    last = model.model.multi_modal_projector.linear_2
    last.bias.copy_(mapping[:-1].T @ last.bias + mapping[-1])
    last.weight.copy_(mapping[:-1].T @ last.weight)
    return mapping
