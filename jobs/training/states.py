"""What the heads read: states of the answerer's first layers, computed once, since these layers stay as they are.

Source: VideoRouter (arXiv 2605.05848): stages 1 and 2 train heads on a frozen language model.

Shape letters: N frames, D hidden size.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from actors.device import exit_on_poisoned_cuda, limit_gpu_memory, poisoned_is_fatal
from actors.models import Answerer, Device
from actors.models.heads import FRAGMENT, GLOBAL
from actors.models.shadow import Shadow
from actors.models.video_llm import FrameFeatures, VideoLlm
from jobs.training import parts
from jobs.training.settings import RoutersConfig
from jobs.training.splits import split_of
from jobs.training.tables import STATES
from pipeline import rows
from pipeline.config import CompressConfig
from pipeline.errors import AnswerError, FatalWorkerError, JobError, ModelError
from pipeline.guard import bug
from pipeline.rows import Row

COLUMNS = {"global": GLOBAL, "fragment": FRAGMENT}


class StateReader:
    """Turns groups of labels with their frames (tables.LOOKED) into a part each, of tables.STATES."""

    def __init__(
        self, folder: str, make: Callable[..., Answerer], config: RoutersConfig, device: Device,
        num_gpus: float = 0.0,
    ) -> None:  # fmt: skip
        limit_gpu_memory(num_gpus, device)
        self.folder = folder
        llm = make(config.answer, CompressConfig(), device)
        if not isinstance(llm, VideoLlm):
            msg = f"model {config.answer.model!r}: heads read video language models of known families only"
            raise ModelError(msg)
        self.llm = llm
        self.shadow = Shadow(llm, config.early_layers, config.early_tokens)
        self.dev_share = config.dev_share

    def __call__(self, table: pa.Table) -> pa.Table:
        """Write the states of every label, and return parts.DONE; one that cannot be read says why.

        Written here, where a part is whole: between stages Ray cuts a table of more than some 50 MB.
        """
        with exit_on_poisoned_cuda():
            found = [row for group in rows.to_rows(table) for row in self._read(group)]
        return parts.write(self.folder, rows.to_table(found, STATES))

    def _read(self, group: Row) -> list[Row]:
        labels: list[Row] = json.loads(group["questions"])
        features: list[FrameFeatures] = []
        found: list[Row] = []
        for label in labels:
            row = {
                "part": group["part"], "id": label["id"], "video": label["video"], "head": label["head"],
                "split": split_of(label["split"], label["video"], self.dev_share),
            }  # fmt: skip
            try:
                with poisoned_is_fatal():
                    if label["head"] == "image" and not group["error_type"] and not features:
                        features.append(self.llm.encode(rows.unpack(group["pixels"])))
                    row |= self._states(group, label, features)
            except AnswerError as error:
                row |= {"error_type": "AnswerError", "error_message": str(error)}
            except (JobError, FatalWorkerError):
                raise
            except Exception as error:
                raise bug(error, f"{label['video']}, question {label['id']}") from error
            found.append(row)
        return found

    def _states(self, group: Row, label: Row, features: Sequence[FrameFeatures]) -> Row:
        """Return `states` and `labels` of one label."""
        if label["head"] == "semantic":
            states = self.shadow.question_states([label["question"]])
            return {"states": _packed(states), "labels": [COLUMNS[label["policy"]]]}
        if group["error_type"]:
            return {name: group[name] for name in ("error_type", "error_message")}
        place = {time_s: index for index, time_s in enumerate(group["pts_s"])}
        times_s: list[float] = label["frame_pts_s"]
        index = [place[time_s] for time_s in times_s]
        states = self.shadow.frame_states(features[0], index, times_s, label["question"])
        relevant = set(label["relevant"])
        return {
            "states": _packed(states),
            "labels": [int(frame in relevant) for frame in range(len(times_s))],
        }


def _packed(states: Any) -> Row:
    return rows.pack(states.float().cpu().numpy().astype(np.float32))
