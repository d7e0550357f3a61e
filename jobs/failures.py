"""What a failed Ray task raised: Ray hands it on only as the text of its trace."""

import logging
import re

from pipeline import errors
from pipeline.errors import JobError

logger = logging.getLogger(__name__)


def unwrapped(error: BaseException) -> JobError:
    """Return the project's own error inside a failed Ray task, or one that says what Ray said; the trace is logged."""
    trace = str(error)
    logger.error("a stage failed:\n%s", trace)
    ours = re.findall(r"^pipeline\.errors\.(\w+): (.*?)$(?=\n\n|\Z)", trace, re.MULTILINE | re.DOTALL)
    if ours:
        name, message = ours[-1]
        kind = getattr(errors, name, JobError)
        return kind(message) if issubclass(kind, JobError) else JobError(f"{name}: {message}")
    first = trace.split("The above exception was the direct cause")[0].strip().splitlines()
    return JobError(f"the run broke: {first[-1] if first else type(error).__name__}; what is committed stays")
