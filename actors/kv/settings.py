"""What cache policies can be told; defaults are those of the publications."""

from dataclasses import dataclass

from pipeline.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class KvSettings:
    """Settings of all policies; each reads its own.

    Raises:
        ConfigError: a value is out of its range.
    """

    group_frames: int = 16
    """Frames that go through the decoder together."""
    retention: float = 0.5
    """quick-prefill: share of a group's visual tokens that stays in each layer, in (0, 1]."""
    sink_tokens: int = 512
    """streaming-vlm: first tokens of text that always stay."""
    recent_text_tokens: int = 512
    """streaming-vlm: last tokens of text that stay."""
    vision_s: float = 16.0
    """streaming-vlm: seconds of frames that stay."""
    window_tokens: int = 15_000
    """rekv: tokens before a group that it sees, beside those before the first frame."""
    retrieve_frames: int = 64
    """rekv: frames shown to a question, chosen in each layer."""
    device_frames: int = 128
    """rekv: frames whose keys and values stay on the device, in each layer, those used last."""
    long_tokens: int = 12_000
    """livevlm: visual tokens of the long memory, in each layer."""
    top_share: float = 0.5
    """livevlm: share of the long memory that goes to the highest scores, wherever they are."""
    recent_frames: int = 4
    """livevlm: last frames that are kept whole."""
    observers: int = 64
    """livevlm: last visual tokens of a group whose attention scores the others."""
    page_tokens: int = 16
    """livevlm: visual tokens that are retrieved together."""
    page_share: float = 0.4
    """livevlm: share of the pages shown to a question, in (0, 1]."""
    prune_ratio: float = 0.7
    """dycoke-dp: share of the visual tokens that deep layers do not attend to, in [0, 1)."""
    prune_layer: int = 3
    """dycoke-dp: first layer that attends to fewer; the one before it chooses them."""
    similarity: float = 0.9
    """dycoke-dp: they are chosen anew when the attention's cosine to that of the step before is lower."""

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        shares = ("retention", "page_share")
        counts = ("group_frames", "retrieve_frames", "device_frames", "long_tokens", "observers", "page_tokens",
                  "prune_layer")  # fmt: skip
        wrong = [name for name in shares if not 0 < getattr(self, name) <= 1]
        wrong += [name for name in counts if getattr(self, name) < 1]
        wrong += [name for name in ("sink_tokens", "recent_text_tokens", "window_tokens", "recent_frames", "vision_s")
                  if not getattr(self, name) >= 0]  # fmt: skip
        wrong += ["prune_ratio"] if not 0 <= self.prune_ratio < 1 else []
        wrong += ["top_share"] if not 0 <= self.top_share <= 1 else []
        if wrong:
            msg = f"kv.{wrong[0]}: found {getattr(self, wrong[0])!r}, which is out of its range; see its description"
            raise ConfigError(msg)
