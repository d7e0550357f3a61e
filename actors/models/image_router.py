"""Image routers: does a frame matter to a question, read from the first layers of the answerer's language model.

`early-layers` needs no training, `trained` has a small network behind the same layers, as VideoRouter (arXiv
2605.05848) does. Each frame is read with the question behind it, by itself; see shadow.py.

Shape letters: N frames.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from actors.models import Answerer, AnswererFacts, Floats, ScorerEntry
from actors.models.heads import ImageHead, load_heads
from actors.models.inside import check_heads, check_layers, check_model
from actors.models.shadow import Shadow
from actors.models.tables import describe_proposer, make_proposer
from pipeline.config import JobConfig
from pipeline.errors import ModelError
from pipeline.methods import Method

if TYPE_CHECKING:
    from actors.models.video_llm import FrameFeatures

METHOD_EARLY_LAYERS = Method(
    source="VideoRouter (arXiv 2605.05848), its Image Router without training",
    stage="score",
    what="of each proposed frame, read with the question in the first `plan.early_layers` layers of the answering"
    " model: how much of the question's last token's attention is on it; .5 is the mean plus half a standard deviation"
    " among the candidates of one (window, question), where they differ at all",
    differs="a stand-in: early attention was not made to tell relevance, and how well it does is unmeasured on large"
    " models. Compare with the proposer alone",
    needs=("embeddings", "language-model"),
    query_dependent=True,
    positions="none",
)
METHOD_TRAINED = Method(
    source="VideoRouter (arXiv 2605.05848), Image Router, with heads from `reelsift train routers` (`plan.heads`)",
    stage="score",
    what="the mean state of a frame's visual positions and the question's last state behind the same layers, a small"
    " network, a probability",
    differs="the paper copies the layers and does not say what is pooled; here they are the model's own and a frame's"
    " tokens are pooled to `plan.early_tokens` first. The paper looks at all frames, here at `score.candidates` of"
    " them",
    needs=("embeddings", "language-model", "weights"),
    query_dependent=True,
    training_free=False,
    positions="none",
)

BORDER_SD = 0.5
"""How many standard deviations above the mean of its candidates a frame's attention has to be, to count."""
STEEPNESS = 2.0
"""Of the squash: one standard deviation beyond the border is .88."""
LEAST_SPREAD = 1e-3
"""Standard deviation relative to the mean below which candidates do not differ: rounding of bfloat16 is larger."""


class OnFirstLayers:
    """The layers that a router reads, and what reading them costs."""

    def __init__(self, shadow: Shadow) -> None:
        self.shadow = shadow

    @property
    def num_tokens(self) -> int:
        """Tokens that went through the layers so far."""
        return self.shadow.num_tokens

    @property
    def work_bytes(self) -> int:
        """Memory that the layers take at most."""
        return self.shadow.work_bytes


class EarlyLayers(OnFirstLayers):
    """Untrained: how much of the question's attention a frame draws, compared with the other candidates.

    An attention weight means nothing by itself: it depends on the question's words, its length and the model. So the
    border is drawn among the candidates of one (window, question), at the mean plus half a standard deviation.
    """

    def relevance(
        self, features: "FrameFeatures", index: Sequence[int], times_s: Sequence[float], text: str
    ) -> Floats:
        """Return [N] in [0, 1]; see actors.models.ImageRouter, and `stand_out` for what the numbers mean."""
        return stand_out(self.shadow.attention(features, index, times_s, text).cpu().numpy())


class Trained(OnFirstLayers):
    """The image head behind the frame's states: the probability that the answer rests on it."""

    def __init__(self, shadow: Shadow, head: ImageHead, temperature: float) -> None:
        super().__init__(shadow)
        self.head = head.to(shadow.llm.language.device)
        self.temperature = temperature

    def relevance(
        self, features: "FrameFeatures", index: Sequence[int], times_s: Sequence[float], text: str
    ) -> Floats:
        """Return [N] in [0, 1]; see actors.models.ImageRouter."""
        states = self.shadow.frame_states(features, index, times_s, text)
        with torch.inference_mode():
            return torch.sigmoid(self.head(states) / self.temperature).cpu().numpy()


def stand_out(scores_N: Floats) -> Floats:
    """Return scores of any scale as [N] in [0, 1]: sigmoid(2 (z - 0.5)), z in standard deviations from the mean.

    .5 is the mean plus half a standard deviation, VideoRouter's rule for scores whose scale differs between questions.
    Where they do not differ, nothing stands out: all are 0. What is not finite stays so.
    """
    mean, spread = float(scores_N.mean()), float(scores_N.std())
    if spread <= LEAST_SPREAD * abs(mean):
        return np.zeros(len(scores_N), np.float32)
    z_N = (scores_N - mean) / spread
    return (1 / (1 + np.exp(-STEEPNESS * (z_N - BORDER_SD)))).astype(np.float32)


# --- entries of FRAME_SCORERS ----------------------------------------------------------------------------


def describe_early_layers(config: JobConfig, facts: AnswererFacts) -> str:
    """Return the name for the rows; reads the model's configuration.

    Raises:
        ConfigError: no model is named, one of no known family, or one of fewer layers.
    """
    who = "scorer 'early-layers'"
    check_layers(who, config, check_model(who, config, facts))
    return f"early-layers {config.plan.early_layers}x{config.plan.early_tokens}"


def make_early_layers(config: JobConfig, answerer: Answerer) -> EarlyLayers:
    """Return the untrained router beside a loaded video language model.

    Raises:
        ModelError: the model has fewer layers.
    """
    return EarlyLayers(_shadow(config, answerer))


EARLY_LAYERS = ScorerEntry(describe_proposer, make_proposer, make_early_layers, describe_early_layers)


def describe_trained(config: JobConfig, facts: AnswererFacts) -> str:
    """Return the name for the rows; reads the facts of the heads and the model's configuration.

    Raises:
        ConfigError: no model or no heads are named, or they do not fit each other.
        ModelError: see `read_heads`.
    """
    language = check_model("scorer 'trained'", config, facts)
    revision = check_heads("scorer 'trained'", "image", config, language)
    return f"trained {config.plan.early_layers}x{config.plan.early_tokens}@{revision}"


def make_trained(config: JobConfig, answerer: Answerer) -> Trained:
    """Return the trained router beside a loaded video language model.

    Raises:
        ModelError: the model has fewer layers; see `load_heads`; or there is no image head.
    """
    shadow = _shadow(config, answerer)
    heads = load_heads(config.plan.heads, hidden_size=shadow.hidden_size)
    if heads.image is None:
        msg = (
            f"trained heads {config.plan.heads!r} hold no image head; train one with `reelsift train routers`"
        )
        raise ModelError(msg)
    return Trained(shadow, heads.image, heads.image_temperature)


TRAINED = ScorerEntry(describe_proposer, make_proposer, make_trained, describe_trained)


def _shadow(config: JobConfig, answerer: Answerer) -> Shadow:
    from actors.models.video_llm import VideoLlm

    # `attach` lets no other through
    assert isinstance(answerer, VideoLlm)
    return Shadow(answerer, config.plan.early_layers, config.plan.early_tokens)
