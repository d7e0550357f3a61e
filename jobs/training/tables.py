"""The columns of labels and states, as Arrow schemas; like those of pipeline/rows.py they end in the error columns.

Names of QTR (which policy serves a question) and FLR (which frames matter to it) follow VideoRouter's data sets.
"""

import pyarrow as pa

from pipeline.rows import ARRAY

_ERROR = [("error_type", pa.string()), ("error_message", pa.string())]
_TEXTS = pa.list_(pa.string())
_ASKED = [("kind", pa.string()), ("choices", _TEXTS), ("split", pa.string())]
_PROBED = [
    ("right_global", pa.bool_()), ("right_fragment", pa.bool_()),
    ("likelihood_global", pa.float32()), ("likelihood_fragment", pa.float32()),
]  # fmt: skip

QTR = pa.schema(
    [
        ("id", pa.string()), ("video", pa.string()), ("duration_s", pa.float64()), ("question", pa.string()),
        ("answer", pa.string()), ("category", pa.string()), ("policy", pa.string()), ("acc_global", pa.float64()),
        ("acc_fragment", pa.float64()), ("audited", pa.bool_()), *_PROBED, *_ASKED, *_ERROR,
    ]
)  # fmt: skip
"""One row per question. `policy` is global or fragment, whichever answered more of the `category` right: `acc_*` are
the shares. `right_*` and `likelihood_*` are this question's own. Nobody has checked the labels: `audited` is false."""

NECESSITY = pa.struct([("masked_answerable", pa.bool_())])
FLR = pa.schema(
    [
        ("id", pa.string()), ("video", pa.string()), ("fps_sampled", pa.float64()),
        ("frame_pts_s", pa.list_(pa.float64())), ("question", pa.string()), ("answer", pa.string()),
        ("relevant", pa.list_(pa.int32())), ("necessity", NECESSITY), ("source_caption_ids", _TEXTS),
        ("audited", pa.bool_()), ("category", pa.string()), *_ASKED, *_ERROR,
    ]
)  # fmt: skip
"""One row per question. `relevant` points into `frame_pts_s`. With `necessity.masked_answerable` the question is still
answered when these frames are not shown: such a row says nothing about which frames matter. `source_caption_ids` is
empty: no caption is used."""

GROUP = pa.schema([("part", pa.string()), ("video", pa.string()), ("questions", pa.string()), *_ERROR])
"""Questions about one video that are worked on together, as JSON; `part` is the name of the file they end in."""

LOOKED = pa.schema(
    [
        *GROUP, ("duration_s", pa.float64()), ("pts_s", pa.list_(pa.float64())), ("pixels", ARRAY),
        ("scorer_pixels", ARRAY),
    ]
)  # fmt: skip
"""A group with frames of its video, uint8 [N, H, W, 3], at the answerer's size and at the scorer's (training: none)."""

PROBED = pa.schema(
    [
        ("part", pa.string()), ("id", pa.string()), ("video", pa.string()), ("duration_s", pa.float64()),
        ("question", pa.string()), ("answer", pa.string()), ("category", pa.string()), *_ASKED, *_PROBED,
        ("fps_sampled", pa.float64()), ("frame_pts_s", pa.list_(pa.float64())), ("relevant", pa.list_(pa.int32())),
        ("masked_answerable", pa.bool_()), ("search_error", pa.string()), *_ERROR,
    ]
)  # fmt: skip
"""One row per question, before categories vote; `search_error` says why it has no frames that matter."""

STATES = pa.schema(
    [
        ("part", pa.string()), ("head", pa.string()), ("id", pa.string()), ("video", pa.string()),
        ("split", pa.string()), ("states", ARRAY), ("labels", pa.list_(pa.int32())), *_ERROR,
    ]
)  # fmt: skip
"""What a head (image or semantic) is trained on: float32 states [N, 2 D] and a label 0 or 1 per frame, or [1, D] and
the route's column."""
