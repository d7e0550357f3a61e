"""Text from strangers (file names, messages about them, answers) on one line of a terminal."""


def printable(text: str) -> str:
    r"""Return a text with line breaks, control and other invisible characters written as `\n`, `\x1b`, `\u2028`."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
