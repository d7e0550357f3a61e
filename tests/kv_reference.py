"""Cache policies the slow way: the whole prompt in one pass, and for every token a list of what it may see, and where.

Nothing is cached. The library's decoder is run with all positions 0, which turns nothing; its attention is replaced by
loops over tokens that turn queries and keys to the positions they have at that moment, with the library's function.
"""

from dataclasses import dataclass

import torch
import transformers
from transformers.models.qwen2.modeling_qwen2 import apply_rotary_pos_emb

from actors.kv.cache import KvCache
from actors.kv.prefill import cut, prefill
from actors.kv.settings import KvSettings
from tests.tiny_models import BUILDERS

KINDS = ("internvl", "qwen2_5_vl")
GRID = (2, 3)
NAME = "kv_reference"


def build_model(kind, layers=3):
    """Return a small random model of a class; always the same."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = BUILDERS[kind]()[0]
    model = model.eval().requires_grad_(False)
    decoder = model.get_decoder()
    decoder.layers = decoder.layers[:layers]
    decoder.config.num_hidden_layers = layers
    return model


@dataclass
class Prompt:
    """A made-up prompt: text, and frames with text in front of each."""

    embeds_LD: torch.Tensor
    positions_PL: torch.Tensor
    visual_L: torch.Tensor
    next_position: int

    @property
    def frames(self):
        """Return the places of each frame's tokens."""
        runs, before = [], False
        for at, visual in enumerate(self.visual_L.tolist()):
            if visual and not before:
                runs.append([])
            if visual:
                runs[-1].append(at)
            before = visual
        return runs


def make_prompt(model, num_frames, header=3, lead=2, tail=0, seed=1, grid=GRID):
    """Return a prompt of random embeddings; positions as the class has them."""
    axes = 3 if hasattr(model.get_decoder().rotary_emb, "mrope_section") else 1
    positions, visual, at = [], [], 0

    def text(length):
        nonlocal at
        positions.extend([at + step] * axes for step in range(length))
        visual.extend([False] * length)
        at += length

    text(header)
    for _ in range(num_frames):
        text(lead)
        rows, columns = grid
        for place in range(rows * columns):
            row, column = divmod(place, columns)
            positions.append([at, at + row, at + column] if axes == 3 else [at + place])
        visual.extend([True] * (rows * columns))
        at += max(grid) if axes == 3 else rows * columns
    text(tail)
    generator = torch.Generator().manual_seed(seed)
    hidden = model.get_input_embeddings().weight.shape[1]
    embeds = torch.randn((len(visual), hidden), generator=generator) * 0.5
    return Prompt(embeds, torch.tensor(positions).reshape(-1, axes).T, torch.tensor(visual), at)


def embed(model, ids):
    return model.get_input_embeddings()(torch.tensor(ids))


def fill(model, prompt, policy, times_s=None, **settings):
    """Return a cache that was shown a prompt."""
    return prefill(
        model.get_decoder(), prompt.embeds_LD, prompt.positions_PL, prompt.visual_L, policy,
        KvSettings(**settings), next_position=prompt.next_position, times_s=times_s,
    )  # fmt: skip


def logits(model, cache, ids):
    """Return what the model says behind each token of a question; the cache is as before."""
    hidden_LD = cache.ask(embed(model, ids))
    cache.forget()
    return model.lm_head(hidden_LD)


def library_logits(model, prompt, ids):
    """Return the same from the library's own forward over everything at once."""
    decoder = model.get_decoder()
    behind = torch.arange(prompt.next_position, prompt.next_position + len(ids))
    positions = torch.cat([prompt.positions_PL, behind.expand(len(prompt.positions_PL), -1)], 1)
    embeds = torch.cat([prompt.embeds_LD, embed(model, ids)])
    with torch.inference_mode():
        out = decoder(
            inputs_embeds=embeds[None], position_ids=positions[:, None] if len(positions) > 1 else positions,
            past_key_values=transformers.DynamicCache(), use_cache=True,
        )  # fmt: skip
        return model.lm_head(out.last_hidden_state[0, -len(ids) :])


class Reference:
    """One slow pass. A policy's rule is `see(layer, token, queries, keys)` -> {place: position [P]}, itself included.

    `queries` [heads, L, d] and `keys` [kv heads, L, d] are not turned.
    """

    def __init__(self, model, see):
        self.model, self.see = model, see

    def turn(self, states_HLd, positions):
        """Return states turned to some positions, a list of [P]."""
        ids = torch.tensor(positions).T.reshape(len(positions[0]), 1, -1)
        emb = self.model.get_decoder().rotary_emb
        cos, sin = emb(torch.ones(()), ids if len(ids) > 1 else ids[0])
        return apply_rotary_pos_emb(states_HLd[None], states_HLd[None], cos, sin)[0][0]

    def attention(self, module, query, key, value, mask, scaling=None, **_):
        del mask
        groups = query.shape[1] // key.shape[1]
        out = torch.zeros_like(query)
        for token in range(query.shape[2]):
            seen = self.see(module.layer_idx, token, query[0], key[0])
            places = sorted(seen)
            keys = self.turn(key[0, :, places], [seen[place] for place in places])
            own = self.turn(query[0, :, [token]], [seen[token]])
            keys, values = (one.repeat_interleave(groups, 0) for one in (keys, value[0, :, places]))
            weights = torch.softmax(own @ keys.transpose(1, 2) * scaling, -1)
            out[0, :, token] = (weights @ values)[:, 0]
        return out.transpose(1, 2), None

    def run(self, embeds_LD):
        """Return logits behind every token."""
        transformers.AttentionInterface.register(NAME, self.attention)
        decoder = self.model.get_decoder()
        zeros = torch.zeros((1, len(embeds_LD)), dtype=torch.int64)
        if hasattr(decoder.rotary_emb, "mrope_section"):
            zeros = zeros.expand(3, 1, -1)
        before = decoder.config._attn_implementation
        decoder.config._attn_implementation = NAME
        try:
            with torch.inference_mode():
                out = decoder(inputs_embeds=embeds_LD[None], position_ids=zeros, use_cache=False)
                return self.model.lm_head(out.last_hidden_state[0])
        finally:
            decoder.config._attn_implementation = before


def groups_of(prompt, group_frames):
    """Return the group of each token: frames counted off, text with the frame behind it, the end with the last."""
    frames = prompt.frames
    ends = [frame[-1] for frame in frames]
    last = max(0, (len(frames) - 1) // group_frames)
    found = []
    for place in range(len(prompt.visual_L)):
        frame = sum(end < place for end in ends)
        found.append(min(frame // group_frames, last))
    return found


__all__ = ["KINDS", "KvCache", "KvSettings", "Reference", "build_model", "cut", "embed", "fill", "groups_of",
           "library_logits", "logits", "make_prompt"]  # fmt: skip


QUESTION = [5, 6, 7]
LIVE = {
    "long_tokens": 10,
    "top_share": 0.4,
    "recent_frames": 2,
    "observers": 4,
    "page_tokens": 3,
    "page_share": 0.4,
}


def whole(model, prompt):
    """Return embeddings and plain positions of a prompt with the question behind it."""
    behind = range(prompt.next_position, prompt.next_position + len(QUESTION))
    positions = prompt.positions_PL.T.tolist() + [[at] * len(prompt.positions_PL) for at in behind]
    return torch.cat([prompt.embeds_LD, embed(model, QUESTION)]), positions


def slow(model, prompt, see):
    embeds, _ = whole(model, prompt)
    return Reference(model, see).run(embeds)[-len(QUESTION) :]


def lay_out(prompt, places):
    """Return the positions of some tokens, closed up: frames keep their shape."""
    frame_of = {at: number for number, frame in enumerate(prompt.frames) for at in frame}
    found, base, number, behind = {}, 0, None, 0
    axes = len(prompt.positions_PL)
    for at in places:
        if axes == 1 or at not in frame_of:
            base = behind
            found[at] = [base] * axes
            behind = base + 1
            continue
        if frame_of[at] != number:
            number, base = frame_of[at], behind
        start = prompt.positions_PL[:, prompt.frames[number][0]].tolist()
        found[at] = [base + int(prompt.positions_PL[axis, at]) - start[axis] for axis in range(axes)]
        behind = base + 3  # frames here are 2 x 3
    return found, behind
