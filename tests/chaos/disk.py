"""A disk that is too small until it is enlarged."""

import resource
import subprocess
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

SMALL_BYTES = 1024 * 1024
LARGE_BYTES = 256 * 1024 * 1024


@contextmanager
def full(folder: Path, pids: Callable[[], Iterable[int]]) -> Iterator[Callable[[], None]]:
    """`folder` has room for one megabyte until the yielded function is called.

    A tmpfs where mounting is permitted. Elsewhere the processes `pids` may write no larger file, which is another error with
    the same consequences.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not _mount("-t", "tmpfs", "-o", f"size={SMALL_BYTES}", "tmpfs", folder):
        _limit(pids(), SMALL_BYTES)
        yield lambda: _limit(pids(), resource.RLIM_INFINITY)
        return
    try:
        yield lambda: _remount(folder)
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def _remount(folder: Path) -> None:
    assert _mount("-o", f"remount,size={LARGE_BYTES}", folder), f"{folder} cannot be made larger"


def _mount(*arguments: str | Path) -> bool:
    try:
        return subprocess.run(["mount", *arguments], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def _limit(pids: Iterable[int], size_bytes: int) -> None:
    for pid in pids:
        _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (size_bytes, hard))
