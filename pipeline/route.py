"""Does a question need the whole video or some moments of it? What a router is, and one that needs no model.

A route depends on the text and the kind only, never on the video: it is decided once for each distinct question.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from pipeline.budget import RouteName
from pipeline.methods import Method
from pipeline.queries import Kind

METHOD = Method(
    source="VideoRouter (arXiv 2605.05848), the two classes of its Semantic Router",
    stage="route",
    what="global for summaries, main idea, order, counts over the video, and questions that name nothing to look for;"
    " fragment for the rest",
    differs="the paper trains a head on the first layers of the language model (98.2 % on its own labels); these are"
    " word patterns for English, unmeasured against those labels, which are not public. Text in another script gets"
    " confidence 0.5 and with it the global plan",
    query_dependent=True,
    positions="none",
)


@dataclass(frozen=True, slots=True)
class Route:
    """What the router says about one question."""

    route: RouteName
    confidence: float
    """In [0, 1]; below budget.MIN_ROUTE_CONFIDENCE the planner shows the whole window."""
    reason: str
    """Which router spoke, and why: `rules: asks for a summary`."""


Asked = tuple[str, Kind]
"""A question as routers see it: its text and its kind."""


class RouteFn(Protocol):
    """Tell whether a question is about the whole video (global) or about moments (fragment). Pure."""

    def __call__(self, text: str, kind: Kind) -> Route: ...


class RouteManyFn(Protocol):
    """Do so for many questions at once, in their order; a route must not depend on what else is asked."""

    def __call__(self, asked: Sequence[Asked]) -> list[Route]: ...


_VIDEO = r"(?:video|clip|film|movie|recording|footage|episode|scene)"
_EVENTS = r"(?:events?|actions?|steps?|activities|scenes?|things)"

HOLISTIC: tuple[tuple[str, float, str], ...] = (
    ("asks for a summary", 0.95, r"summari[sz]e|sum up|(?:summary|synopsis|overview|recap|gist) of"),
    ("asks for a summary", 0.9, r"(?:give|write|provide|produce)\b.*\b(?:summary|synopsis|overview|recap)"),
    ("asks for a summary", 0.9, r"tl;?dr|walk me through|(?:brief|short|general|detailed) description"),
    ("asks for a summary", 0.9, r"(?:caption|title|headline) (?:for|fits|suits|best)|describe everything"),
    ("asks for a summary", 0.9, rf"tell me about (?:the|this) {_VIDEO}|list (?:all |the |main )*{_EVENTS}(?! on| in)"),
    ("is about the whole", 0.95, rf"(?:entire|whole|full|complete) {_VIDEO}"),
    ("is about the whole", 0.9, r"(?:over|during) the (?:entire|whole|full)|(?:beginning|start) and (?:the )?end\b"),
    ("is about the whole", 0.9, r"from (?:the )?(?:start|beginning) (?:to|until|through)"),
    ("is about the whole", 0.9, rf"throughout|over the course of|(?<!an )overall\b|describes? (?:the|this) {_VIDEO}"),
    ("is about the whole", 0.9, rf"what (?:is|was|does) (?:the|this) {_VIDEO} (?:\w+ )?about"),
    ("is about the whole", 0.8, rf"what (?:happens|is happening|happened|is going on) in (?:the|this) {_VIDEO}"),
    ("asks for the main idea", 0.95, r"(?:main|central|overall|general|key|primary) (?:idea|theme|topic|subject|point"
                                     r"|message|purpose|plot|story|focus|event|activity|character)"),
    ("asks for the main idea", 0.85, r"(?:what|which|identify|name)\b.*\b(?:theme|topic|genre|mood|moral)\b(?! park)"),
    ("asks for the main idea", 0.85, rf"(?:purpose|message|subject|story|point) of (?:the|this) {_VIDEO}"),
    ("asks for the main idea", 0.85, rf"(?:kind|type|sort) of {_VIDEO} (?:is|was)\b|(?:conclude|infer)\w*\b.*{_VIDEO}"),
    ("asks for the main idea", 0.85, r"key (?:moments|takeaways|steps)|takeaway|explain the (?:plot|story|message)"),
    ("asks for the main idea", 0.8, r"(?:plot|storyline|story arc|narrative) of|tell\b.*\bstory|mainly|primarily"),
    ("asks for an order", 0.95, rf"(?:order|sequence|timeline|chronology) of (?:the |these |all )*{_EVENTS}"),
    ("asks for an order", 0.95, r"(?:in (?:what|which)|correct|chronological|temporal) (?:order|sequence)"),
    ("asks for an order", 0.9, rf"(?:arrange|sort|rank|order) (?:the|these|all)\b.*\b{_EVENTS}"),
    ("asks for an order", 0.7, r"(?:happens?|happened|comes?|came|appears?|appeared|occurs?|occurred) (?:first|last)"),
    ("asks for an order", 0.9, r"in the (?:right|proper|original) order|put\b.*\bin order\b(?! to)|what are the steps"),
    ("counts over the whole", 0.95, r"how many times|how often|(?:total|overall) (?:number|count) of"),
    ("counts over the whole", 0.9, r"how many\b.*\b(?:in total|altogether|in all|across)"),
    ("counts over the whole", 0.8, rf"(?:^|please )count\b|how many\b.*\bin (?:the|this) {_VIDEO}"),
    ("asks how things develop", 0.85, r"how (?:do|does|did|has|have)\b.*\b(?:change|changed|develop|developed|evolve"
                                      r"|evolved|progress|progressed)\b"),
    ("asks how things develop", 0.75, r"over time|gradually"),
)  # fmt: skip
"""What makes a question holistic: reason, confidence, pattern (whole words, case ignored). The first that matches
speaks. Confidences are hand-set strengths, not measured frequencies."""

_WORDS = (
    "a about am an and any anything are as at be being by can camera clip could describe did do does doing during"
    " everything explain film footage for from give go goes going happen happened happening happens has have here"
    " how i in is it its me movie of on or please recording scene see seen show shown shows some something tell that"
    " the there these they thing things this to us video was watch we were what whats when where which who why will"
    " with you your"
)
FUNCTION_WORDS = frozenset(_WORDS.split())
"""Words that name nothing one could look for in a picture."""

_COMPILED = tuple(
    (reason, confidence, re.compile(rf"\b(?:{pattern})", re.IGNORECASE))
    for reason, confidence, pattern in HOLISTIC
)


def route_by_rules(text: str, kind: Kind) -> Route:
    """Return the route of a question written in English.

    VideoRouter (arXiv 2605.05848) trains a two-class head on the question; this is its stand-in without training,
    with the same two definitions: global = the answer needs the whole timeline (summary, main idea, order, count
    over the video), fragment = it lies in some frames. Unlike the trained head it reads words, not meaning.

    `find` and `flag` look for moments unless their text is holistic. A question without a content word ("what is
    going on here?") is global. Text mostly in another script is called fragment with confidence 0.5, which the
    planner treats as global: the rules cannot read it.
    """
    for reason, confidence, pattern in _COMPILED:
        if pattern.search(text):
            return Route("global", confidence, f"rules: {reason}")
    if kind in ("find", "flag"):
        return Route("fragment", 0.9, f"rules: {kind} looks for moments")
    letters = [letter for letter in text if letter.isalpha()]
    if 2 * sum(letter.isascii() for letter in letters) < len(letters):
        return Route("fragment", 0.5, "rules: not written in English")
    words = re.findall(r"[^\W\d_]+", text.lower().replace("'", "").replace("\u2019", ""))
    if all(word in FUNCTION_WORDS for word in words):
        return Route("global", 0.8, "rules: names nothing to look for")
    return Route("fragment", 0.8, "rules: names something to look for")
