"""Image routers give [0, 1] with the border at .5, and are refused where there is nothing to look into."""

import numpy as np
import pytest
import torch

from actors.models import AnswererFacts, video_llm
from actors.models.heads import Heads, ImageHead, SemanticHead, save_heads
from actors.models.image_router import EarlyLayers, Trained, stand_out
from actors.models.shadow import Shadow
from actors.models.tables import FRAME_SCORERS, describe_scorer, find_answerer, find_proposer
from pipeline.config import AnswerConfig, CompressConfig, JobConfig, PlanConfig, ScoreConfig
from pipeline.errors import ConfigError, ModelError
from tests import tiny_models, tiny_models_any

FRAME_PX = 64
LAYERS, TOKENS = 2, 8
PIXELS = np.random.default_rng(0).integers(0, 255, (4, FRAME_PX, FRAME_PX, 3), dtype=np.uint8)
INDEX, TIMES_S, TEXT = (0, 2, 3), (1.0, 5.0, 60.0), "Is there a fire?"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(tiny_models.build("internvl", tmp_path_factory.mktemp("internvl")))


@pytest.fixture(scope="module")
def shadow(folder):
    config = AnswerConfig(model=folder, frame_px=FRAME_PX, dtype="float32")
    return Shadow(video_llm.make(config, CompressConfig(), "cpu"), LAYERS, TOKENS)


def write_heads(folder, hidden=tiny_models.HIDDEN, layers=LAYERS, tokens=TOKENS, *, image=True):
    torch.manual_seed(1)
    networks = {"semantic": SemanticHead(hidden), "image": ImageHead(hidden) if image else None}
    save_heads(folder, Heads(hidden, layers, tokens, **networks, image_temperature=2.0, model="tiny"))
    return str(folder)


def job(folder="", scorer="early-layers", **settings):
    score = {name: settings.pop(name) for name in ("proposer",) if name in settings}
    plan = PlanConfig(**{"early_layers": LAYERS, "early_tokens": TOKENS, **settings})
    return JobConfig(
        score=ScoreConfig(scorer=scorer, **score), plan=plan, answer=AnswerConfig(model=folder, frame_px=64)
    )


def describe(config):
    """Return what the driver does before Ray starts."""
    return describe_scorer(config, find_answerer(config.answer).describe(config.answer))


def test_what_stands_out_is_above_a_half():
    found = stand_out(np.array([0.1, 0.1, 0.1, 0.1, 0.3], np.float32))
    assert (found >= 0.5).tolist() == [False] * 4 + [True]
    assert ((found >= 0) & (found <= 1)).all()


def test_the_border_is_half_a_deviation_above_the_mean_whatever_the_scale():
    scores_N = np.random.default_rng(0).normal(size=400).astype(np.float32)
    relevant_N = stand_out(scores_N) >= 0.5
    assert relevant_N.tolist() == (scores_N >= scores_N.mean() + scores_N.std() / 2).tolist()
    assert stand_out(scores_N * 7 + 100) == pytest.approx(stand_out(scores_N), abs=1e-3)
    assert (np.diff(stand_out(np.sort(scores_N))) >= 0).all()


@pytest.mark.parametrize("scores", [[0.2], [0.2, 0.2, 0.2], [0.0, 0.0]])
def test_where_nothing_differs_nothing_stands_out(scores):
    assert stand_out(np.array(scores, np.float32)).tolist() == [0.0] * len(scores)


def test_early_layers_rank_by_attention(shadow):
    features = shadow.llm.encode(PIXELS)
    found = EarlyLayers(shadow).relevance(features, INDEX, TIMES_S, TEXT)
    attention_N = shadow.attention(features, INDEX, TIMES_S, TEXT).numpy()
    assert np.argsort(found).tolist() == np.argsort(attention_N).tolist()
    assert found.dtype == np.float32
    assert 0 <= found.min() < 0.5 < found.max() <= 1


def test_a_trained_head_gives_its_calibrated_probability(shadow):
    torch.manual_seed(0)
    head = ImageHead(shadow.hidden_size).eval()
    features = shadow.llm.encode(PIXELS)
    router = Trained(shadow, head, 2.0)
    before = router.num_tokens
    found = router.relevance(features, INDEX, TIMES_S, TEXT)
    assert router.num_tokens > before
    with torch.no_grad():
        logits = head(shadow.frame_states(features, INDEX, TIMES_S, TEXT))
    assert found == pytest.approx(torch.sigmoid(logits / 2).numpy(), abs=1e-6)


def test_the_work_is_bounded_by_frames_per_call(shadow):
    """Whatever the number of candidates; deeper or finer costs more."""
    router = EarlyLayers(shadow)
    assert 0 < router.work_bytes < EarlyLayers(Shadow(shadow.llm, LAYERS + 1, TOKENS)).work_bytes


def test_the_driver_hears_of_both_halves(folder, tmp_path):
    entry, facts = describe(job(folder))
    assert entry.refine is not None
    assert facts.name.startswith("early-layers 2x8 after embedded")
    assert not facts.uses_gpu
    heads = write_heads(tmp_path / "heads")
    _, trained = describe(job(folder, "trained", heads=heads))
    write_heads(heads, image=True)
    torch.manual_seed(5)
    save_heads(heads, Heads(tiny_models.HIDDEN, LAYERS, TOKENS, None, ImageHead(tiny_models.HIDDEN)))
    _, other = describe(job(folder, "trained", heads=heads))
    assert trained.name.startswith("trained 2x8@")
    assert trained.name != other.name


def test_a_scorer_that_refines_nothing_is_described_as_ever():
    config = JobConfig()
    entry, facts = describe(config)
    assert entry.refine is None
    assert facts == FRAME_SCORERS["embedded"].describe(config.score)


@pytest.mark.parametrize("proposer", ["early-layers", "trained"])
def test_a_proposer_does_not_need_proposals_itself(folder, proposer):
    with pytest.raises(
        ConfigError, match=r"cannot propose any; expected one of auto, embedded, dual-encoder"
    ):
        describe(job(folder, proposer=proposer))


def test_auto_proposes_as_auto_scores():
    assert find_proposer(ScoreConfig(scorer="early-layers")) is FRAME_SCORERS["embedded"]
    assert find_proposer(ScoreConfig(scorer="trained", model="clip")) is FRAME_SCORERS["dual-encoder"]


@pytest.mark.parametrize("scorer", ["early-layers", "trained"])
def test_without_a_model_there_is_nothing_to_look_into(tmp_path, scorer):
    heads = write_heads(tmp_path / "heads")
    words = r"none is named; set --answer.model. Scorers that fit this job: embedded, dual-encoder, external$"
    with pytest.raises(ConfigError, match=words):
        describe(job("", scorer, heads=heads))


@pytest.mark.parametrize("scorer", ["early-layers", "trained"])
def test_a_model_of_no_known_family_is_refused(tmp_path, scorer):
    heads = write_heads(tmp_path / "heads")
    facts = AnswererFacts("strange", "", 16, None, cuts_frames=False)
    with pytest.raises(ConfigError, match=r"known family \(.*internvl.*that fit this job: embedded, dual-"):
        describe_scorer(job("strange", scorer, heads=heads), facts)


def test_an_any_llm_cannot_cut_frames(tmp_path):
    """What the refusal above goes by."""
    kind = next(iter(tiny_models_any.BUILDERS))
    folder = str(tiny_models_any.build(kind, tmp_path / kind))
    with pytest.raises(ConfigError, match="is of none"):
        describe(job(folder))


def test_more_layers_than_there_are_are_refused(folder):
    with pytest.raises(ConfigError, match=r"first 4 layers of .* has 3; lower --plan.early-layers"):
        describe(job(folder, early_layers=4))


@pytest.mark.parametrize(
    ("trained", "words"),
    [
        ({"hidden": 32}, "hidden_size 32.*this job has 64; train heads on"),
        ({"layers": 1}, "early_layers 1.*this job has 2; set --plan.early-layers 1"),
        ({"tokens": 64}, "early_tokens 64.*this job has 8; set --plan.early-tokens 64"),
        ({"image": False}, r"holds the heads \['semantic'\], expected 'image'"),
    ],
)
def test_heads_must_fit_the_model_and_the_settings(folder, tmp_path, trained, words):
    heads = write_heads(tmp_path / "heads", **trained)
    with pytest.raises(ConfigError, match=words) as error:
        describe(job(folder, "trained", heads=heads))
    assert str(error.value).endswith(
        "Scorers that fit this job: embedded, dual-encoder, external, early-layers"
    )


def test_trained_needs_heads(folder, tmp_path):
    with pytest.raises(ConfigError, match=r"name their folder with --plan.heads.*early-layers$"):
        describe(job(folder, "trained"))
    with pytest.raises(ModelError, match=r"no readable heads.json.*fit this job: .*early-layers$"):
        describe(job(folder, "trained", heads=str(tmp_path)))
