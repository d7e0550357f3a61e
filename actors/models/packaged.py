"""Models and heads that come with the package, by a name that is the same on every machine.

`package:world/model` is the folder actors/models/world_data/model, wherever the package is installed. Settings keep
the name, so that fingerprints, rows and clusters do not depend on where that is.
"""

from pathlib import Path

from pipeline.errors import ModelError

PREFIX = "package:"
ROOT = Path(__file__).parent


def folder_of(name: str | Path) -> Path:
    """Return the folder that a setting names: one of the package, or any other path, `~` resolved.

    Raises:
        ModelError: it names something of the package that the package does not hold.
    """
    if not str(name).startswith(PREFIX):
        return Path(name).expanduser()
    there = shipped()
    if str(name) not in there:
        msg = (
            f"{str(name)!r}: this installation holds no such weights; expected one of"
            f" {', '.join(there) or '(none are installed)'}, or a folder"
        )
        raise ModelError(msg)
    return there[str(name)]


def shipped() -> dict[str, Path]:
    """Return what the package holds, by name."""
    files = sorted(ROOT.glob("*_data/*/*.safetensors"))
    folders = dict.fromkeys(path.parent for path in files)
    return {f"{PREFIX}{one.parent.name.removesuffix('_data')}/{one.name}": one for one in folders}
