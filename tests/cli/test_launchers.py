"""Sweeps over several processes with joblib, and over a cluster with SLURM, whose commands are faked."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
pytest.importorskip("hydra_plugins.hydra_submitit_launcher")

# In every worker: a run takes no time, and one of them ends as asked for.
SITE = """
import json, os, signal, sys, types
sys.modules["relax_exp.runs.run"] = run = types.ModuleType("relax_exp.runs.run")
def execute(config):
    from relax_exp.runs import provenance
    from relax_exp.config.identity import run_path
    from relax_exp.errors import RunError
    from relax_exp.runs.folder import RunFolder
    path, seed = run_path(config), config["seeds"][0]
    if RunFolder.finished(path, config):
        return 0
    with RunFolder(path, config) as folder:
        (path / "metrics.jsonl").write_text("")
        how = os.environ.get(f"SEED_{seed}")
        if how == "bug":
            raise ZeroDivisionError("a bug in seed 3")
        if how == "mendable":
            raise RunError("cannot, today")
        if how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        folder.update_meta(status="done")
    with open("executed", "a") as file:
        file.write(f"{seed} {os.getpid()}\\n")
    return 0
run.execute = execute
"""

SBATCH = """#!{python}
import os, re, subprocess, sys
text = open(sys.argv[1]).read()
last, most = map(int, re.search(r"--array=0-(\\d+)%(\\d+)", text).groups())
open("header", "w").write(text)
job = os.getpid()
one = f"SLURM_JOB_ID=$(({{job}}+$0)) SLURM_ARRAY_JOB_ID={{job}} SLURM_ARRAY_TASK_ID=$0 "
one += "SLURM_NTASKS=1 SLURM_JOB_NUM_NODES=1 SLURM_NODEID=0 SLURM_PROCID=0 SLURM_LOCALID=0 exec bash " + sys.argv[1]
queue = f"sleep 0.5; seq 0 {{last}} | xargs -P {{most}} -I@ bash -c '{{one}}' @"
subprocess.Popen(["bash", "-c", queue], stdout=open("queue.log", "w"), stderr=subprocess.STDOUT, start_new_session=True)
print("Submitted batch job", job)
"""
SRUN = """#!{python}
import os, sys
arguments = sys.argv[1:]
while arguments[0].startswith("-"):
    option = arguments.pop(0)
    if option in ("--output", "--error"):
        job, task = os.environ["SLURM_ARRAY_JOB_ID"], os.environ["SLURM_ARRAY_TASK_ID"]
        path = arguments.pop(0).replace("%A", job).replace("%a", task).replace("%t", "0")
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), 1 if option == "--output" else 2)
os.execvp(arguments[0], arguments)
"""
SACCT = """#!{python}
import sys
job = sys.argv[sys.argv.index("-j") + 1]
print("JobID|State|NodeList", *(f"{{job}}_{{task}}|RUNNING|here" for task in range(6)), sep="\\n")
"""
SCANCEL = """#!{python}
raise SystemExit("nothing should be cancelled")
"""


@pytest.fixture
def sweep(tmp_path):
    """Runs ``relax-exp LINE`` with faked runs and a faked cluster: the process. ``sweep.work``: its folder."""
    (tmp_path / "sitecustomize.py").write_text(SITE)
    (tmp_path / "bin").mkdir()
    for name, text in {"sbatch": SBATCH, "srun": SRUN, "sacct": SACCT, "scancel": SCANCEL}.items():
        (tmp_path / "bin" / name).write_text(text.format(python=sys.executable))
        (tmp_path / "bin" / name).chmod(0o755)
    work = tmp_path / "work"
    work.mkdir()
    python_path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PYTHONPATH": python_path, "PATH": path}

    def run(line, **more):
        command = [sys.executable, "-m", "relax_exp", *shlex.split(line)]
        return subprocess.run(command, cwd=work, env=environment | more, capture_output=True, text=True, timeout=100)

    run.work = work
    return run


def statuses(work: Path) -> dict[int, str]:
    """What meta.json of every run says, by seed."""
    metas = [json.loads(path.read_text()) for path in work.glob("runs/toy/*/meta.json")]
    return {meta["replicas"][0]["seed"]: meta["status"] for meta in metas}


JOBLIB = "-m task=toy estimator=relax seed=0,1,2,3,4,5 hydra/launcher=joblib hydra.launcher.n_jobs=2"
SLURM = (
    "-m task=toy estimator=relax seed=0,1,2,3,4,5 hydra/launcher=submitit_slurm hydra.launcher.array_parallelism=2 "
    "hydra.launcher.timeout_min=17 hydra.launcher.partition=short"
)


@pytest.mark.parametrize("line", [JOBLIB, SLURM], ids=["joblib", "slurm"])
def test_one_of_six_fails(sweep, line):
    done = sweep(line, SEED_3="bug")
    assert done.returncode == 1
    assert statuses(sweep.work) == {0: "done", 1: "done", 2: "done", 3: "interrupted", 4: "done", 5: "done"}
    assert len({row.split()[1] for row in (sweep.work / "executed").read_text().splitlines()}) > 1, "one process"
    # The traceback is in the run's folder, and named where the sweep ends.
    (file,) = sweep.work.glob("runs/toy/*/error.txt")
    text = file.read_text()
    assert text.startswith("relax-exp task=toy estimator=relax seed=3\n")
    assert "Traceback" in text and "in execute" in text and text.endswith("ZeroDivisionError: a bug in seed 3\n")
    summary = done.stderr[done.stderr.index("relax-exp: 1 of 6 jobs failed:\n") :]
    said = f"ZeroDivisionError: a bug in seed 3 (traceback in {file.relative_to(sweep.work)})"
    assert summary.splitlines()[1] == f"  task=toy estimator=relax seed=3: {said}"
    if "slurm" in line:
        header = (sweep.work / "header").read_text()
        assert "--array=0-5%2" in header and "--time=17" in header and "--partition=short" in header
        (log,) = sweep.work.glob(".submitit/*_3/*_log.err")
        assert "ZeroDivisionError" in log.read_text()
    # Again: the failed one only, which now says why it cannot be run.
    (sweep.work / "executed").unlink()
    again = sweep(line, SEED_3="mendable")
    assert again.returncode == 1
    assert "\n  task=toy estimator=relax seed=3: cannot, today\n" in again.stderr
    assert not file.exists() and not (sweep.work / "executed").exists()


def test_a_worker_that_is_killed(sweep):
    """joblib ends all of them then; what is finished stays finished, and the rest is named."""
    done = sweep(JOBLIB, SEED_1="kill")
    assert done.returncode == 1
    found = statuses(sweep.work)
    assert found[1] == "running"
    unfinished = [seed for seed in range(6) if found.get(seed) != "done"]
    assert f"{len(unfinished)} of 6 jobs failed" in done.stderr
    assert all(f"seed={seed}: ended without an answer; the same command goes on" in done.stderr for seed in unfinished)
    assert sweep(JOBLIB).returncode == 0
    assert statuses(sweep.work) == dict.fromkeys(range(6), "done")


def test_an_experiment_over_processes(sweep):
    done = sweep("experiment=toy budget=smoke hydra/launcher=joblib hydra.launcher.n_jobs=2")
    assert done.returncode == 0, done.stderr
    assert len(list(sweep.work.glob("runs/toy/*/meta.json"))) == 2
