"""LiveVLM's cache against the slow way (tests/kv_reference.py): its long memory, and the pages a question is shown."""

import pytest
import torch

from actors.kv.livevlm import spread
from pipeline.errors import AnswerError
from tests.kv_reference import (
    KINDS,
    LIVE,
    QUESTION,
    Reference,
    build_model,
    fill,
    groups_of,
    lay_out,
    logits,
    make_prompt,
    slow,
)


@pytest.fixture(scope="module", params=KINDS)
def model(request):
    return build_model(request.param)


class LiveRules:
    """What a token sees: per layer the long memory of the groups before, pages of it when asked; in plain loops."""

    def __init__(self, model, prompt, group_frames):
        self.model, self.prompt = model, prompt
        self.group_of, self.length = groups_of(prompt, group_frames), len(prompt.visual_L)
        self.positions = prompt.positions_PL.T.tolist()
        self.frame_of = {at: number for number, frame in enumerate(prompt.frames) for at in frame}
        self.known = {}

    def held(self, layer, group, queries, keys):
        """Return what a layer holds behind a group."""
        if group < 0:
            return []
        if (layer, group) not in self.known:
            before = self.held(layer, group - 1, queries, keys)
            own = [at for at in range(self.length) if self.group_of[at] == group]
            self.known[layer, group] = self.thinned(before + own, own, queries, keys)
        return self.known[layer, group]

    def older(self, held):
        newest = max(self.frame_of[at] for at in held if at in self.frame_of)
        return [at for at in held if at in self.frame_of and self.frame_of[at] <= newest - 2]

    def thinned(self, held, own, queries, keys):
        older = self.older(held)
        if len(older) <= 10:
            return held
        reference, heads = Reference(self.model, None), queries.shape[0] // keys.shape[0]
        score = dict.fromkeys(held, 0.0)
        for observer in [at for at in own if at in self.frame_of][-4:]:
            seen = [at for at in held if at <= observer]
            turned = reference.turn(keys[:, seen], [self.positions[at] for at in seen]).repeat_interleave(
                heads, 0
            )
            query = reference.turn(queries[:, [observer]], [self.positions[observer]])
            weights = torch.softmax(query @ turned.transpose(1, 2) / queries.shape[-1] ** 0.5, -1).mean(0)[0]
            for at, weight in zip(seen, weights.tolist(), strict=True):
                score[at] += weight
        ranked = sorted(older, key=lambda at: -score[at])
        kept, full = set(ranked[:4]), set()
        span = older[-1] - older[0] + 1
        full = {(at - older[0]) * 10 // span for at in kept}
        for at in ranked[4:]:
            bucket = (at - older[0]) * 10 // span
            if len(kept) < 10 and bucket not in full:
                kept.add(at)
                full.add(bucket)
        return [at for at in held if at not in older or at in kept]

    def see(self, layer, token, queries, keys):
        if token < self.length:
            group = self.group_of[token]
            own = [at for at in range(token + 1) if self.group_of[at] == group]
            return {at: self.positions[at] for at in self.held(layer, group - 1, queries, keys) + own}
        held = self.held(layer, max(self.group_of), queries, keys)
        older = self.older(held)
        pages = [older[start : start + 3] for start in range(0, len(older), 3)]
        query = queries[:, self.length :].double().mean(1)
        heads = queries.shape[0] // keys.shape[0]
        match = [
            float((keys[:, page].double().mean(1).repeat_interleave(heads, 0) * query).sum())
            for page in pages
        ]
        best = sorted(range(len(pages)), key=lambda page: -match[page])[: -int(-len(pages) * 0.4 // 1)]
        found = {at for page in best for at in pages[page]}
        places, behind = lay_out(self.prompt, [at for at in held if at not in older or at in found])
        axes = len(self.prompt.positions_PL)
        return places | {at: [behind + at - self.length] * axes for at in range(self.length, token + 1)}


@pytest.mark.parametrize(("num_frames", "group_frames"), [(7, 2), (5, 1), (1, 1)])
def test_livevlm_keeps_what_frames_look_at_and_shows_pages(model, num_frames, group_frames):
    prompt = make_prompt(model, num_frames)
    rules = LiveRules(model, prompt, group_frames)
    cache = fill(model, prompt, "livevlm", group_frames=group_frames, **LIVE)
    expected = slow(model, prompt, rules.see)
    assert (logits(model, cache, QUESTION) - expected).abs().max() < 1e-4
    assert (logits(model, cache, QUESTION) - expected).abs().max() < 1e-4


def test_livevlm_holds_no_more_visual_tokens_however_long_the_stream(model):
    for num_frames in (6, 12):
        prompt = make_prompt(model, num_frames)
        cache = fill(model, prompt, "livevlm", group_frames=1, **LIVE)
        text = int((~prompt.visual_L).sum())
        assert all(rows.num_rows <= text + 10 + 2 * 6 for rows in cache.layers)


@pytest.mark.parametrize("kind", KINDS)
def test_livevlm_refuses_a_stream_beyond_the_models_context(kind):
    model = build_model(kind)
    prompt = make_prompt(model, 6)
    model.get_decoder().config.max_position_embeddings = prompt.next_position
    assert fill(model, prompt, "livevlm", group_frames=2, **LIVE).end == prompt.next_position
    model.get_decoder().config.max_position_embeddings = prompt.next_position - 1
    with pytest.raises(AnswerError, match=rf"{prompt.next_position} positions with frame 4.*streaming-vlm"):
        fill(model, prompt, "livevlm", group_frames=2, **LIVE)


def test_a_static_scene_is_spread_over_the_whole_video():
    kept = spread(torch.ones(100), torch.arange(100), 0, 10).nonzero()[:, 0]
    assert kept.tolist() == list(range(0, 100, 10))
    kept = spread(torch.arange(100.0), torch.arange(100), 4, 10).nonzero()[:, 0]
    assert kept.tolist() == [39, 49, 59, 69, 79, 89, 96, 97, 98, 99]
