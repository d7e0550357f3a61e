"""What a question must not hold: the marks with which a model's prompts are built.

A tokenizer reads them wherever they stand. A question that held one could end the user's turn, begin the answer, or
show a frame that is not there.
"""

from typing import Any

from pipeline.errors import AnswerError


class Marks:
    """The marks of one model; see the module."""

    def __init__(self, tokenizer: Any, blank: str, image: str) -> None:
        """Collect a tokenizer's special tokens, what the template writes around a question, and the image's mark.

        Args:
            tokenizer: the model's.
            blank: the prompt of an empty question.
            image: the text of an image, or of one of its tokens, in a prompt.
        """
        self._tokenizer = tokenizer
        self._image = image
        self._text_of: dict[int, str] = {
            number: token.content
            for number, token in tokenizer.added_tokens_decoder.items()
            if token.special or token.content in blank
        }
        # stands for what the tokenizer does not know too: a mark only where it is written out
        self._unknown = self._text_of.pop(tokenizer.unk_token_id, "")

    def check(self, asked: str) -> None:
        """Refuse a question that holds a mark, also where the tokenizer's normalisation makes one of it.

        Raises:
            AnswerError: which one it holds.
        """
        ids = self._tokenizer(asked, add_special_tokens=False)["input_ids"]
        found = next((self._text_of[number] for number in ids if number in self._text_of), "")
        written = (mark for mark in (self._image, self._unknown) if mark and mark in asked)
        if mark := found or next(written, ""):
            msg = (
                f"the question holds {mark!r}, a mark with which this model's prompts are built; take it out"
            )
            raise AnswerError(msg)
