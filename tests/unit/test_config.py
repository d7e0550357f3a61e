"""Settings validate, round-trip, and a fingerprint covers what changes results."""

import dataclasses

import pytest

from pipeline.config import (
    AnswerConfig,
    CompressConfig,
    JobConfig,
    PlanConfig,
    PoolConfig,
    WindowConfig,
    deciding,
    differences,
    dump,
    fingerprint,
    load,
)
from pipeline.errors import ConfigError


def test_settings_round_trip():
    config = JobConfig(window=WindowConfig(length_s=60, sample_fps=2), answer=AnswerConfig(model="/m"))
    assert load(dump(config)) == config


def test_unknown_keys_and_wrong_ranges_are_refused():
    with pytest.raises(ConfigError, match="typo"):
        load({"window": {"typo": 1}})
    with pytest.raises(ValueError, match="greater than 0"):
        WindowConfig(length_s=0)
    with pytest.raises(ConfigError, match="max_size 1 is below min_size 2"):
        PoolConfig(min_size=2)


def test_fingerprint_follows_results_and_nothing_else():
    base = JobConfig()
    pools = dataclasses.replace(
        base, answer=AnswerConfig(pool=PoolConfig(max_size=4)), max_failed_fraction=0.5
    )
    assert fingerprint(pools) == fingerprint(base)
    assert fingerprint(JobConfig(plan=PlanConfig(heads="moved/heads"))) == fingerprint(base)
    here, moved = (CompressConfig(compressor="policy", policy=folder) for folder in ("here", "moved"))
    assert fingerprint(JobConfig(compress=here)) == fingerprint(JobConfig(compress=moved))
    other = JobConfig(window=WindowConfig(sample_fps=2), max_failed_fraction=0.5)
    assert fingerprint(other) != fingerprint(base)
    assert differences(deciding(dump(base)), deciding(dump(other))) == ["window.sample_fps: 1.0 -> 2.0"]


def test_differences_name_the_path():
    other = JobConfig(window=WindowConfig(sample_fps=2))
    assert differences(dump(JobConfig()), dump(other)) == ["window.sample_fps: 1.0 -> 2.0"]


def test_a_window_fits_into_memory():
    with pytest.raises(ConfigError, match="36000 frames, more than 4096"):
        WindowConfig(length_s=3600, sample_fps=10)


def test_an_empty_stop_string_would_end_every_answer():
    with pytest.raises(ValueError, match="at least 1 character"):
        AnswerConfig(stop=("",))
