"""The folder of a run: made whole or not at all, written by one process at a time, continued by the next.

The lock is the kernel's (flock): it ends with the process that holds it, however that ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import yaml

from relax_exp.config import identity
from relax_exp.errors import RunError
from relax_exp.run_files import CONFIG, DONE, ERROR, FAILED, INTERRUPTED, LOCK, META, RUNNING
from relax_exp.runs import provenance
from relax_exp.runs.atomic_write import is_disk_full, write_atomically
from relax_exp.schema import show

OVER = (DONE, FAILED)  # what meta.json says of a run that has ended
OWN_FILES = {CONFIG, META, LOCK, ERROR, f".{CONFIG}.tmp", f".{META}.tmp"}  # before any result


class RunFolder:
    """The folder at ``path``, locked for this process while the ``with`` block lasts.

    meta.json says which ``command`` the run is of; None: what this process was called with.

    On entering: the folder is created or taken over, config.yaml and meta.json are written. RunError if another process
    is writing it, if it holds something else, or if it cannot be written. On leaving: ``status`` becomes "interrupted"
    unless it was set to "done" or "failed"; a folder made here in which the run left nothing is removed again.
    """

    def __init__(self, path: str | os.PathLike[str], config: dict, command: str | None = None):
        self.path = Path(path)
        self.config, self.command = config, command
        self.meta: dict = {}
        self._created: list[Path] = []
        self._lock: TextIO | None = None

    @staticmethod
    def finished(path: str | os.PathLike[str], config: dict) -> bool:
        """Tell whether all replicas have ended, by a look that locks and changes nothing.

        Raises:
            RunError: The folder holds another configuration or other things, or a run cannot be written there.
        """
        path = Path(path)
        if not os.path.exists(path):  # unlike Path.exists, also where looking is forbidden
            parent = next(parent for parent in path.absolute().parents if os.path.exists(parent))
            _check_writable(parent, path)
            return False
        _check_writable(path, path)
        stored = _read(path / CONFIG, yaml.safe_load)
        if stored is None:
            if others := sorted(entry.name for entry in path.iterdir() if entry.name not in OWN_FILES):
                raise RunError(f"{path} holds other things ({', '.join(others[:3])}): choose another out=")
            return False
        if differing := _differences(identity.numbers(stored), identity.numbers(config)):
            some = "; ".join(differing[:3]) + (f"; and {len(differing) - 3} more" if len(differing) > 3 else "")
            raise RunError(f"{path} holds another configuration ({some}): choose another out=, or delete the folder")
        meta = _read(path / META, json.loads) or {}
        return meta.get("status") in OVER

    def __enter__(self) -> RunFolder:
        self._created = [folder for folder in (self.path, *self.path.parents) if not os.path.exists(folder)]
        try:
            self._lock = _lock(self.path)
            RunFolder.finished(self.path, self.config)  # what was seen before the lock may have changed
            (self.path / ERROR).unlink(missing_ok=True)
            write_atomically(self.path / CONFIG, yaml.safe_dump(self.config, sort_keys=False))
            meta = provenance.collect(self.config, self.command)
            if earlier := _read(self.path / META, json.loads):
                meta["resumed"] = [*earlier.get("resumed", []), meta["start"]]
                meta |= {k: earlier[k] for k in ("start", "replicas", "trained_together") if k in earlier}
            self.update_meta(**meta)
        except BaseException as error:
            self._leave()
            if isinstance(error, OSError) and not is_disk_full(error):
                raise RunError(f"cannot write {self.path} ({error.strerror}): choose another out=") from error
            raise
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        try:
            ended = INTERRUPTED if self.meta["status"] == RUNNING else self.meta["status"]
            # A full disk must not hide the error that brought us here.
            with contextlib.suppress(*([OSError] if error else [])):
                self.update_meta(status=ended, end=provenance.now())
        finally:
            self._leave()

    def update_meta(self, **changes) -> None:
        """Change `meta` and write it as meta.json."""
        self.meta |= changes
        write_atomically(self.path / META, json.dumps(self.meta, indent=2) + "\n")

    def _leave(self) -> None:
        """Remove what is worth nothing, and give the lock back."""
        if self._lock is None:  # another process has it, or the folder could not be made
            self._remove_created()
            return
        names = {entry.name for entry in self.path.iterdir()}
        if self.path in self._created and names <= OWN_FILES:
            shutil.rmtree(self.path, ignore_errors=True)
            self._remove_created()
        else:
            (self.path / LOCK).unlink(missing_ok=True)
        self._lock.close()
        self._lock = None

    def _remove_created(self) -> None:
        """Remove the folders made here, as far as they are empty."""
        for folder in self._created:
            with contextlib.suppress(OSError):
                folder.rmdir()


def write_error(path: Path, text: str) -> None:
    """Leave ``error.txt`` in a run's folder, which need not exist. Says nothing where that fails."""
    with contextlib.suppress(OSError):
        path.mkdir(parents=True, exist_ok=True)
        write_atomically(path / ERROR, text)


def status(path: Path) -> str:
    """Return what meta.json says: running, interrupted, done or failed; "missing" where there is no run.

    "running" is what a run says that was killed, too: `is_locked` tells the two apart.
    """
    try:
        return json.loads((path / META).read_text())["status"]
    except (OSError, ValueError, KeyError, TypeError):
        return "missing"


def shown(path: Path, config: dict, text: Callable[[Path], str]) -> int | None:
    """Print the ``text`` of a run that is finished already.

    Returns:
        Its exit code, 1 if a replica failed, else 0; None where there is something to do.
    """
    if not RunFolder.finished(path, config):
        return None
    print(f"{path} is finished already; nothing to do (another seed, lr or out= makes another run)", file=sys.stderr)
    print(text(path))
    return int(status(path) == FAILED)


def is_locked(path: Path) -> bool:
    """Tell whether a process is writing the run at ``path``."""
    try:
        with (path / LOCK).open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def is_abandoned(path: Path) -> bool:
    """Tell whether a run says that it is running, but was killed.

    It is unknown, so False, where another machine wrote it.
    """
    with contextlib.suppress(OSError):
        if not (path / LOCK).read_text().endswith(f" on {socket.gethostname()}"):
            return False
    return status(path) == RUNNING and not is_locked(path)


def _lock(folder: Path) -> TextIO:
    """Make the folder and lock its ``lock`` file, which then names this process.

    Raises:
        RunError: Another process has it.
    """
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK).open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Its last owner may have removed the file after we opened it: then we hold a lock that nobody sees.
            if os.path.samestat(os.fstat(file.fileno()), os.stat(folder / LOCK)):
                file.truncate(0)
                os.write(file.fileno(), f"process {os.getpid()} on {socket.gethostname()}".encode())
                return file
        except BlockingIOError:
            file.seek(0)
            owner = file.read().strip() or "another process"
            file.close()
            raise RunError(f"{folder} is being written by {owner}: wait for it, or choose another out=") from None
        except FileNotFoundError:
            pass
        except BaseException:
            (folder / LOCK).unlink(missing_ok=True)
            file.close()
            raise
        file.close()


def _check_writable(folder: Path, path: Path) -> None:
    """Check that ``folder``, which exists, is a folder in which ``path`` can be written.

    Raises:
        RunError: It is not.
    """
    if not folder.is_dir():
        raise RunError(f"cannot write {path}: {folder} is a file; choose another out=")
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        raise RunError(f"cannot write {path}: no permission to write in {folder.absolute()}; choose another out=")


def _read(path: Path, parse: Callable[[str], Any]) -> dict | None:
    """Return the mapping in a file, or None if there is no file.

    Raises:
        RunError: The file is damaged.
    """
    try:
        content = parse(path.read_text())
        if not isinstance(content, dict):
            raise ValueError("not a mapping")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = str(error).splitlines()[0]
        raise RunError(f"{path} cannot be read ({reason}): delete {path.parent} to start over") from error
    return content


def _differences(stored: dict, wanted: dict) -> list[str]:
    """Return ``key: value there, value here`` for every key that differs."""
    said = [{key: show(value) for key, value in identity.flatten(tree).items()} for tree in (stored, wanted)]
    pairs = {key: [side.get(key, "absent") for side in said] for key in said[1] | said[0]}
    return [f"{key}: {there} there, {here} here" for key, (there, here) in pairs.items() if there != here]
