"""The latest frames that fit, whole: the baseline that every memory has to beat.

Shape letters: T frames, N tokens of one frame, D hidden size, Q tokens of a question, P tokens of probes.
"""

import torch

from pipeline.memory.slots import Slots, frame_rows
from pipeline.methods import Method
from pipeline.streams import Clock, Held, MemoryConfig

METHOD = Method(
    source="-",
    stage="memory",
    what="holds the latest frames that fit, whole",
    differs="the baseline: four latest frames alone reach 78.5 on StreamingBench's real-time questions, more than most"
    " memories, so a gain there says little about long memory",
    stateful=True,
)


def make_recent(config: MemoryConfig, probes_PD: torch.Tensor | None = None) -> "Recent":
    """Return an empty memory; probes are not used.

    Raises:
        ConfigError: no frame fits.
    """
    del probes_PD
    return Recent(config)


class Recent:
    """See the module; `read` does not depend on the question."""

    def __init__(self, config: MemoryConfig) -> None:
        self.clock = Clock(config)
        self.frames = config.whole_frames
        self.slots = Slots(self.frames * config.tokens_per_frame)

    def add(self, values_TND: torch.Tensor, pts_s_T: torch.Tensor) -> None:
        """Take the next frames; see Memory."""
        index_T = self.clock.admit(values_TND, pts_s_T)[-self.frames :]
        values_TND = values_TND[-self.frames :]
        kept_TN = torch.ones(values_TND.shape[:2], dtype=torch.bool, device=values_TND.device)
        self.slots.put(frame_rows(values_TND, pts_s_T[-self.frames :], index_T, kept_TN))

    def read(self, query_QD: torch.Tensor | None = None) -> Held:
        """Return the frames held."""
        del query_QD
        return self.slots.used().sorted().held()

    @property
    def num_tokens(self) -> int:
        return self.slots.num_used

    @property
    def num_bytes(self) -> int:
        return self.slots.num_bytes
