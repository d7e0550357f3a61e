"""Trained heads come back as they were written, and foreign ones are refused with both shapes."""

import json

import pytest
import torch

from actors.models.heads import Heads, ImageHead, SemanticHead, load_heads, read_heads, save_heads
from pipeline.errors import ModelError

D = 16


def made(**changes) -> Heads:
    torch.manual_seed(0)
    values = {
        "hidden_size": D, "early_layers": 2, "early_tokens": 4, "semantic": SemanticHead(D), "image": ImageHead(D),
        "semantic_temperature": 1.5, "image_temperature": 0.5, "model": "tiny@1", "metrics": {"image": {"ap": 0.5}},
    }  # fmt: skip
    return Heads(**(values | changes))


def test_shapes_are_those_the_routers_use():
    assert SemanticHead(D)(torch.zeros(3, D)).shape == (3, 2)
    assert ImageHead(D)(torch.zeros(3, 2 * D)).shape == (3,)
    assert ImageHead(D)(torch.zeros(2, 3, 2 * D)).shape == (2, 3)


def test_heads_come_back_in_evaluation_mode(tmp_path):
    heads = made()
    save_heads(tmp_path / "heads", heads)
    found = load_heads(tmp_path / "heads", hidden_size=D)
    states = torch.randn(5, 2 * D)
    assert torch.equal(found.image(states), heads.image.eval()(states))
    assert torch.equal(found.semantic(states[:, :D]), heads.semantic.eval()(states[:, :D]))
    assert not any(weight.requires_grad for weight in found.semantic.parameters())
    assert (found.semantic_temperature, found.image_temperature) == (1.5, 0.5)
    assert found.metrics == {"image": {"ap": 0.5}}


def test_a_head_that_was_not_trained_is_none(tmp_path):
    save_heads(tmp_path, made(image=None))
    found = load_heads(tmp_path, hidden_size=D)
    assert found.image is None
    assert found.semantic is not None
    assert read_heads(tmp_path)["heads"] == ["semantic"]


def test_another_models_heads_are_refused_with_both_sizes(tmp_path):
    save_heads(tmp_path, made())
    with pytest.raises(ModelError, match=rf"found hidden size {D} \(trained on 'tiny@1'\), expected 32"):
        load_heads(tmp_path, hidden_size=32)


def test_weights_of_another_training_are_refused_with_both_shapes(tmp_path):
    save_heads(tmp_path, made(hidden_size=32, semantic=SemanticHead(32), image=ImageHead(32)))
    facts = read_heads(tmp_path) | {"hidden_size": D}
    (tmp_path / "heads.json").write_text(json.dumps(facts))
    with pytest.raises(ModelError, match=r"semantic\.layers\.0\.bias has shape \(32,\).*expected \(16,\)"):
        load_heads(tmp_path, hidden_size=D)


def test_a_missing_weight_is_refused(tmp_path):
    save_heads(tmp_path, made(image=None))
    facts = read_heads(tmp_path) | {"heads": ["semantic", "image"]}
    (tmp_path / "heads.json").write_text(json.dumps(facts))
    with pytest.raises(ModelError, match=r"image\.layers\.0\.bias has shape none"):
        load_heads(tmp_path, hidden_size=D)


@pytest.mark.parametrize(
    ("facts", "wrong"),
    [
        ("[]", "has a list, expected an object"),
        ("{", "no readable heads.json"),
        ('{"hidden_size": 1}', r"the keys \['hidden_size'\], expected"),
    ],
)
def test_facts_that_are_none_are_refused(tmp_path, facts, wrong):
    (tmp_path / "heads.json").write_text(facts)
    with pytest.raises(ModelError, match=wrong):
        read_heads(tmp_path)


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ({"early_layers": 0}, "early_layers 0, expected a whole number"),
        ({"image_temperature": 0.0}, r"image_temperature 0\.0, expected a number above 0"),
        ({"heads": ["router"]}, "the heads"),
    ],
)
def test_facts_out_of_range_are_refused(tmp_path, change, wrong):
    save_heads(tmp_path, made())
    (tmp_path / "heads.json").write_text(json.dumps(read_heads(tmp_path) | change))
    with pytest.raises(ModelError, match=wrong):
        read_heads(tmp_path)


def test_no_folder_at_all(tmp_path):
    with pytest.raises(ModelError, match="reelsift train routers"):
        load_heads(tmp_path / "none", hidden_size=D)
