"""What a machine may lack for a test that has no substitute."""

import os
from typing import NoReturn

import pytest


def lacking(reason: str) -> NoReturn:
    """Skip the test, saying what to install or allow; fail it where REELSIFT_FAIL_ON_SKIP=1, as CI sets it."""
    if os.environ.get("REELSIFT_FAIL_ON_SKIP") == "1":
        pytest.fail(reason)
    # `make test` has to pass where nobody may install system packages or mount a disk; CI may, and lets no skip pass
    pytest.skip(reason)
