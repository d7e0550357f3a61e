"""Ways to bring a clip's visual tokens down to its plan."""

from typing import TYPE_CHECKING

from pipeline.config import CompressConfig
from pipeline.errors import ConfigError
from pipeline.methods import Method, Need
from pipeline.plugins import Late

if TYPE_CHECKING:
    from pipeline.tokens import CompressFn

TOKEN_COMPRESSORS: Late["CompressFn"] = Late(
    {
        "none": "pipeline.compress.none:keep_whole",
        "uniform": "pipeline.compress.uniform:pool_to_plan",
        "dycoke": "pipeline.compress.dycoke:prune_similar",
        "dtd": "pipeline.compress.dtd:drop_like_before",
        "dtd-pixels": "pipeline.compress.dtd_pixels:drop_unchanged",
        "evs": "pipeline.compress.dtd:sample_video",
        "policy": "pipeline.compress.policy:keep_by_policy",
        "savemem": "pipeline.compress.savemem:drop_by_frame",
        "stream-ttm": "pipeline.compress.stream_ttm:prune_stream",
        "tome": "pipeline.compress.tome:merge_segments",
    }
)

METHODS: Late[Method] = Late(
    {
        "none": "pipeline.compress.none:METHOD",
        "uniform": "pipeline.compress.uniform:METHOD",
        "dycoke": "pipeline.compress.dycoke:METHOD",
        "dtd": "pipeline.compress.dtd:METHOD",
        "dtd-pixels": "pipeline.compress.dtd_pixels:METHOD",
        "evs": "pipeline.compress.dtd:EVS",
        "policy": "pipeline.compress.policy:METHOD",
        "savemem": "pipeline.compress.savemem:METHOD",
        "stream-ttm": "pipeline.compress.stream_ttm:METHOD",
        "tome": "pipeline.compress.tome:METHOD",
    }
)


def needs_of(compress: "CompressFn") -> tuple[Need, ...]:
    """Return what a compressor must be given beside tokens; nothing, if it is no entry of the table."""
    names = [name for name, entry in TOKEN_COMPRESSORS.items() if entry is compress]
    return METHODS[names[0]].needs if names else ()


def check_settings(settings: CompressConfig) -> None:
    """Refuse a threshold or a scope that nobody would read. An entry by path may read anything.

    Raises:
        ConfigError: which setting, why it has no effect, and who reads it.
    """
    if settings.compressor not in METHODS:
        return
    usual = CompressConfig()
    for name in ("threshold", "scope"):
        value = getattr(settings, name)
        if value == getattr(usual, name):
            continue
        idle = f"--compress.{name} {value} has no effect on compressor {settings.compressor!r}"
        if name not in METHODS[settings.compressor].settings:
            readers = ", ".join(entry for entry, method in METHODS.items() if name in method.settings)
            msg = f"{idle}; leave it out, or take one that reads it: {readers}"
            raise ConfigError(msg)
        if settings.policy or (name == "scope" and settings.threshold is not None):
            other = "policy" if settings.policy else "threshold"
            msg = f"{idle} beside --compress.{other}; leave out one of the two"
            raise ConfigError(msg)


def check_whole(settings: CompressConfig, model: str) -> None:
    """Refuse a compressor for a model whose visual tokens nobody gets to see; the default shows its frames whole.

    Raises:
        ConfigError: which compressor, and those that fit.
    """
    fit = ("none", CompressConfig().compressor)
    if settings.compressor not in fit:
        msg = (
            f"--compress.compressor {settings.compressor!r} needs the visual tokens of --answer.model {model!r}, which"
            f" is no model of a known family: its frames are shown whole. Compressors that fit: {', '.join(fit)}"
        )
        raise ConfigError(msg)
