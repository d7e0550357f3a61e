"""Why rows failed, counted by reason, within bounded memory."""

from collections import Counter

from pipeline.rows import Row

MOST = 10_000
"""Different reasons that are kept apart; further ones count as one."""
OTHER = "other reasons"


def count_reason(reasons: Counter[str], what: str, row: Row) -> str:
    """Count why a row failed; return the reason, the same text for the same reason on another file.

    Args:
        reasons: what is counted so far; grows by one.
        what: kind of row, as `video`.
        row: with `error_type`, `error_message` and `uri`.
    """
    reason = f"{what}: {row['error_type']}: {row['error_message'].replace(row['uri'], '<file>')}"
    if reason not in reasons and len(reasons) >= MOST:
        reason = OTHER
    reasons[reason] += 1
    return reason
