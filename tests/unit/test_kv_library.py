"""Policy caches are the library's own caches: its `generate` goes on with them as we do, or is refused plainly."""

import pytest
import torch
import transformers
from transformers.cache_utils import Cache, CacheLayerMixin
from transformers.masking_utils import create_causal_mask

from actors.kv import KV_POLICIES
from actors.kv.prefill import cut, say
from actors.models.decoding import Language
from tests.kv_reference import build_model, embed, fill, library_logits, logits, make_prompt
from tests.unit.test_kv_cache import ALL, QUESTION

SMALL = {
    "group_frames": 2, "vision_s": 2.0, "retention": 0.5, "window_tokens": 10, "retrieve_frames": 2, "long_tokens": 8,
    "recent_frames": 1, "prune_layer": 1, "prune_ratio": 0.5,
}  # fmt: skip
NEW_TOKENS = 5


@pytest.fixture(scope="module", params=("internvl", "smolvlm", "qwen2_5_vl"))
def model(request):
    return build_model(request.param)


@pytest.fixture(scope="module", params=sorted(KV_POLICIES))
def policy(request):
    return request.param


def generate(model, cache, num_tokens=NEW_TOKENS, **options):
    """Return what the library's `generate` says behind a question, as a model's user calls it."""
    ids = torch.tensor([QUESTION])
    seen = torch.ones((1, cache.get_seq_length() + len(QUESTION)), dtype=torch.int64)
    said = model.generate(
        ids, attention_mask=seen, past_key_values=cache, do_sample=False, max_new_tokens=num_tokens,
        min_new_tokens=num_tokens, pad_token_id=0, **options,
    )  # fmt: skip
    return said[0, len(QUESTION) :].tolist()


def ours(model, cache):
    language = Language(model, model.get_decoder(), 1, frozenset())
    return say(cache, language, QUESTION, NEW_TOKENS).ids


def test_it_is_a_cache_of_the_library(model, policy):
    cache = fill(model, make_prompt(model, 2), policy, **ALL)
    assert isinstance(cache, Cache)
    assert all(isinstance(layer, CacheLayerMixin) for layer in cache.layers)
    assert (len(cache), cache.is_sliding, cache.get_max_length()) == (3, [False] * 3, -1)
    assert not cache.is_compileable
    assert not cache.is_croppable


def test_a_forward_of_the_library_behind_a_cache_says_what_it_says_without_a_policy(model, policy):
    prompt = make_prompt(model, 3)
    cache = fill(model, prompt, policy, **ALL)
    with cache.continuing():
        found = model(input_ids=torch.tensor([QUESTION]), past_key_values=cache, use_cache=True).logits[0]
    assert (found - library_logits(model, prompt, QUESTION)).abs().max() < 1e-4
    none = fill(model, prompt, "none", **ALL)
    assert (found - logits(model, none, QUESTION)).abs().max() < 1e-4
    assert torch.equal(logits(model, cache, QUESTION), found), "the question was forgotten"


@pytest.mark.parametrize("settings", [ALL, SMALL], ids=["all", "small"])
def test_generate_goes_on_as_we_do(model, policy, settings):
    cache = fill(model, make_prompt(model, 5), policy, **settings)
    expected = ours(model, cache)
    for _ in range(2):
        with cache.continuing():
            assert generate(model, cache) == expected
    assert ours(model, cache) == expected


def test_generate_goes_on_as_with_the_librarys_own_cache(model, policy):
    prompt = make_prompt(model, 2)
    ids = list(QUESTION)
    for _ in range(NEW_TOKENS):
        ids.append(int(library_logits(model, prompt, ids)[-1].argmax()))
    cache = fill(model, prompt, policy, **ALL)
    with cache.continuing():
        assert generate(model, cache) == ids[len(QUESTION) :]


def test_positions_that_the_library_counts_do_not_matter(model, policy):
    cache = fill(model, make_prompt(model, 3), policy, **SMALL)
    expected = logits(model, cache, QUESTION)
    wrong = torch.full((1, len(QUESTION)), 900)
    with cache.continuing():
        model(input_ids=torch.tensor([QUESTION]), past_key_values=cache, position_ids=wrong, use_cache=True)
        found = cache.get_seq_length()
    cache.ask(embed(model, QUESTION))
    assert cache.get_seq_length() == found
    cache.forget()
    with cache.continuing():
        out = model(
            input_ids=torch.tensor([QUESTION]), past_key_values=cache, position_ids=wrong, use_cache=True
        )
    assert torch.equal(out.logits[0], expected)


def test_outside_its_block_the_library_is_refused(model, policy):
    cache = fill(model, make_prompt(model, 2), policy, **SMALL)
    expected = logits(model, cache, QUESTION)
    with pytest.raises(ValueError, match=r"inside `with cache.continuing\(\):`"):
        generate(model, cache)
    assert torch.equal(logits(model, cache, QUESTION), expected)


def test_other_caches_more_prompts_and_beams_are_refused(model):
    cache = fill(model, make_prompt(model, 2), "none")
    expected = logits(model, cache, QUESTION)
    two = torch.tensor([QUESTION, QUESTION])
    with cache.continuing(), pytest.raises(ValueError, match="without this cache"):
        model(input_ids=two[:1], past_key_values=transformers.DynamicCache(), use_cache=True)
    with cache.continuing(), pytest.raises(ValueError, match="2 prompts or beams"):
        model(input_ids=two, past_key_values=cache, use_cache=True)
    with cache.continuing(), pytest.raises(ValueError, match="one prompt"):
        generate(model, cache, num_beams=2)
    with cache.continuing(), pytest.raises(ValueError, match="behind that block"):
        cache.ask(embed(model, QUESTION))
    with pytest.raises(ValueError, match="without beams"):
        cache.reorder_cache(torch.tensor([0]))
    with pytest.raises(ValueError, match="stored by its attention"):
        cache.layers[0].update(torch.zeros(1), torch.zeros(1))
    assert torch.equal(logits(model, cache, QUESTION), expected)


def test_the_decoder_is_as_before(model):
    decoder = model.get_decoder()
    before, hooks = decoder.config._attn_implementation, len(decoder._forward_pre_hooks)
    cache = fill(model, make_prompt(model, 1), "none")
    with pytest.raises(KeyError), cache.continuing():
        raise KeyError
    assert (decoder.config._attn_implementation, len(decoder._forward_pre_hooks)) == (before, hooks)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_masks_of_the_library_fit_what_each_layer_holds(model, attention):
    prompt = make_prompt(model, 4)
    cache = fill(model, prompt, "quick-prefill", **SMALL)
    decoder = model.get_decoder()
    before = decoder.config._attn_implementation
    decoder.config._attn_implementation = attention
    try:
        mask = create_causal_mask(
            config=decoder.config,
            inputs_embeds=torch.zeros((1, 3, 4)),
            attention_mask=None,
            past_key_values=cache,
        )
    finally:
        decoder.config._attn_implementation = before
    seen = mask[0, 0] if mask.dtype == torch.bool else mask[0, 0] == 0
    rows = cache.layers[0].num_rows
    assert seen.sum(1).tolist() == [rows + 1, rows + 2, rows + 3]
    assert rows < len(prompt.visual_L)


@pytest.mark.parametrize("policy", sorted(KV_POLICIES))
def test_tokens_of_a_question_are_taken_back_or_it_is_said_that_they_are_not(model, policy):
    prompt = make_prompt(model, 3)
    cache = fill(model, prompt, policy, **ALL)
    with pytest.raises(ValueError, match="0 tokens of a question"):
        cache.crop(-1)
    cache.ask(embed(model, QUESTION[:2]))
    cache.ask(embed(model, [9]))
    cache.crop(0)
    if not cache.takes_back:
        with pytest.raises(ValueError, match="takes back none"):
            cache.crop(-1)
        return
    with pytest.raises(ValueError, match="3 tokens of a question"):
        cache.crop(-4)
    cache.crop(-1)
    found = model.lm_head(cache.ask(embed(model, QUESTION[2:])))
    cache.forget()
    assert (found - library_logits(model, prompt, QUESTION)[2:]).abs().max() < 1e-4


def test_after_a_reset_it_is_as_new(model, policy):
    cache, prompt = fill(model, make_prompt(model, 3), policy, **SMALL), make_prompt(model, 2)
    cache.ask(embed(model, QUESTION))
    cache.reset()
    assert (cache.get_seq_length(), cache.num_frames, cache.num_bytes) == (0, 0, 0)
    for piece in cut(
        prompt.embeds_LD, prompt.positions_PL, prompt.visual_L, 2, next_position=prompt.next_position
    ):
        cache.feed(piece)
    expected = logits(model, fill(model, prompt, policy, **SMALL), QUESTION)
    assert torch.equal(logits(model, cache, QUESTION), expected)
