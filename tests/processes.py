"""The command in processes of its own: forked from one that has imported everything, stopped at chosen moments."""

from __future__ import annotations

import functools
import json
import multiprocessing
import os
import shlex
import signal
import sys
from collections.abc import Callable
from pathlib import Path

CONTEXT = multiprocessing.get_context("forkserver")
OURS = ["relax_exp.cli.main", "relax_exp.runs.run", "relax_exp.tasks.vae"]
OTHERS = ["torch._dynamo", "torch.utils.tensorboard", "sklearn.datasets", "scipy.stats", "tabulate"]
CONTEXT.set_forkserver_preload([*OURS, *OTHERS])


class Command:
    """``relax-exp LINE`` in ``folder``, started at once. ``setup`` is called in the process first (picklable)."""

    def __init__(self, line: str, folder: Path, *setup: Callable[[], None]):
        self.log = folder / "log"
        self.process = CONTEXT.Process(target=_main, args=(line, folder, self.log, setup))
        self.process.start()
        self.pid = self.process.pid

    def wait(self, seconds: float = 60) -> tuple[int, str]:
        """Exit code (minus the signal where one killed it) and all output."""
        self.process.join(seconds)
        assert self.process.exitcode is not None, f"still running: {self.log.read_text()}"
        return self.process.exitcode, self.log.read_text()


def _main(line: str, folder: Path, log: Path, setup: tuple[Callable[[], None], ...]) -> None:
    from relax_exp.cli.main import main

    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(folder)
    sys.argv = ["relax-exp", *shlex.split(line)]
    for prepare in setup:
        prepare()
    sys.exit(main())


def moments() -> dict[str, tuple[object, str]]:
    """Functions whose calls are the moments at which a run can be stopped."""
    from tensorboard.summary.writer.record_writer import RecordWriter

    from relax_exp.runs import checkpoint
    from relax_exp.runs.loggers import MetricsFile, TensorBoard
    from relax_exp.tasks.toy import Toy
    from relax_exp.tasks.vae import VAE
    from relax_exp.training.replicas import Replicas

    return {
        "step": (Replicas, "_inputs"),
        "evaluate toy": (Toy, "evaluate"),
        "evaluate vae": (VAE, "evaluate"),
        "append": (MetricsFile, "append"),
        "save": (checkpoint, "save"),
        "replace": (os, "replace"),
        "tensorboard": (TensorBoard, "add"),
        "finish": (TensorBoard, "finish"),
        "event": (RecordWriter, "write"),
    }


def send(numbers: tuple[int, ...], moment: str, count: int, after: bool = False) -> None:
    """Have this process send itself signals at the ``count``-th call, before (or after) it is carried out."""
    owner, name = moments()[moment]
    original, calls = getattr(owner, name), []

    @functools.wraps(original)
    def wrapped(*args, **kwargs):
        calls.append(None)
        result = original(*args, **kwargs) if after else None
        if len(calls) == count:
            for number in numbers:
                os.kill(os.getpid(), number)
        return result if after else original(*args, **kwargs)

    setattr(owner, name, wrapped)


def kill(moment: str, count: int, after: bool = False) -> Callable[[], None]:
    """A setup: SIGKILL at that moment."""
    return functools.partial(send, (signal.SIGKILL,), moment, count, after)


def tear_a_line() -> None:
    """A setup: the first evaluation is written up to the middle of its last line, then SIGKILL."""
    from relax_exp.runs.loggers import MetricsFile

    def append(self, rows):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        with open(self.path, "a") as file:
            file.write(text[: -len(text) // (2 * len(rows))])
        os.kill(os.getpid(), signal.SIGKILL)

    MetricsFile.append = append


def save_always() -> None:
    """A setup: a checkpoint after every step."""
    from relax_exp.runs import run

    run.CHECKPOINT_SECONDS = -1.0


def full_disk(moment: str, count: int) -> None:
    """A setup: from the ``count``-th call on there is no space left."""
    import errno

    owner, name = moments()[moment]
    original, calls = getattr(owner, name), []

    def wrapped(*args, **kwargs):
        calls.append(None)
        if len(calls) >= count:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(args[-1]))
        return original(*args, **kwargs)

    setattr(owner, name, wrapped)
