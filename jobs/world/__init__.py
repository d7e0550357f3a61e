"""A world where the truth is exact: generated videos, questions with their evidence, a small model trained on them."""


def main(argv: list[str]) -> int:
    """Run `reelsift world`; see command.py."""
    from jobs.world import command

    return command.main(argv)
