"""SAVEMem's middle tier: Otsu's threshold, cuts, and what probes spare."""

from dataclasses import replace

import pytest
import torch

from pipeline.compress import TOKEN_COMPRESSORS
from pipeline.compress.savemem import cuts, otsu_thresholds
from pipeline.config import CompressConfig
from pipeline.tokens import whole_frames

WHATEVER = CompressConfig(prune_ratio=1.0)


def test_otsu_parts_two_heaps():
    """Distances of .1 and 1.5 are in bins 6 and 96; between is nothing, and the lower class ends with its last bin."""
    distance = torch.tensor([[0.1] * 5 + [1.5] * 3, [0.1] * 8, [2.0] * 7 + [0.0]], dtype=torch.float64)
    assert otsu_thresholds(distance) == pytest.approx([6.5 / 64, 0.1, 0.5 / 64])
    assert otsu_thresholds(torch.zeros(0, 4, dtype=torch.float64)) == []


def test_cuts_are_far_off_by_history_and_at_all():
    means = torch.tensor([0.5, 0.5, 0.74, 0.9, 0.01, 0.01], dtype=torch.float64)
    assert cuts(means).tolist() == [False, False, False, True, False, False]
    # three times the average, and still alike
    assert cuts(torch.tensor([0.05, 0.05, 0.15, 0.4], dtype=torch.float64)).tolist() == [
        False,
        False,
        False,
        True,
    ]
    assert cuts(torch.zeros(0, dtype=torch.float64)).tolist() == []


def test_what_moves_by_one_place_is_recognised():
    """A picture that turns about itself by one column: dtd sees a new one, the neighbourhood does not."""
    values = torch.randn(1, 4, 8, 64, generator=torch.Generator().manual_seed(0))
    values = torch.cat([values, values.roll(1, 2)])
    values[1, :, 0] = values[0, :, 0]  # nothing comes in from the other side
    tokens = whole_frames(values.flatten(1, 2), (4, 8))
    assert TOKEN_COMPRESSORS["savemem"](tokens, [32, 32], WHATEVER).source_N.tolist() == list(range(32))
    assert len(TOKEN_COMPRESSORS["dtd"](tokens, [32, 32], CompressConfig(threshold=0.8)).source_N) > 32 + 20


def test_rows_do_not_run_into_each_other():
    """The last place of a row and the first of the next are no neighbours."""
    values = torch.eye(4, dtype=torch.float64)[None].repeat(2, 1, 1)
    values[1, 2] = values[0, 1]  # of a 2 x 2 grid: below is a neighbour, whatever the column
    values[1, 3] = values[0, 0]
    two = TOKEN_COMPRESSORS["savemem"](whole_frames(values, (2, 2)), [4, 4], CompressConfig(threshold=0.5))
    assert two.source_N.tolist() == [0, 1, 2, 3]
    values = torch.eye(6, dtype=torch.float64)[None].repeat(2, 1, 1)
    values[1, 3] = values[0, 2]  # of a 2 x 3 grid: row 0 column 2, and row 1 column 0
    three = TOKEN_COMPRESSORS["savemem"](whole_frames(values, (2, 3)), [6, 6], CompressConfig(threshold=0.5))
    assert three.source_N.tolist() == [0, 1, 2, 3, 4, 5, 9]


def test_what_questions_may_be_about_is_spared():
    values = torch.eye(4, dtype=torch.float64)[None].repeat(2, 1, 1)
    # a cosine of .756 to its place: less .15 times .756 for the token that the probe names, .15 times .378 for others
    values[1] += 0.5 * (1 - values[1])
    tokens = whole_frames(values, (1, 4))
    settings = CompressConfig(threshold=0.69)
    assert TOKEN_COMPRESSORS["savemem"](tokens, [4, 4], settings).source_N.tolist() == [0, 1, 2, 3]
    tokens = replace(tokens, probes_PD=5.0 * values[0, 1:2])
    assert TOKEN_COMPRESSORS["savemem"](tokens, [4, 4], settings).source_N.tolist() == [0, 1, 2, 3, 5]


def test_a_cut_is_kept_whole_and_no_more_goes_than_allowed():
    generator = torch.Generator().manual_seed(0)
    scenes = torch.randn(2, 1, 16, 64, generator=generator).repeat_interleave(6, 0).flatten(0, 1)
    values = scenes + 0.1 * torch.randn(12, 16, 64, generator=generator)
    counts = [
        torch.bincount(
            TOKEN_COMPRESSORS["savemem"](
                whole_frames(values, (4, 4)), [16] * 12, CompressConfig(prune_ratio=ratio, scope="frame")
            ).frame_N,
            minlength=12,
        ).tolist()
        for ratio in (1.0, 0.5, 0.0)
    ]
    assert counts == [[16] + [0] * 5 + [16] + [0] * 5, [16] + [8] * 5 + [16] + [8] * 5, [16] * 12]
