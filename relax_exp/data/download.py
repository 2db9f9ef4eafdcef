"""Files of published data: fetched whole or not at all, compared with their published checksums."""

import hashlib
import http.client
import os
import queue
import socket
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

from relax_exp.errors import DataError

ANSWER_SECONDS = 15  # until a download counts as impossible
STALL_SECONDS = 10  # of silence until a running download counts as failed


def damaged(path: Path, problem: str) -> DataError:
    """Make the error for a file that cannot be used; `problem` completes the sentence "<path> ..."."""
    return DataError(f"{path} {problem}. Delete the file and run again to download it anew.")


def warn_unless_published(checksums: Mapping[Path, str]) -> None:
    """Warn once if any file has another md5 than the given one. The warning points at the caller of `load`."""
    other = []
    for path, published in checksums.items():
        with path.open("rb") as file:
            found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        if found != published:
            other.append(f"{path} has md5 {found}, the published file has {published}")
    if other:
        message = "; ".join(other) + ": numbers from this run come from a file that is not the published one"
        warnings.warn(message, UserWarning, stacklevel=4)


def fetch(title: str, folder: Path, names: list[str], urls: list[str], download: Callable[[Path], Path]) -> None:
    """Put the files `names` into `folder`, or raise DataError and leave none of them there.

    `download(scratch)` fetches into the empty folder `scratch` and returns where below it the files lie. It is not
    tried if none of `urls` answers; without urls it is always tried.
    """
    try:
        if urls:
            _await_answer(urls)
        print(f"{title}: fetching {', '.join(names)} into {folder}", file=sys.stderr)
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".download-") as scratch:
            timeout = socket.getdefaulttimeout()
            socket.setdefaulttimeout(STALL_SECONDS)
            try:
                fetched = download(Path(scratch))
            finally:
                socket.setdefaulttimeout(timeout)
            for name in names:
                os.replace(fetched / name, folder / name)
    except (OSError, RuntimeError, ValueError, EOFError, http.client.HTTPException) as error:
        raise DataError(
            f"{title}: {', '.join(names)} not found in {folder}, and the download failed ({error}). Put the files "
            f"there, or point data_root or RELAX_EXP_DATA to the folder that has them, or use task.dataset=digits, "
            f"which needs no files."
        ) from error


def _await_answer(urls: list[str]) -> None:
    """Return when one of `urls` answers, whatever it says; raise OSError if none does in ANSWER_SECONDS.

    Threads, because a socket timeout covers neither the look-up of a name nor the sum over a host's addresses.
    """
    outcomes: queue.Queue[Exception | None] = queue.Queue()

    def ask(url: str) -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=ANSWER_SECONDS).close()
            outcomes.put(None)
        except urllib.error.HTTPError as error:
            error.close()
            outcomes.put(None)
        except Exception as error:
            outcomes.put(error)

    for url in urls:
        threading.Thread(target=ask, args=(url,), daemon=True).start()
    deadline = time.monotonic() + ANSWER_SECONDS
    failure: Exception | None = None
    for _ in urls:
        try:
            failure = outcomes.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            raise TimeoutError(f"no answer in {ANSWER_SECONDS} s") from None
        if failure is None:
            return
    raise OSError(str(failure)) from failure
