"""relax-exp-report on what people have: runs of different lengths, damaged folders, one experiment among others."""

import json

import pytest
from folders import toy_run, vae_run

from relax_exp.cli.report import gathered, main, status
from relax_exp.errors import ReportError
from relax_exp.report.formats import Table, console
from relax_exp.report.runs import read_run


def test_runs_of_different_lengths_are_rows(tmp_path, capsys):
    vae_run(tmp_path / "runs" / "a", points=30)
    vae_run(tmp_path / "runs" / "b", points=20)
    assert main([str(tmp_path / "runs"), "-o", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert "relax (steps=300)" in out and "relax (steps=200)" in out


def test_what_cannot_be_read_is_named_and_the_rest_reported(tmp_path, capsys):
    toy_run(tmp_path / "runs" / "good")
    damaged = toy_run(tmp_path / "runs" / "damaged", "rebar")
    lines = (damaged / "metrics.jsonl").read_text().splitlines()
    (damaged / "metrics.jsonl").write_text("\n".join([lines[0], "{torn", *lines[1:]]) + "\n")
    for name in ("meta.json", "config.yaml"):
        (toy_run(tmp_path / "runs" / f"without_{name}", "nvil") / name).unlink()
    assert main([str(tmp_path / "runs"), "-o", str(tmp_path / "out")]) == 1
    said = capsys.readouterr()
    assert "| relax" in said.out and "rebar" not in said.out
    assert "damaged/metrics.jsonl: line 2 is damaged" in said.err
    assert "without_meta.json: it has no meta.json" in said.err
    assert "without_config.yaml: it has no config.yaml" in said.err
    assert (tmp_path / "out" / "figure1.png").is_file()


def test_a_run_without_metrics_is_not_simply_done(tmp_path):
    path = toy_run(tmp_path / "a")
    (path / "metrics.jsonl").unlink()
    assert "done, but without metrics" in status([tmp_path])


def test_status_counts_the_steps_of_the_last_checkpoint(tmp_path):
    path = toy_run(tmp_path / "a", state="running", upto=50)
    meta = json.loads((path / "meta.json").read_text())
    (path / "meta.json").write_text(json.dumps(meta | {"step": 77}))
    assert "77 of 100" in status([tmp_path])


def test_experiment_and_budget_are_honoured(tmp_path, capsys):
    toy_run(tmp_path / "a")
    assert main([str(tmp_path), "--experiment", "toy", "--budget", "cpu"]) == 1
    assert "no runs of experiment=toy budget=cpu found" in capsys.readouterr().err
    assert main([str(tmp_path), "--budget", "cpu"]) == 2
    assert "--budget goes with --experiment" in capsys.readouterr().err
    with pytest.raises(ReportError, match="unknown experiment"):
        gathered([tmp_path], "tyo", "cpu")


def test_the_version(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0 and capsys.readouterr().out.startswith("relax-exp-report ")


def test_a_table_fits_the_terminal():
    headers = ["task", "estimator", "lr", "a long heading of numbers", "another long heading", "status"]
    rows = [["toy", name, "0.01", "1.0", "2.0", "done"] for name in ("relax", "rebar")]
    made = console(
        Table("x", "Toy problem", headers, rows, "A note that is longer than the terminal is wide. " * 2), 60
    )
    assert max(map(len, made.splitlines())) <= 60
    assert "task toy, lr 0.01" in made
    rows[1][3] = "5.0"
    made = console(Table("x", "Toy problem", headers, rows, "Note."), 40)
    assert "relax" in made and "1.0" in made
    wide = [[*row[:3], "1.0", str(i), "done"] for i, row in enumerate(rows)]
    wide[0][3] = "3.0"
    made = console(Table("x", "Toy problem", headers, wide, "Note."), 40)
    assert "Not shown here, but in the files:\nanother long heading." in made
    assert console(Table("x", "T", headers, rows, "Note."), None).startswith("## T\n\n| task")


def test_steps_of_a_run_are_read(tmp_path):
    assert read_run(toy_run(tmp_path / "a")).step == 100
