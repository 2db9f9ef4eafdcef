"""The command relax-exp-report: what it writes, prints and refuses."""

import json
import subprocess
import sys

import pytest
from folders import configuration, toy_run, vae_run, write_run
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from relax_exp.cli.report import gathered, main


def test_report_writes_what_it_says(tmp_path, capsys):
    for name in ("reinforce", "relax"):
        toy_run(tmp_path / "runs" / name, name, git={"commit": "0123456789abcdef", "dirty": True})
    vae_run(tmp_path / "runs" / "vae")
    assert main([str(tmp_path / "runs")]) == 0
    out = capsys.readouterr().out
    written = {path.name for path in (tmp_path / "runs" / "report").iterdir()}
    figure_names = {f"{name}.{kind}" for name in ("figure1", "vae_digits_linear1") for kind in ("png", "svg")}
    assert written == {"table.md", "table.csv", "table.tex", "summary.json", "tb"} | figure_names
    assert {line.rsplit("/", 1)[1] for line in out.splitlines() if line.startswith("wrote ")} == written
    board = EventAccumulator(str(tmp_path / "runs" / "report" / "tb"))
    board.Reload()
    (text,) = board.Tensors("tables/toy")[0].tensor_proto.string_val
    assert text.decode().startswith("## Toy problem\n") and "relax" in text.decode()
    assert "## Toy problem" in out and "## Binary VAE" in out
    markdown = (tmp_path / "runs" / "report" / "table.md").read_text()
    assert "- runs/relax: `relax-exp out=relax` (commit 0123456789 + changes)" in markdown
    assert str(tmp_path) not in markdown + (tmp_path / "runs" / "report" / "table.csv").read_text()
    for path in (tmp_path / "runs" / "report").iterdir():
        assert path.is_dir() or path.stat().st_size > (5000 if path.suffix in (".png", ".svg") else 100)


def test_figures_of_several_problems_are_named(tmp_path):
    toy_run(tmp_path / "a")
    toy_run(tmp_path / "b", t=0.45)
    assert main([str(tmp_path), "-o", str(tmp_path / "out")]) == 0
    names = {path.name for path in (tmp_path / "out").glob("*.png")}
    assert names == {"figure1_t-0.499.png", "figure1_t-0.45.png"}


def test_no_runs_is_a_short_error_and_leaves_nothing(tmp_path, capsys):
    out = tmp_path / "out"
    assert main([str(tmp_path), "-o", str(out)]) == 1
    assert main([str(tmp_path / "nowhere"), "-o", str(out)]) == 1
    assert main([str(tmp_path), "--status"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 3 and "no runs found" in error and "no such folder" in error
    assert not out.exists()


def test_refusals_and_unwritable_places_are_short_errors(tmp_path, capsys):
    toy_run(tmp_path / "runs" / "a", seeds=(0, 1))
    (tmp_path / "file").write_text("")
    assert main([str(tmp_path / "runs"), "-o", str(tmp_path / "file")]) == 1
    assert "cannot write to" in capsys.readouterr().err
    toy_run(tmp_path / "runs" / "b", seeds=(2, 3), batch_size=8)
    assert main([str(tmp_path / "runs"), "-o", str(tmp_path / "out")]) == 1
    captured = capsys.readouterr()
    assert "batch_size: 1, 8" in captured.err and captured.out == ""
    assert not (tmp_path / "out").exists()
    assert main([str(tmp_path / "runs"), "-o", str(tmp_path / "out"), "--by", "batch_size"]) == 0
    with pytest.raises(SystemExit) as error:
        main(["--unknown"])
    assert error.value.code == 2


def test_status_lists_every_run_and_damaged_ones(tmp_path, capsys):
    done = toy_run(tmp_path / "done")
    toy_run(tmp_path / "running", "rebar", state="running", upto=50)
    damaged = toy_run(tmp_path / "torn")
    (damaged / "meta.json").write_text("{")
    assert main([str(tmp_path), "--status"]) == 1
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert "done" in lines[str(done)] and "100 of 100" in lines[str(done)]
    assert "rebar" in lines[str(tmp_path / "running")] and "50 of 100" in lines[str(tmp_path / "running")]
    assert "unreadable" in lines[str(damaged)]
    _, left_out = gathered([tmp_path])
    assert any(str(damaged) in text for text in left_out)


def test_status_lists_studies_whose_rows_belong_to_no_replica(tmp_path, capsys):
    task = {"name": "temperature", "problem": "cos", "categories": 4}
    study = write_run(tmp_path / "study", configuration(task, "all", [0]), [])
    rows = {"gradient": [{"estimator": "concrete", "temperature": 0.5, "seed": 0, "bias": 0.1}]}
    (study / "table.json").write_text(json.dumps(rows))
    assert main([str(tmp_path), "--status"]) == 0
    assert "temperature" in capsys.readouterr().out


def test_help_and_reading_import_nothing_heavy():
    heavy = "{'torch', 'matplotlib', 'scipy', 'pandas'}"
    code = f"""
import sys
from relax_exp.cli.report import main
try:
    main(["--help"])
except SystemExit:
    pass
assert not {heavy} & set(sys.modules)
import relax_exp.report.tables, relax_exp.report.figures.curves
assert "torch" not in sys.modules and "matplotlib.pyplot" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "relax-exp-report" in done.stdout
