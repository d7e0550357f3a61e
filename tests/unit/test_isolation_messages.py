"""What a worker believes of what its decoding child says: nothing that makes no sense."""

import pytest

from pipeline import isolation
from tests.reading import SIZE

SAMPLE = {"wanted_s": 0.0, "pts_s": 0.0, "off_s": 0.0, "is_key": True, "quality": "ok", "reason": ""}
PIXELS = bytes(96 * 160 * 3)


@pytest.mark.parametrize(
    ("changes", "shape", "pixels"),
    [
        ({}, [96, 160, 3], PIXELS[:-1]),
        ({}, [96, 160, 4], bytes(96 * 160 * 4)),
        ({}, [95, 160, 3], bytes(95 * 160 * 3)),
        ({}, [-1, 160, 3], PIXELS),
        ({}, [96, 160], PIXELS),
        ({}, "abc", PIXELS),
        ({}, 7, PIXELS),
        ({}, {"96": 1}, PIXELS),
        ({"pts_s": float("nan")}, [96, 160, 3], PIXELS),
        ({"pts_s": "soon"}, [96, 160, 3], PIXELS),
        ({"wanted_s": None}, [96, 160, 3], PIXELS),
        ({"quality": "great"}, None, b""),
        ({"reason": 5}, None, b""),
        ({"reason": "x" * 2**20}, None, b""),
        ({"reason": "\ud800"}, None, b""),
        ({"wanted_s": 10**400}, None, b""),
        ({}, [96.5, 160, 3], PIXELS),
    ],
)
def test_pictures_that_make_no_sense_are_not_believed(changes, shape, pixels):
    answers = iter([({"is": "shot", "sample": SAMPLE | changes, "shape": shape}, bytearray(pixels))])
    with pytest.raises(isolation.BrokenChildError, match="makes no sense"):
        isolation._frames(answers, SIZE, 3)


def test_times_that_go_back_are_not_believed():
    shots = [({"is": "shot", "sample": SAMPLE | {"pts_s": s}, "shape": [96, 160, 3]}, PIXELS) for s in (2, 1)]
    with pytest.raises(isolation.BrokenChildError, match="increase"):
        isolation._frames(iter(shots), SIZE, 3)


def test_samples_without_pictures_end_too():
    shots = iter([({"is": "shot", "sample": SAMPLE, "shape": None}, bytearray())] * 4)
    with pytest.raises(isolation.BrokenChildError, match="more than 3 samples"):
        isolation._frames(shots, SIZE, 3)


COLUMNS = {
    "container": "mov", "codec": "h264", "width_px": 160, "height_px": 96, "rotation_deg": 0, "fps": 30.0,
    "start_s": 0.0, "duration_s": 3.0, "num_packets": 90, "key_times_s": [0.0, 1.5, 3.0], "clock_restarts": False,
    "status": "ok", "note": "",
}  # fmt: skip


def probed(columns: object) -> dict:
    return isolation._columns(iter([({"is": "probed", "columns": columns}, bytearray())]))


def test_columns_of_a_video_are_believed():
    assert probed(COLUMNS) == COLUMNS


@pytest.mark.parametrize("missing", COLUMNS)
def test_columns_are_all_there(missing):
    with pytest.raises(isolation.BrokenChildError, match="makes no sense"):
        probed({name: value for name, value in COLUMNS.items() if name != missing})


@pytest.mark.parametrize(
    "columns",
    [
        None, [], [7], [99], "ok", {}, COLUMNS | {"codec": "\ud800"},
        {"status": "ok"}, COLUMNS | {"status": "great"}, COLUMNS | {"duration_s": None},
        COLUMNS | {"duration_s": "long"}, COLUMNS | {"key_times_s": 5}, COLUMNS | {"codec": 1},
        COLUMNS | {"width_px": 2**40}, COLUMNS | {"width_px": 2**80}, COLUMNS | {"no_such_column": 1},
        COLUMNS | {"uri": "s3://other/secret.mp4"}, COLUMNS | {"video_id": "f" * 16},
        COLUMNS | {"error_type": "X"}, COLUMNS | {"size_bytes": 5, "etag": ""},
        COLUMNS | {"key_times_s": [None, 1.0]}, COLUMNS | {"key_times_s": [0.0, float("nan")]},
        COLUMNS | {"key_times_s": [2.0, 1.0]}, COLUMNS | {"key_times_s": [1.0, float("inf")]},
        COLUMNS | {"key_times_s": [-1.0]}, COLUMNS | {"key_times_s": [3.5]},
        COLUMNS | {"key_times_s": [0.0] * 100_001}, COLUMNS | {"key_times_s": {"a": 1}},
        COLUMNS | {"note": "x" * 10_001}, COLUMNS | {"fps": float("nan")}, COLUMNS | {"fps": [1]},
        COLUMNS | {"duration_s": float("inf")}, COLUMNS | {"width_px": 0}, COLUMNS | {"num_packets": -1},
    ],
)  # fmt: skip
def test_columns_that_make_no_sense_are_not_believed(columns):
    with pytest.raises(isolation.BrokenChildError, match="makes no sense"):
        probed(columns)
