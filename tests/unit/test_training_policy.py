"""What a policy learns from a frozen model's answers, and that what it hides is as good as gone."""

import json

import numpy as np
import pytest
import torch

from jobs.training.joint import run, unlocked
from jobs.training.loop import train_epoch
from jobs.training.policy import HIDDEN_LOGIT, begin, measure_policy
from jobs.training.settings import PolicyConfig
from jobs.training.written import write_lesson
from pipeline.compress.policy import KeepPolicy, describe_policy, keep_by_policy
from pipeline.config import AnswerConfig, CompressConfig
from pipeline.errors import ModelError
from pipeline.tokens import whole_frames
from tests.tiny_models import VIDEO_LLMS, build
from tests.unit.test_training_joint import FRAME_PX, LESSONS, PIXELS, group


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build("internvl", tmp_path_factory.mktemp("model"))


def begun(folder, **changes):
    torch.manual_seed(0)
    answer = AnswerConfig(model=str(folder), frame_px=FRAME_PX, dtype="float32")
    return begin(PolicyConfig(answer=answer, **changes), "cpu")


def trained(keeping, steps):
    optimizer = torch.optim.AdamW(keeping.parameters(), lr=0.05)
    return [train_epoch(keeping, optimizer, iter([group(*LESSONS)]), 1, keeping) for _ in range(steps)]


def test_it_begins_with_almost_everything_and_a_high_price_leaves_little(folder):
    dear = begun(folder, price=50.0)
    first = measure_policy(dear, iter([group(*LESSONS)]))
    assert first["dev_answers"] == len(LESSONS)
    assert first["dev_retention"] > 0.9
    before = {name: weight.clone() for name, weight in dear.llm.model.state_dict().items()}
    losses = trained(dear, 30)
    assert losses[-1] < losses[0]
    # the first frame stays whole: of two or three frames no less than that
    assert measure_policy(dear, iter([group(*LESSONS)]))["dev_retention"] < 0.6
    assert all(torch.equal(weight, before[name]) for name, weight in dear.llm.model.state_dict().items())
    assert {name.partition(".")[0] for name, _ in dear.named_parameters()} == {"policy"}


def test_what_costs_next_to_nothing_is_kept_for_the_answers(folder):
    cheap = begun(folder, price=1e-6)
    before = measure_policy(cheap, iter([group(*LESSONS)]))
    trained(cheap, 10)
    after = measure_policy(cheap, iter([group(*LESSONS)]))
    assert after["dev_answer_loss"] <= before["dev_answer_loss"] + 1e-3


def test_every_weight_learns_from_the_answers_alone(folder):
    keeping = begun(folder, price=1e-9)
    keeping(group(*LESSONS)).backward()
    assert all(bool(weight.grad.abs().any()) for weight in keeping.parameters())


@pytest.mark.parametrize("kind", VIDEO_LLMS)
def test_a_hidden_token_is_as_good_as_gone(kind, tmp_path):
    build(kind, tmp_path, template=kind != "smolvlm")
    keeping = begun(tmp_path)
    llm, lesson = keeping.llm, LESSONS[0]
    whole = [(frame, llm.parts.tokens_per_frame) for frame in range(3)]

    def states(pixels, hidden):
        features = unlocked(llm.encode(pixels))
        written = write_lesson(llm, lesson, llm.reduce(features, [0, 1, 2], whole))
        assert len(written.visual_C) == 3 * llm.parts.tokens_per_frame
        bias_L = torch.zeros(len(written.segment.embeds_LD))
        bias_L[written.visual_C.unflatten(0, (3, -1))[hidden].flatten()] = -HIDDEN_LOGIT
        return run(llm.language.decoder, [written.segment], bias_L)[0]

    # deepstack adds to the very tokens, and a vision tower may look at all frames: only the last one is changed
    other = PIXELS.copy()
    other[2] = np.random.default_rng(1).integers(0, 255, other[2].shape)
    assert torch.allclose(states(PIXELS, [2]), states(other, [2]), atol=1e-3)
    assert not torch.allclose(states(PIXELS, []), states(other, []), atol=1e-3)


def test_what_was_trained_is_what_the_compressor_loads(folder, tmp_path):
    keeping = begun(folder, price=50.0)
    trained(keeping, 30)
    keeping.policy.save(tmp_path, {"price": 50.0})
    assert json.loads((tmp_path / "policy.json").read_text())["price"] == 50.0
    known_as = describe_policy(tmp_path)
    assert describe_policy(tmp_path) == known_as
    values = keeping.llm.encode(PIXELS).values_NKD
    tokens = whole_frames(values, keeping.llm.parts.grid)
    plan = [values.shape[1]] * len(values)
    settings = CompressConfig(compressor="policy", policy=str(tmp_path), prune_ratio=1.0)
    kept = torch.bincount(keep_by_policy(tokens, plan, settings).frame_N, minlength=3)
    with torch.no_grad():
        share = KeepPolicy.load(tmp_path)(KeepPolicy.features(values))[1:]
    assert kept[0] == values.shape[1]
    assert kept[1:].tolist() == (share * values.shape[1] - 1e-3).ceil().int().tolist()
    assert kept[1:].sum() < 2 * values.shape[1]
    begun(folder).policy.save(tmp_path)
    assert describe_policy(tmp_path) != known_as


def test_only_models_whose_tokens_can_be_hidden(tmp_path):
    from tests.tiny_models_any import build as build_any

    with pytest.raises(ModelError, match="video language models of known families"):
        begun(build_any("gemma3", tmp_path))
