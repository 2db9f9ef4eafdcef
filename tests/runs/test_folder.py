"""The folder of a run: made whole or not at all, locked, taken over, and what its meta.json says."""

from __future__ import annotations

import copy
import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import relax_exp
from relax_exp.errors import RunError
from relax_exp.runs import folder, provenance
from relax_exp.runs.atomic_write import is_disk_full, write_atomically
from relax_exp.runs.folder import RunFolder

CONFIG = {
    "task": {"name": "toy", "t": 0.499, "latents": 1},
    "estimator": {"name": "relax", "depth": 1},
    "steps": 100,
    "seeds": [0, 1],
    "lrs": [0.01],
    "track": {},
    "dtype": "float32",
    "out": None,
    "data_root": None,
    "device": "cpu",
    "threads": 1,
    "compile": "auto",
}

HOLDER = """
import json, sys, time
from relax_exp.runs.folder import RunFolder
with RunFolder(sys.argv[1], json.loads(sys.argv[2])) as folder:
    (folder.path / "metrics.jsonl").write_text("{}\\n")
    print("locked", flush=True)
    time.sleep(60)
"""


def changed(**keys) -> dict:
    config = copy.deepcopy(CONFIG)
    for key, value in keys.items():
        if isinstance(value, dict):
            config[key] |= value
        else:
            config[key] = value
    return config


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "runs" / "toy" / "relax-0123456789"


@pytest.fixture
def holder(path):
    """Another process that holds the folder."""
    with subprocess.Popen([sys.executable, "-c", HOLDER, path, json.dumps(CONFIG)], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout.readline() == b"locked\n"
            yield process
        finally:
            process.kill()


def names(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir())


def test_a_run_from_start_to_end(path):
    assert not RunFolder.finished(path, CONFIG)
    assert not path.parent.exists()  # a look changes nothing
    with RunFolder(path, CONFIG) as folder:
        assert names(path) == ["config.yaml", "lock", "meta.json"]
        assert yaml.safe_load((path / "config.yaml").read_text()) == CONFIG
        assert folder.meta["status"] == "running"
        assert not RunFolder.finished(path, CONFIG)
        (path / "metrics.jsonl").touch()
        folder.update_meta(status="done")
        assert json.loads((path / "meta.json").read_text()) == folder.meta
    assert names(path) == ["config.yaml", "meta.json", "metrics.jsonl"]
    assert RunFolder.finished(path, CONFIG)
    assert json.loads((path / "meta.json").read_text())["end"]


def test_a_run_whose_replicas_failed_is_finished(path):
    with RunFolder(path, CONFIG) as folder:
        (path / "metrics.jsonl").touch()
        folder.update_meta(status="failed")
    assert RunFolder.finished(path, CONFIG)


def test_an_interrupted_run_goes_on(path):
    with pytest.raises(KeyboardInterrupt), RunFolder(path, CONFIG) as folder:
        (path / "checkpoint.pt").touch()
        start = folder.meta["start"]
        replicas = [folder.meta["replicas"][0], folder.meta["replicas"][1] | {"status": "failed", "reason": "NaN"}]
        folder.update_meta(replicas=replicas, start="2020-01-01T00:00:00+00:00")
        raise KeyboardInterrupt
    assert json.loads((path / "meta.json").read_text())["status"] == "interrupted"
    assert not RunFolder.finished(path, CONFIG)
    with RunFolder(path, CONFIG) as folder:
        assert folder.meta["status"] == "running"
        assert folder.meta["replicas"] == replicas
        assert folder.meta["start"] == "2020-01-01T00:00:00+00:00"
        assert len(folder.meta["resumed"]) == 1 and folder.meta["resumed"][0] >= start


@pytest.mark.parametrize("error", [RunError("no such device"), ValueError("a bug"), KeyboardInterrupt()])
def test_a_run_that_produced_nothing_leaves_nothing(tmp_path, path, error):
    with pytest.raises(type(error)), RunFolder(path, CONFIG):
        raise error
    assert names(tmp_path) == []


@pytest.mark.parametrize("broken", ["config.yaml", "meta.json"])
def test_half_made_folders_vanish(tmp_path, path, monkeypatch, broken):
    def write(target, content):
        if target.name == broken:
            raise OSError(errno.ENOSPC, "No space left on device", str(target))
        write_atomically(target, content)

    monkeypatch.setattr(folder, "write_atomically", write)
    with pytest.raises(OSError) as caught, RunFolder(path, CONFIG):
        pass
    assert is_disk_full(caught.value)
    assert names(tmp_path) == []


def test_what_was_there_before_stays(tmp_path, path, monkeypatch):
    path.mkdir(parents=True)
    monkeypatch.setattr(provenance, "collect", lambda *given: 1 / 0)
    with pytest.raises(ZeroDivisionError), RunFolder(path, CONFIG):
        pass
    assert path.is_dir()


def test_a_full_disk_at_the_end_does_not_hide_the_error(path, monkeypatch):
    def full(target, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(ValueError, match="the reason"), RunFolder(path, CONFIG):
        (path / "metrics.jsonl").touch()
        monkeypatch.setattr(folder, "write_atomically", full)
        raise ValueError("the reason")


def test_another_configuration_is_refused(path):
    with RunFolder(path, CONFIG):
        (path / "metrics.jsonl").touch()
    other = changed(steps=7, seeds=[2], lrs=[0.1], task={"t": 0.4}, estimator={"depth": 2})
    for attempt in (lambda: RunFolder.finished(path, other), RunFolder(path, other).__enter__):
        with pytest.raises(RunError) as caught:
            attempt()
        assert "another configuration (task.t: 0.499 there, 0.4 here; estimator.depth: 1 there, 2 here" in str(
            caught.value
        )
        assert "and 2 more" in str(caught.value) and "out=" in str(caught.value)
    assert yaml.safe_load((path / "config.yaml").read_text()) == CONFIG
    assert "lock" not in names(path)


def test_a_key_of_another_version_is_named(path):
    with RunFolder(path, changed(task={"old": 1})):
        (path / "metrics.jsonl").touch()
    with pytest.raises(RunError, match=r"task\.old: 1 there, absent here"):
        RunFolder.finished(path, CONFIG)


@pytest.mark.parametrize(
    "change", [{"out": "x"}, {"device": "cuda"}, {"threads": 2}, {"compile": False}, {"data_root": "/data"}]
)
def test_the_machine_may_change(path, change):
    with RunFolder(path, CONFIG):
        (path / "metrics.jsonl").touch()
    assert not RunFolder.finished(path, changed(**change))
    with RunFolder(path, changed(**change)):
        assert yaml.safe_load((path / "config.yaml").read_text()) == changed(**change)


def test_folders_with_other_things_are_refused(tmp_path):
    (tmp_path / "thesis.tex").touch()
    for attempt in (lambda: RunFolder.finished(tmp_path, CONFIG), RunFolder(tmp_path, CONFIG).__enter__):
        with pytest.raises(RunError, match=r"holds other things \(thesis\.tex\)"):
            attempt()
    assert names(tmp_path) == ["thesis.tex"]


@pytest.mark.parametrize("below", ["", "/deeper/still"])
def test_a_file_in_the_way(tmp_path, below):
    (tmp_path / "file").touch()
    path = Path(f"{tmp_path}/file{below}")
    for attempt in (lambda: RunFolder.finished(path, CONFIG), RunFolder(path, CONFIG).__enter__):
        with pytest.raises(RunError, match=r"cannot write .*file"):
            attempt()
    assert names(tmp_path) == ["file"]


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="no /proc here")
def test_where_nobody_may_write():
    with pytest.raises(RunError, match="cannot write /proc/relax-exp"), RunFolder("/proc/relax-exp", CONFIG):
        pass


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_no_permission(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(RunError, match="no permission"):
        RunFolder.finished(tmp_path / "run", CONFIG)


@pytest.mark.parametrize("name, content", [("config.yaml", "steps: ["), ("config.yaml", "7"), ("meta.json", "{")])
def test_damaged_files_are_named(path, name, content):
    with RunFolder(path, CONFIG):
        (path / "metrics.jsonl").touch()
    (path / name).write_text(content)
    with pytest.raises(RunError, match=rf"{name} cannot be read .* delete .* to start over"):
        RunFolder.finished(path, CONFIG)


def test_one_process_at_a_time(path, holder):
    with pytest.raises(RunError, match=rf"is being written by process {holder.pid} on "), RunFolder(path, CONFIG):
        pass
    assert names(path) == ["config.yaml", "lock", "meta.json", "metrics.jsonl"]


def test_a_killed_process_is_succeeded(path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert json.loads((path / "meta.json").read_text())["status"] == "running"
    assert not RunFolder.finished(path, CONFIG)
    with RunFolder(path, CONFIG) as folder:
        assert len(folder.meta["resumed"]) == 1
        with pytest.raises(RunError, match=f"process {os.getpid()} "), RunFolder(path, CONFIG):
            pass
    assert names(path) == ["config.yaml", "meta.json", "metrics.jsonl"]


def test_what_a_process_killed_early_left_is_no_obstacle(path):
    path.mkdir(parents=True)
    (path / ".config.yaml.tmp").touch()
    (path / "lock").write_text("process 1 on nowhere")
    assert not RunFolder.finished(path, CONFIG)
    with RunFolder(path, CONFIG):
        assert (path / "lock").read_text().startswith(f"process {os.getpid()} ")


def test_files_are_written_whole_or_not_at_all(tmp_path, monkeypatch):
    target = tmp_path / "table.md"
    write_atomically(target, "old")
    monkeypatch.setattr(os, "replace", lambda *paths: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_atomically(target, b"new")
    assert target.read_text() == "old" and names(tmp_path) == ["table.md"]


def test_provenance(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/relax-exp", "task=toy", "seeds=[0,1]"])
    monkeypatch.setattr(provenance, "command", None)
    meta = provenance.collect(CONFIG)
    assert meta["command"] == "relax-exp task=toy 'seeds=[0,1]'"
    assert meta["versions"]["relax-exp"] == relax_exp.__version__ and "numpy" in meta["versions"]
    assert meta["hardware"]["cores"] >= 1 and meta["hardware"]["cpu"]
    assert meta["replicas"][1] == {"seed": 1, "lr": 0.01, "status": "running", "reason": None}
    assert meta["threads"] == 1 and json.loads(json.dumps(meta)) == meta
    monkeypatch.setattr(sys, "argv", ["/somewhere/relax_exp/__main__.py", "task=toy"])
    assert provenance.command_line() == "python -m relax_exp task=toy"


def test_git_state(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "SOURCE", tmp_path)
    assert provenance.git_state() is None  # no repository
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", tmp_path]
    subprocess.run([*git, "init", "-q"], check=True)
    assert provenance.git_state() is None  # no commit
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "first"], check=True)
    clean = provenance.git_state()
    assert len(clean["commit"]) == 40 and not clean["dirty"]
    (tmp_path / "estimator.py").touch()
    assert provenance.git_state() == clean | {"dirty": True}
