"""Token trees on a real small decoder: branches see what is below them and nothing else, and nothing is copied."""

import pytest
import torch
import transformers

from actors.models.token_tree import Segment, TokenTree, forward, use_trees
from pipeline.errors import AnswerError

TRUNK_IDS = [5, 6, 7, 8, 9]
BRANCHES = [[11, 12, 13], [14], [15, 16]]
LEAF = [21, 22]


@pytest.fixture(scope="module")
def models():
    """Return the same small language model twice: with trees, and as the library has it."""

    def build():
        with torch.random.fork_rng():
            torch.manual_seed(0)
            text = {
                "model_type": "qwen2", "vocab_size": 60, "hidden_size": 32, "intermediate_size": 48,
                "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.3,
            }  # fmt: skip
            vision = {
                "hidden_size": 16,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "intermediate_size": 16,
            }
            config = transformers.InternVLConfig(vision_config=vision, text_config=text, image_token_id=1)
            return transformers.InternVLForConditionalGeneration(config).eval().requires_grad_(False)

    ours, library = build(), build()
    use_trees(ours)
    return ours, library.get_decoder()


def segment(model, tree, pieces):
    """Return new tokens of a tree from (branch, ids, first position) each."""
    ids = torch.tensor([token for _, tokens, _ in pieces for token in tokens])
    branch_L = torch.tensor([branch for branch, tokens, _ in pieces for _ in tokens])
    positions = [start + at for _, tokens, start in pieces for at in range(len(tokens))]
    keep = torch.arange(len(ids))
    return Segment(tree, branch_L, model.get_input_embeddings()(ids), torch.tensor([positions]), keep)


def alone(library, ids):
    """Return the library's hidden states of one plain sequence."""
    with torch.inference_mode():
        return library(input_ids=torch.tensor([ids]), use_cache=True).last_hidden_state[0]


def test_branches_see_the_trunk_and_themselves(models):
    ours, library = models
    tree = TokenTree(20, 2, torch.device("cpu"))
    [trunk_LD] = forward(ours.get_decoder(), [segment(ours, tree, [(0, TRUNK_IDS, 0)])])
    assert torch.allclose(trunk_LD, alone(library, TRUNK_IDS), atol=1e-5)
    grown = [tree.grow() for _ in BRANCHES]
    leaf = tree.grow(grown[0])
    pieces = [(branch, ids, 5) for branch, ids in zip(grown, BRANCHES, strict=True)]
    [packed_LD] = forward(ours.get_decoder(), [segment(ours, tree, [*pieces, (leaf, LEAF, 8)])])
    ends = torch.tensor([len(ids) for ids in [*BRANCHES, LEAF]]).cumsum(0).tolist()
    paths = [*(TRUNK_IDS + ids for ids in BRANCHES), TRUNK_IDS + BRANCHES[0] + LEAF]
    for path, ids, end in zip(paths, [*BRANCHES, LEAF], ends, strict=True):
        expected_LD = alone(library, path)[-len(ids) :]
        assert torch.allclose(packed_LD[end - len(ids) : end], expected_LD, atol=1e-5)
    assert tree.num_rows == 5 + ends[-1]


def test_trees_in_one_pass_do_not_see_each_other_and_branches_go_on_in_any_order(models):
    ours, library = models
    first, second = TokenTree(12, 2, torch.device("cpu")), TokenTree(9, 2, torch.device("cpu"))
    shown = [segment(ours, first, [(0, TRUNK_IDS, 0)]), segment(ours, second, [(0, TRUNK_IDS[:2], 0)])]
    forward(ours.get_decoder(), shown)
    a, b, c = first.grow(), first.grow(), second.grow()
    forward(ours.get_decoder(), [segment(ours, first, [(a, [11], 5), (b, [12, 13], 5)])])
    found = forward(
        ours.get_decoder(),
        [segment(ours, first, [(b, [14], 7), (a, [15], 6)]), segment(ours, second, [(c, [16], 2)])],
    )
    paths = [[*TRUNK_IDS, 12, 13, 14], [*TRUNK_IDS, 11, 15], [*TRUNK_IDS[:2], 16]]
    for path, hidden_D in zip(paths, [*found[0], *found[1]], strict=True):
        assert torch.allclose(hidden_D, alone(library, path)[-1], atol=1e-5)


def test_cut_rows_are_forgotten_and_nothing_moves(models):
    ours, library = models
    tree = TokenTree(9, 2, torch.device("cpu"))
    forward(ours.get_decoder(), [segment(ours, tree, [(0, TRUNK_IDS, 0)])])
    before = tree._rows.data_ptr()
    for ids in ([11, 12, 13, 14], [15, 16]):
        [found_LD] = forward(ours.get_decoder(), [segment(ours, tree, [(tree.grow(), ids, 5)])])
        assert torch.allclose(found_LD[-1], alone(library, TRUNK_IDS + ids)[-1], atol=1e-5)
        tree.cut(5)
    assert before == tree._rows.data_ptr()
    with pytest.raises(ValueError, match="9 rows cannot take 10"):
        forward(ours.get_decoder(), [segment(ours, tree, [(tree.grow(), [1] * 5, 5)])])
    assert tree.num_rows == 5


def test_a_sliding_window_that_would_forget_the_frames_is_refused(models, monkeypatch):
    ours, _ = models
    for layer in ours.get_decoder().layers:
        monkeypatch.setattr(layer.self_attn, "sliding_window", 4)
    with pytest.raises(AnswerError, match="5 tokens are more than the 4"):
        forward(
            ours.get_decoder(), [segment(ours, TokenTree(9, 2, torch.device("cpu")), [(0, TRUNK_IDS, 0)])]
        )
