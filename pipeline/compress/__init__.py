"""Ways to bring a clip's visual tokens down to its plan."""

from pipeline.compress import dtd, dtd_pixels, dycoke, none, policy, savemem, stream_ttm, tome, uniform
from pipeline.config import CompressConfig
from pipeline.errors import ConfigError
from pipeline.methods import Method, Need
from pipeline.tokens import CompressFn

TOKEN_COMPRESSORS: dict[str, CompressFn] = {
    "none": none.keep_whole,
    "uniform": uniform.pool_to_plan,
    "dycoke": dycoke.prune_similar,
    "dtd": dtd.drop_like_before,
    "dtd-pixels": dtd_pixels.drop_unchanged,
    "evs": dtd.sample_video,
    "policy": policy.keep_by_policy,
    "savemem": savemem.drop_by_frame,
    "stream-ttm": stream_ttm.prune_stream,
    "tome": tome.merge_segments,
}

METHODS: dict[str, Method] = {
    "none": none.METHOD,
    "uniform": uniform.METHOD,
    "dycoke": dycoke.METHOD,
    "dtd": dtd.METHOD,
    "dtd-pixels": dtd_pixels.METHOD,
    "evs": dtd.EVS,
    "policy": policy.METHOD,
    "savemem": savemem.METHOD,
    "stream-ttm": stream_ttm.METHOD,
    "tome": tome.METHOD,
}


def needs_of(compress: CompressFn) -> tuple[Need, ...]:
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
