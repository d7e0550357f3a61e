"""The videos of a job against what its output folder holds: the first new one is known before the last is listed."""

from array import array
from collections.abc import Iterator
from itertools import chain, islice

from pipeline import ledger, rows
from pipeline.errors import JobError
from pipeline.ledger import Run, Slice
from pipeline.listing import list_videos
from pipeline.reopen import failed_videos
from pipeline.rows import Row
from pipeline.windows import holds, key, sorted_keys


class Archive:
    """A listing that has gone as far as the first file to be probed; without such a file, to its end."""

    def __init__(self, videos: str, out: str, *, retry_failed: bool = False) -> None:
        """List as far as that, writing nothing.

        Args:
            videos: what `list_videos` takes.
            out: output folder; a file is to be probed which is not in its videos/.
            retry_failed: whether a file which failed there is to be probed, too.

        Raises:
            ConfigError: nothing there to answer on.
            StoreError: a place cannot be listed or read.
            JobError: see `write_down`.
        """
        self.videos = videos
        self._listed = array("Q")
        self._unknown = self._list(out, retry_failed=retry_failed)
        self._first = list(islice(self._unknown, 1))
        self.found = sorted_keys(())
        """Keys (video_id, version) of all files, once they are all listed."""
        if not self._first:
            self._close()

    @property
    def has_unknown(self) -> bool:
        """Whether any file is to be probed; if not, all are listed."""
        return bool(self._first)

    def write_down(self, run: Run) -> list[Slice]:
        """List to the end and write down the files to be probed, once; return where.

        Raises:
            ConfigError: the manifest cannot be understood.
            StoreError: the place cannot be listed, or the folder not be written.
            JobError: two videos share a key.
        """
        files = ledger.write_parts(run.manifest("files"), chain(self._first, self._unknown), rows.FILE)
        self._close()
        return files

    def _close(self) -> None:
        self.found = sorted_keys(self._listed)
        if num_alike := len(self._listed) - len(self.found):
            msg = (
                f"{num_alike} of the {len(self._listed)} videos at {self.videos} have the key of another one, and one"
                " of two would be passed over; expected a key each (docs/design.md, Keys): name the videos in two"
                " manifests, and run one after the other into folders of their own"
            )
            raise JobError(msg)

    def _list(self, out: str, *, retry_failed: bool) -> Iterator[Row]:
        known = ledger.video_keys(out)
        again = failed_videos(out) if retry_failed else sorted_keys(())
        for file in list_videos(self.videos):
            self._listed.append(key(file["video_id"], file["version"]))
            if not holds(known, self._listed[-1]) or holds(again, self._listed[-1]):
                yield file
