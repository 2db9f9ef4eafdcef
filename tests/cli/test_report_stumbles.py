"""relax-exp-report on what people have: runs of different lengths, damaged folders, one experiment among others."""

import fcntl
import json

import pytest
from folders import toy_run, vae_run

from relax_exp.cli.report import gathered, main
from relax_exp.cli.status import status
from relax_exp.errors import ConfigError
from relax_exp.report.formats import Table, console
from relax_exp.report.runs import read_run


def test_runs_of_different_lengths_are_rows(tmp_path, capsys):
    vae_run(tmp_path / "runs" / "a", points=30)
    vae_run(tmp_path / "runs" / "b", points=20)
    assert main([str(tmp_path / "runs"), "-o", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert "relax (300 steps)" in out and "relax (200 steps)" in out


def test_what_cannot_be_read_is_named_and_the_rest_reported(tmp_path, capsys):
    toy_run(tmp_path / "runs" / "good")
    damaged = toy_run(tmp_path / "runs" / "damaged", "rebar")
    lines = (damaged / "metrics.jsonl").read_text().splitlines()
    (damaged / "metrics.jsonl").write_text("\n".join([lines[0], "{torn", *lines[1:]]) + "\n")
    for name in ("meta.json", "config.yaml"):
        (toy_run(tmp_path / "runs" / f"without_{name}", "nvil") / name).unlink()
    assert main([str(tmp_path / "runs"), "-o", str(tmp_path / "out")]) == 1
    said = capsys.readouterr()
    assert "| relax" in said.out and "| rebar" in said.out and "nvil" not in said.out
    assert f"left out line 2 of {damaged / 'metrics.jsonl'}: it is damaged" in said.err
    assert "without_meta.json: it has no meta.json" in said.err
    assert "without_config.yaml: it has no config.yaml" in said.err
    assert (tmp_path / "out" / "figure1.png").is_file()


def test_a_run_without_metrics_is_not_simply_done(tmp_path, capsys):
    path = toy_run(tmp_path / "a")
    toy_run(tmp_path / "b", "rebar")
    (path / "metrics.jsonl").unlink()
    text, left_out = status([tmp_path])
    assert "done, but without metrics" in text and len(left_out) == 1
    assert main([str(tmp_path), "-o", str(tmp_path / "out")]) == 1
    said = capsys.readouterr()
    assert f"left out {path}: it says that it is done, but has no evaluations" in said.err and "| rebar" in said.out


def test_status_counts_the_steps_of_the_last_checkpoint(tmp_path):
    path = toy_run(tmp_path / "a", state="running", upto=50)
    meta = json.loads((path / "meta.json").read_text())
    (path / "meta.json").write_text(json.dumps(meta | {"step": 77}))
    assert "77 of 100" in status([tmp_path])[0]
    (path / "meta.json").write_text(json.dumps(meta | {"step": 50, "saved_step": 87}))
    assert "87 of 100" in status([tmp_path])[0]
    (path / "meta.json").write_text(json.dumps(meta | {"step": 50, "saved_step": 37}))
    assert "37 of 100" in status([tmp_path])[0]  # the evaluation at 50 is done again
    with open(path / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "50 of 100" in status([tmp_path])[0]


def test_status_names_what_it_leaves_out(tmp_path, capsys):
    toy_run(tmp_path / "good")
    (toy_run(tmp_path / "bare") / "meta.json").unlink()
    damaged = toy_run(tmp_path / "damaged")
    with open(damaged / "metrics.jsonl", "a") as file:
        file.write("{torn\n")
    assert main([str(tmp_path), "--status"]) == 1
    said = capsys.readouterr()
    assert "100 of 100" in said.out and "bare: it has no meta.json" in said.err and "it is damaged" in said.err
    (damaged / "config.yaml").write_text("[")
    assert main([str(tmp_path), "--status"]) == 1
    assert "cannot read" in capsys.readouterr().err


def test_experiment_and_budget_are_honoured(tmp_path, capsys):
    toy_run(tmp_path / "a")
    assert main([str(tmp_path), "--experiment", "toy", "--budget", "cpu"]) == 1
    assert "no runs of experiment=toy budget=cpu found" in capsys.readouterr().err
    assert main([str(tmp_path), "--budget", "cpu"]) == 2
    assert "--budget goes with --experiment" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="unknown experiment"):
        gathered([tmp_path], "tyo", "cpu")
    unknown = ["--experiment", "tyo", "--budget", "cpu"]
    assert main([str(tmp_path), *unknown]) == main([str(tmp_path), "--status", *unknown]) == 2
    assert main([str(tmp_path), "--experiment", "toy"]) == 2
    assert "--experiment toy needs its --budget" in capsys.readouterr().err


@pytest.mark.parametrize(
    "given, said",
    [
        (
            "--collect it --experiment toy --budget cpu",
            "--experiment goes with a report or --status, not with --collect",
        ),
        ("--render --experiment toy", "--experiment goes with a report or --status, not with --render"),
        ("--check --by steps", "--by goes with a report, not with --check"),
        ("--status --budget cpu", "--budget goes with --experiment NAME or --collect NAME"),
        ("--check --add", "--add goes with --collect NAME"),
        ("--check -o out", "--out goes with a report or --collect, not with --check"),
    ],
)
def test_an_option_that_would_not_be_heard_is_refused(given, said, tmp_path, capsys):
    toy_run(tmp_path / "a")
    before = sorted(tmp_path.rglob("*"))
    assert main([str(tmp_path), *given.split()]) == 2
    assert said in capsys.readouterr().err and sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("given", ["--check --render", "--status --collect it"])
def test_two_commands_at_once_are_refused(given, tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        main([str(tmp_path), *given.split()])
    assert end.value.code == 2 and "not allowed with" in capsys.readouterr().err


def test_a_file_where_a_folder_is_to_be_is_named(tmp_path, capsys):
    toy_run(tmp_path / "a")
    assert main([str(tmp_path / "a"), "--collect", "it", "-o", str(tmp_path / "results")]) == 0
    page = tmp_path / "results" / "it" / "README.md"
    page.unlink()
    page.mkdir()
    assert main([str(tmp_path / "results"), "--render"]) == 1
    assert f"cannot read or write {page}: Is a directory" in capsys.readouterr().err


def test_ctrl_c_leaves_the_prompt_a_line_of_its_own(tmp_path, monkeypatch, capsys):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("relax_exp.cli.report.gathered", stop)
    assert main([str(tmp_path)]) == 130
    assert capsys.readouterr().err == "\n"


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


def test_a_table_of_one_row_stands_upright_on_a_terminal():
    headers = ["task", "estimator", "train ELBO", "valid ELBO, all", "test ELBO", "status"]
    row = ["mnist linear1", "relax", "-100.00", "-101.00", "–", "done"]
    made = console(Table("vae", "Binary VAE", headers, [row], "A note."), 40)
    assert max(map(len, made.splitlines())) <= 40
    assert "MNIST, one linear layer" in made and "-101.00" in made and "test ELBO" not in made


def test_the_emptiest_columns_leave_first():
    headers = ["task", "estimator", "concrete", "nvil", "relax"]
    rows = [
        ["toy", "a", "0.1", "0.2", "1.0"],
        ["toy", "b", "not run", "–", "2.0"],
        ["toy", "c", "not run", "0.3", "3.0"],
    ]
    made = console(Table("x", "T", headers, rows, "Note."), 38)
    assert "relax" in made and "0.3" in made and "not run" not in made
    assert "Not shown here, but in the files:\nconcrete." in made


def test_the_list_of_runs_fits_the_terminal(tmp_path, monkeypatch):
    toy_run(tmp_path / "runs" / "a-run-with-a-name")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "1")
    text, _ = status([tmp_path])
    assert "estimator" not in text and "100 of 100" in text
