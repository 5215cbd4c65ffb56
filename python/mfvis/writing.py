"""Atomic file writes, and a lock against two runs in one folder."""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import platform
import re
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from mfvis.errors import ConfigError, MfvisError

LOCK = ".mfvis.lock"
_HOST = re.sub(r"[^A-Za-z0-9-]", "-", platform.node())[:40] or "host"
_TEMPORARY = re.compile(r"\..*\.(?P<host>[A-Za-z0-9-]+)-(?P<pid>[0-9]{1,9})_[0-9]+\.tmp(\.[^.]*)?")
"""Pattern of the temporary file names that `atomic_write` generates."""
_COUNTER = itertools.count()
_SWEPT: set[str] = set()
"""Folders from which this process has removed leftovers."""
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EFBIG)
_HELD: set[int] = set()
"""File descriptors of the locks that this process holds."""


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Temporary path next to `path`, of the same suffix, to write a file or a folder to.

    When the block ends the content is flushed to the disk and renamed to `path`, so that `path` is never seen half
    written, even after a power cut. If the block raises, nothing is left. Missing parent folders are created. Files get
    the mode that the umask gives, whatever mode the writer in the block used.

    Raises:
        ConfigError: `path` is a device or a pipe.
        OSError: of the file system, also where a library raised an exception of its own instead.
    """
    path = Path(path)
    if path.exists() and not path.is_file() and not path.is_dir():
        raise ConfigError(f"{path} is a device or a pipe, which would be replaced; name a file to write")
    path.parent.mkdir(parents=True, exist_ok=True)
    if str(path.parent) not in _SWEPT:
        _SWEPT.add(str(path.parent))
        _remove_leftovers(path.parent, locked=False)
    # File systems allow names of 255 bytes; the start of a long one is enough to identify it.
    stem = os.fsencode(path.stem)[:120].decode("utf-8", "ignore")
    temporary = path.with_name(f".{stem}.{_HOST}-{os.getpid()}_{next(_COUNTER)}.tmp{path.suffix}")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode & 0o777
        temporary.unlink()
        yield temporary
        if temporary.is_file():
            temporary.chmod(mode)
        _flush(temporary)
        temporary.replace(path)
        _flush_one(path.parent)
    except Exception as error:
        if (disk_error := _disk_error(error, temporary, path)) is None:
            raise
        raise disk_error from error
    finally:
        _remove(temporary)


@contextmanager
def run_lock(out: str | Path, folders: Sequence[str] = (), active: bool = True, shared: bool = False) -> Iterator[None]:
    """Exclusive use of the folder `out`, which is created, for one run, or for the shards of one.

    The kernel frees the lock when the process ends, however it ends. Temporary files that killed runs left in `out` and
    in its `folders` are removed.

    Args:
        out: the run's folder.
        folders: those below it that the run writes to, as paths relative to `out`.
        active: False for the processes of a run besides its main one, which holds the lock for all.
        shared: True for a shard, which works next to others but not next to a whole run.

    Raises:
        ConfigError: another run uses the folder.
    """
    if not active:
        yield
        return
    out = Path(out)
    existed = out.exists()
    descriptor = _acquire(out, shared)
    _HELD.add(descriptor)
    try:
        for folder in (out, *(out / name for name in folders)):
            _remove_leftovers(folder, locked=not shared)
        yield
    finally:
        if descriptor in _HELD:  # not in a forked child
            _HELD.discard(descriptor)
            # Unlinked before it is released: a process that has opened the file detects this and opens it again.
            last = not shared or _is_last(descriptor)
            if last:
                (out / LOCK).unlink(missing_ok=True)
            os.close(descriptor)
            if not existed and last:
                with suppress(OSError):
                    out.rmdir()  # only succeeds if the run wrote nothing


def _is_last(descriptor: int) -> bool:
    """True if no other process shares the lock."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _acquire(out: Path, shared: bool) -> int:
    """Descriptor of the locked file in `out`."""
    path = out / LOCK
    if out.exists() and not out.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(out))
    for attempt in itertools.count():
        out.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # another run has just removed the folder
            continue
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                os.ftruncate(descriptor, 0)
                os.write(descriptor, f"process {os.getpid()} on {platform.node()}".encode())
                return descriptor
        except BlockingIOError:
            if shared and attempt < 5:  # a shard that has just ended, see `_is_last`
                os.close(descriptor)
                time.sleep(0.1)
                continue
            remedy = "Wait until that one ends, or choose another --out"
            if int(os.environ.get("WORLD_SIZE", "1")) > 1:
                remedy += ". Only train, label and predict run in several processes; start others without a launcher"
            holder = os.read(descriptor, 200).decode("utf-8", "replace")
            os.close(descriptor)
            raise ConfigError(f"{out} is in use by another run{f' ({holder})' if holder else ''}. {remedy}") from None
        except FileNotFoundError:  # its holder has just released it
            pass
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                return descriptor  # locked, only without the holder's id
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL):
                os.close(descriptor)
                raise
            print(f"{out}: the file system has no locks; start no second run in this folder", file=sys.stderr)
            return descriptor
        os.close(descriptor)
    raise AssertionError("unreachable")


def _close_inherited() -> None:
    """Close the locks' descriptors in a forked child; a data loader's worker would hold them after a kill."""
    for descriptor in _HELD:
        with suppress(OSError):
            os.close(descriptor)
    _HELD.clear()


os.register_at_fork(after_in_child=_close_inherited)


def _remove_leftovers(folder: Path, locked: bool) -> None:
    """Remove the temporary files that killed processes left in a folder.

    locked: True if no other run may write here. Files of other machines and of earlier processes with this process's
    id are then removed too.
    """
    with suppress(OSError):
        for entry in list(os.scandir(folder)):
            match = _TEMPORARY.fullmatch(entry.name)
            if match and _is_dead(match["host"] or _HOST, int(match["pid"]), locked):
                with suppress(OSError):  # it may be another user's, and only takes disk space
                    _remove(Path(entry.path))


def _is_dead(host: str, pid: int, locked: bool) -> bool:
    if host != _HOST or pid == os.getpid():
        return locked
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:
        pass
    return False


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    """Flush a file, or a folder with all its content, to the disk."""
    if path.is_dir() and not path.is_symlink():
        for inner in path.iterdir():
            _flush(inner)
    _flush_one(path)


def _flush_one(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems cannot flush a folder
            raise
    finally:
        os.close(descriptor)


def _disk_error(error: Exception, temporary: Path, path: Path) -> OSError | None:
    """File system error about `path` that caused an exception; None if there is none."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(error, MfvisError):
        if isinstance(cause, OSError):
            file = _final_name(cause.filename, temporary, path)
            if file is None or cause.errno is None or (cause is not error and cause.errno not in _DISK_ERRORS):
                return None
            return OSError(cause.errno, os.strerror(cause.errno), file)
        if said := re.search(r"\(os error (\d+)\)", str(cause)):  # safetensors prints it
            return OSError(int(said[1]), os.strerror(int(said[1])), str(path))
        cause = cause.__cause__ or cause.__context__
    return None


def _final_name(file: str | bytes | int | None, temporary: Path, path: Path) -> str | None:
    """Final path of a file in or at `temporary`; None if it is elsewhere."""
    if file is None:
        return str(path)
    name = Path(os.fsdecode(file).removeprefix("file:")) if not isinstance(file, int) else Path()
    folder = temporary.absolute() if name.is_absolute() else temporary
    return str(path / name.relative_to(folder)) if name.is_relative_to(folder) else None
