"""Routers that read a question with the answerer's language model: the semantic router of VideoRouter.

`llm` asks the model as it is, `trained` puts a small trained network behind the model's first layers. Both see the
text of a question alone, neither its kind nor a video; each text is read by itself, so that its route does not depend
on what else is asked. A route is written down for good: a question that cannot be put to the model gets one that says
so, but what is the machine's or the weights' fault ends the run.

Shape letters: P texts, D hidden size.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import cast

import torch

from actors.device import halve_on_out_of_memory, is_out_of_memory
from actors.models import AnswererFacts, Device, RouterEntry, RouterFacts, video_llm
from actors.models.heads import FRAGMENT, GLOBAL, SemanticHead, load_heads
from actors.models.inside import check_heads, check_model
from actors.models.prompting import write_prompt
from actors.models.shadow import Shadow
from actors.models.video_llm import VideoLlm
from pipeline.config import JobConfig
from pipeline.errors import AnswerError, ModelError
from pipeline.methods import Method
from pipeline.queries import Query
from pipeline.route import Asked, Route, RouteManyFn

METHOD_LLM = Method(
    source="VideoRouter (arXiv 2605.05848), its two classes, without training",
    stage="route",
    what="the answering model is shown both definitions and the question, no frame; the likelihoods of the labels"
    " `whole` and `moments`, divided by those behind an empty question, become shares; the larger one is the route's"
    " confidence",
    differs="a stand-in: nothing is trained. Dividing by the empty question takes out which of the two words the model"
    " prefers anyway",
    needs=("language-model",),
    query_dependent=True,
    positions="none",
)
METHOD_TRAINED = Method(
    source="VideoRouter (arXiv 2605.05848), Semantic Router, with heads from `reelsift train routers` (`plan.heads`)",
    stage="route",
    what="the mean state of the question's own tokens behind the first `plan.early_layers` layers, a small network, two"
    " shares (divided by a temperature set on rows held back)",
    differs="the paper copies the layers and does not say how states are pooled, nor how wide the network is; here the"
    " layers are the model's own, states are averaged without the template's tokens, one hidden layer of 512",
    needs=("language-model", "weights"),
    query_dependent=True,
    training_free=False,
    positions="none",
)

LABELS = ("whole", "moments")
"""What `llm` lets the model choose from: global, fragment."""
DEFINITIONS = (
    "A question is asked about a video. Decide what has to be watched to answer it.\n"
    "whole: the answer needs the whole timeline, as for a summary, the plot, the order of events or a count over the"
    " video.\n"
    "moments: the answer lies in some frames of the video.\n"
    "Question: "
)
"""The two classes as the paper defines them."""


# --- llm: the model's own word ---------------------------------------------------------------------------


def describe_llm(config: JobConfig, facts: AnswererFacts) -> RouterFacts:
    """Return what the driver must know; reads nothing.

    Raises:
        ConfigError: no model is named, or one of no known family.
    """
    check_model("router 'llm'", config, facts)
    return RouterFacts("llm", needs_model=True)


def make_llm(config: JobConfig, device: Device) -> RouteManyFn:
    """Return the router with the answerer's weights on the device.

    Raises:
        ModelError: see `video_llm.make`.
    """
    return LabelRouter(_load(config, device))


LLM = RouterEntry(describe_llm, make_llm)


class LabelRouter:
    """Compares how likely the model finds either label behind the definitions and the question.

    A model likes one of two words better whatever is asked. The likelihoods are therefore divided by those behind an
    empty question, as for answers with `answer.remove_prior`; what remains is normalised to shares.
    """

    def __init__(self, llm: VideoLlm) -> None:
        """Ask the empty question.

        Raises:
            ModelError: the model finds no finite likelihood.
        """
        self.llm = llm
        try:
            self.prior = self._label_logs("")
        except AnswerError as error:
            raise _cannot_route(llm, error) from error

    def __call__(self, asked: Sequence[Asked]) -> list[Route]:
        """Return one route per question; one that the model cannot be asked is global with confidence 0.

        Raises:
            ModelError: memory does not suffice, or the model finds no finite likelihood.
        """
        return _by_text(self._route, asked)

    def _route(self, text: str) -> Route:
        try:
            logs = self._label_logs(text)
        except AnswerError as error:
            return _unread("llm", self.llm, error)
        return _decide("llm", torch.softmax(logs - self.prior, 0))

    def _label_logs(self, text: str) -> torch.Tensor:
        """Return the mean log-probability per token of each label, [2] float32.

        Raises:
            AnswerError: the text holds one of the model's own marks or is too long, or memory does not suffice.
            ModelError: the logits are not finite.
        """
        query = Query("route", DEFINITIONS + text, "choose", LABELS)
        question = self.llm.question(write_prompt(self.llm.parts, (), query), query)
        if why := self.llm.lacks_room(0, question):
            raise AnswerError(why)
        tree = self.llm.language.tree(question.num_tokens)
        language = self.llm.language
        [heard] = halve_on_out_of_memory(
            partial(language.put, tree), [question], "a question to route", language.out_of_memory
        )
        if heard.error:
            raise _cannot_route(self.llm, heard.error)
        return heard.label_logs


# --- trained: a network behind the first layers ----------------------------------------------------------


def describe_trained(config: JobConfig, facts: AnswererFacts) -> RouterFacts:
    """Return what the driver must know; reads the facts of the heads and the model's configuration.

    Raises:
        ConfigError: no model or no heads are named, or they do not fit each other.
        ModelError: see `read_heads`.
    """
    language = check_model("router 'trained'", config, facts)
    revision = check_heads("router 'trained'", "semantic", config, language)
    return RouterFacts(f"trained@{revision}", needs_model=True)


def make_trained(config: JobConfig, device: Device) -> RouteManyFn:
    """Return the router with the answerer's weights on the device and the heads beside them.

    Raises:
        ModelError: see `video_llm.make` and `load_heads`.
    """
    shadow = Shadow(_load(config, device), config.plan.early_layers, config.plan.early_tokens)
    heads = load_heads(config.plan.heads, hidden_size=shadow.hidden_size)
    if heads.semantic is None:
        msg = f"trained heads {config.plan.heads!r} hold no semantic head; train one with `reelsift train routers`"
        raise ModelError(msg)
    return TrainedRouter(shadow, heads.semantic, heads.semantic_temperature)


TRAINED = RouterEntry(describe_trained, make_trained)


class TrainedRouter:
    """Puts the semantic head behind the mean state of a question's tokens; only the first layers run."""

    def __init__(self, shadow: Shadow, head: SemanticHead, temperature: float) -> None:
        self.shadow = shadow
        self.head = head
        self.temperature = temperature

    def __call__(self, asked: Sequence[Asked]) -> list[Route]:
        """Return one route per question; one that the model cannot be asked is global with confidence 0.

        Raises:
            ModelError: memory does not suffice, or states are not finite.
        """
        return _by_text(self._route, asked)

    def _route(self, text: str) -> Route:
        try:
            states_PD = self.shadow.question_states([text])
        except AnswerError as error:
            return _unread("trained", self.shadow.llm, error)
        with torch.inference_mode():
            [logits] = self.head(states_PD.float().cpu()) / self.temperature
        if not bool(logits.isfinite().all()):
            raise _cannot_route(self.shadow.llm, "the states of its first layers are not finite numbers")
        return _decide("trained", torch.softmax(logits, 0))


# --- what both share -------------------------------------------------------------------------------------


def _load(config: JobConfig, device: Device) -> VideoLlm:
    """Return the answerer; its vision tower, which no router of questions runs, is not compiled."""
    return cast("VideoLlm", video_llm.make(replace(config.answer, compile=False), config.compress, device))


def _by_text(route: Callable[[str], Route], asked: Sequence[Asked]) -> list[Route]:
    """Return one route per question, each text routed once."""
    found = {text: route(text) for text in dict.fromkeys(text for text, _ in asked)}
    return [found[text] for text, _ in asked]


def _decide(name: str, shares: torch.Tensor) -> Route:
    """Return the route with the larger share, global when they are equal."""
    whole, moments = float(shares[GLOBAL]), float(shares[FRAGMENT])
    reason = f"{name}: {LABELS[GLOBAL]} {whole:.2f}, {LABELS[FRAGMENT]} {moments:.2f}"
    return Route("fragment" if moments > whole else "global", max(whole, moments), reason)


def _unread(name: str, llm: VideoLlm, error: AnswerError) -> Route:
    """Return the route of a question that the model cannot be asked: the whole window, and why.

    Raises:
        ModelError: memory does not suffice, which another run, or another machine, may have.
    """
    if error.__cause__ and is_out_of_memory(error.__cause__):
        raise _cannot_route(llm, error) from error
    return Route("global", 0.0, f"{name}: not asked, {error}")


def _cannot_route(llm: VideoLlm, why: AnswerError | str) -> ModelError:
    """Return the error of a model that no question can be put to."""
    return ModelError(
        f"model {llm.parts.files.name!r} cannot route questions: {why}; take another plan.router"
    )
