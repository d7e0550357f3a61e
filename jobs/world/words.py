"""The tokenizer of the world's model: one token per word, and one per frame for its time."""

import re

from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from jobs.world.questions import CHOICES, QUARTERS, SIDES, WAYS, YES_NO
from jobs.world.scenes import SECONDS
from jobs.world.sprites import COLORS, DIGITS, SHAPES

PAD, END, UNKNOWN, IMAGE = "<pad>", "<end>", "<unk>", "<IMG_CONTEXT>"
MORE = "answer yes or no with one of these : . , ?"
"""Words of the prompts that are written around a question."""


def vocabulary() -> list[str]:
    """Return every token, in the order of their numbers."""
    words = [PAD, END, UNKNOWN, IMAGE]
    words += [f"<{second}s>" for second in range(SECONDS)]
    words += [str(number) for number in range(SECONDS)]
    for ways in WAYS.values():
        for way in ways:
            words += re.findall(r"\w+|[^\w\s]", way.format(a="", b="", t=""))
    words += [*MORE.split(), *SHAPES, *COLORS, *DIGITS, *QUARTERS, *SIDES, *YES_NO]
    words += [word for choices in CHOICES.values() for word in choices]
    return list(dict.fromkeys(words))


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Return the tokenizer.

    What stands between the placeholders of two frames, `</img>` and `<12.0s><img>`, becomes one token, the time in
    whole seconds.
    """
    tokenizer = Tokenizer(WordLevel({word: n for n, word in enumerate(vocabulary())}, UNKNOWN))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Lowercase(),
            normalizers.Replace(Regex(r"</img>\n?"), " "),
            normalizers.Replace(Regex(r"\.\ds><img>"), "s>"),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split(
        Regex(r"<\d+s>|\w+|[^\w\s]"), behavior="removed", invert=True
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=END, unk_token=UNKNOWN,
        extra_special_tokens=[IMAGE],
    )  # fmt: skip
