"""What lies below a local folder: files in the order of a bucket, and what stands where a file should be."""

import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

OF_ONE_ENTRY = {errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG}
"""What a disk says about one file or folder alone; anything else is about the disk."""
KINDS = {
    stat.S_IFDIR: "folder",
    stat.S_IFIFO: "pipe",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "device",
    stat.S_IFBLK: "device",
}
Above = tuple[tuple[int, int], ...]
"""Device and inode of the folders around something."""


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file found by listing."""

    uri: str
    size_bytes: int
    etag: str
    """Changes whenever the content may have changed: the object's ETag, or the file's mtime in nanoseconds."""
    trouble: str = ""
    """Why it cannot be read, where that shows without opening it, and what to do; empty for a good file."""


def walk(path: str, uri: str, starts: str, *, strict: bool) -> Iterator[FileEntry]:
    """Yield the one file, or what lies below a folder, depth first; nothing when there is neither.

    Args:
        path: the folder or file.
        uri: what its name begins with in the entries.
        starts: only names directly below the folder that begin so.
        strict: raise when a folder below cannot be entered; otherwise it comes as an entry with `trouble`.

    Raises:
        OSError: the folder cannot be read, or the disk fails.
    """
    try:
        status = Path(path).stat()
    except (FileNotFoundError, NotADirectoryError):
        return
    if not stat.S_ISDIR(status.st_mode):
        yield entry_of(uri, status)
        return
    waiting: list[tuple[os.DirEntry[str] | str, str, Above]] = [(path, uri, ())]
    while waiting:
        item, uri, above = waiting.pop()
        if not isinstance(item, str):
            yield _found(item, uri, strict=strict)
            continue
        try:
            below = _scan(item, starts, above)
        except OSError as error:
            if not above and isinstance(error, FileNotFoundError):
                return  # taken away since it was found
            if strict or not above or error.errno not in OF_ONE_ENTRY:
                raise
            yield FileEntry(f"{text(uri)}/", 0, "", reason(error))
            continue
        waiting += [(child, f"{uri.rstrip('/')}/{name.rstrip('/')}", around) for name, child, around in below]
        starts = ""


def _scan(folder: str, starts: str, above: Above) -> list[tuple[str, os.DirEntry[str] | str, Above]]:
    """Return a folder's files as entries and its folders as paths, last name first; nothing for a link back up."""
    status = Path(folder).stat()
    here = (status.st_dev, status.st_ino)
    if here in above:
        return []
    around = (*above, here)
    with os.scandir(folder) as scan:
        named = {
            entry.name + "/" * _is_folder(entry): entry for entry in scan if entry.name.startswith(starts)
        }
    return [
        (name, named[name].path if name.endswith("/") else named[name], around)
        for name in sorted(named, reverse=True)
    ]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads in a circle, or through a folder that is closed
        return False


def _found(entry: os.DirEntry[str], uri: str, *, strict: bool) -> FileEntry:
    """Return what a folder's entry is; the disk itself failing is an error."""
    try:
        return entry_of(uri, entry.stat())
    except FileNotFoundError:
        gone = (
            "a link that leads nowhere; mend it"
            if entry.is_symlink()
            else "gone since its folder was read; run again"
        )
        return FileEntry(text(uri), 0, "", gone)
    except OSError as error:
        if strict or error.errno not in OF_ONE_ENTRY:
            raise
        return FileEntry(text(uri), 0, "", reason(error))


def entry_of(uri: str, status: os.stat_result) -> FileEntry:
    """Return a file as an entry, or what else stands there as one with `trouble`."""
    if not stat.S_ISREG(status.st_mode):
        kind = KINDS.get(stat.S_IFMT(status.st_mode), "special file")
        return FileEntry(text(uri), 0, "", f"a {kind}, expected a file; remove it or give it another name")
    name = text(uri)
    trouble = "" if name == uri else "its name is not UTF-8, here it stands with escapes; rename it"
    return FileEntry(name, status.st_size, str(status.st_mtime_ns), trouble)


def text(uri: str) -> str:
    """Return a local name as text that can be written: bytes that are not UTF-8 become backslash escapes."""
    return os.fsencode(uri).decode("utf-8", "backslashreplace")


def reason(error: BaseException) -> str:
    """Return why the disk refused, in a few words."""
    if isinstance(error, FileNotFoundError):
        return "no such file or folder"
    if isinstance(error, PermissionError):
        return "permission denied for this user"
    return str(getattr(error, "strerror", None) or error)
