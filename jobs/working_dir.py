"""What is sent along with a submitted job, as its working directory: the package, questions, modules of one's own."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from jobs.places import OF_MODELS, absolute, absolute_models
from pipeline.errors import ConfigError

PACKAGES = ("actors", "jobs", "pipeline")
OWN = (*PACKAGES, "questions", "prices")
"""Names in the working directory that are not free."""
MAX_SENT_BYTES = 64 * 2**20


def pack(command: Sequence[str], folder: Path, ship: Sequence[str] = ()) -> list[str]:
    """Copy the package, modules of one's own and the questions into a folder; return the command as it is run there.

    Raises:
        ConfigError: the command is wrong, or a module or the file of questions cannot be sent.
    """
    root = Path(__file__).resolve().parents[1]
    for package in PACKAGES:
        shutil.copytree(root / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    for place in ship:
        _ship(Path(place).expanduser().absolute(), folder)
    return _placed_answer(list(command), folder) if command[0] == "answer" else list(command)


def _ship(module: Path, folder: Path) -> None:
    """Copy a module of one's own to where the package's lie, so that it is imported by its name.

    Raises:
        ConfigError: there is none, it cannot be imported by that name, or another one has the name.
    """
    files = [path for path in module.rglob("*.py") if path.is_file()] if module.is_dir() else [module]
    if not files or not module.exists() or (module.is_file() and module.suffix != ".py"):
        found = (
            "a folder without .py files"
            if module.is_dir()
            else "another file"
            if module.exists()
            else "nothing"
        )
        msg = f"--ship {module}: found {found}; expected a .py file, or the folder of a package"
        raise ConfigError(msg)
    name = module.name if module.is_dir() else module.stem
    if not name.isidentifier():
        msg = f"--ship {module}: {name!r} is no name that Python can import; rename it"
        raise ConfigError(msg)
    if name in OWN or any((folder / taken).exists() for taken in (name, f"{name}.py")):
        msg = (
            f"--ship {module}: would take the place of {name!r}, which is sent already; the package itself has"
            f" {', '.join(OWN)}. Rename it, or name it once"
        )
        raise ConfigError(msg)
    try:
        if module.is_dir():
            shutil.copytree(module, folder / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
        else:
            shutil.copyfile(module, folder / module.name)
    except OSError as error:  # of a folder, a list of what could not be copied
        msg = f"--ship {module}: cannot be copied: {error}; take out what cannot be read"
        raise ConfigError(msg) from error
    sent = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if sent > MAX_SENT_BYTES:
        msg = (
            f"--ship {module}: {sent / 2**20:.0f} MiB with all else, more than the {MAX_SENT_BYTES // 2**20} MiB that"
            " are sent along with a job; put large files where the cluster can read them"
        )
        raise ConfigError(msg)


def _placed_answer(command: list[str], folder: Path) -> list[str]:
    """Return `answer ...` with places in full, and its questions where they were copied to."""
    from jobs.answer import read_arguments, read_paths

    args = read_arguments(command[1:])
    videos, questions, out = read_paths(args)
    here = {videos: absolute(videos), out: absolute(out)}
    if questions and "://" not in questions:
        here[questions] = _sent(Path(questions).expanduser(), folder)
    places = iter(args.paths)
    wanted, words = next(places), command[:1]
    for word in command[1:]:
        found = word == wanted
        words.append(here.get(word, word) if found else word)
        wanted = next(places, "") if found else wanted
    full = absolute_models(args.job)
    for stage, name in OF_MODELS:
        if (place := getattr(getattr(full, stage), name)) != getattr(getattr(args.job, stage), name):
            words += [f"--{stage}.{name}", place]  # the last one counts
    if args.prices and "://" not in args.prices:
        words += ["--prices", _sent(Path(args.prices).expanduser(), folder, "prices", ".yaml")]
    if args.rates_from:
        words += ["--rates-from", absolute(args.rates_from)]
    return words


def _sent(
    path: Path, folder: Path, what: str = "questions", kinds: str = ".jsonl, .csv, .yaml or .parquet"
) -> str:
    """Copy a file of questions, or of something else; return its place as the job finds it.

    Raises:
        ConfigError: there is none, or it is too large.
    """
    if not path.is_file():
        msg = f"{path}: no such file of {what}; expected {kinds}"
        raise ConfigError(msg)
    if path.stat().st_size > MAX_SENT_BYTES:
        msg = (
            f"{path}: {path.stat().st_size / 2**20:.0f} MiB, more than the {MAX_SENT_BYTES // 2**20} MiB that are sent"
            " along with a job; put it where the cluster can read it and name it by its URI"
        )
        raise ConfigError(msg)
    (folder / what).mkdir()
    shutil.copyfile(path, folder / what / path.name)
    return str(Path(what) / path.name)
