"""Looking up an entry of a plug-in table, on the driver, before Ray starts.

A table is a plain dict from a name to a function (or to a maker, where weights are owned); a `Late` one where entries
need torch and a run without a model looks at it. Outsiders name their own as `package.module:attribute`; nothing has
to be registered anywhere.
"""

import difflib
import pkgutil
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from pipeline.errors import ConfigError

Entry = TypeVar("Entry")


class Late(Mapping[str, Entry]):
    """A table of import paths `package.module:attribute`; an entry is imported when it is looked up.

    Listing names imports nothing, so a run that names no model starts without torch, which takes two seconds to import.
    """

    def __init__(self, paths: Mapping[str, str]) -> None:
        self._paths = paths

    def __getitem__(self, name: str) -> Entry:
        return pkgutil.resolve_name(self._paths[name])

    def __contains__(self, name: object) -> bool:
        return name in self._paths

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)


def find(table: Mapping[str, Entry], name: str, table_name: str) -> Entry:
    """Return the entry called `name`, or the object at an import path `package.module:attribute`.

    Raises:
        ConfigError: no such entry, or the import path leads nowhere or to something of another type.
    """
    if name in table:
        return table[name]
    if ":" in name:
        try:
            found: Any = pkgutil.resolve_name(name)
        except (ImportError, AttributeError) as error:
            msg = f"{table_name}: cannot import {name!r} ({error}); check the path and that the job ships the module"
            raise ConfigError(msg) from error
        example = next(iter(table.values()))
        if not (callable(found) if callable(example) else isinstance(found, type(example))):
            expected = "a function" if callable(example) else f"a {type(example).__name__}"
            msg = f"{table_name}: {name!r} is a {type(found).__name__}, expected {expected} like those of the table"
            raise ConfigError(msg)
        return found
    close = difflib.get_close_matches(name, table, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    msg = f"{table_name} has no entry {name!r}; known: {', '.join(sorted(table))}{hint}"
    raise ConfigError(msg)
