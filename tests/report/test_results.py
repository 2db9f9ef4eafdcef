"""Folders of results: runs put into one and read back are the same runs, and their tables can be made again."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from folders import cells_of, configuration, records, runs_of, toy_run, write_run

from relax_exp.cli.report import main
from relax_exp.errors import ReportError
from relax_exp.report import archive
from relax_exp.report.results import README, check, collect, render

COMMITTED = Path(__file__).parents[2] / "results"


@pytest.fixture(scope="module")
def once(tmp_path_factory):
    """Three toy runs, one of them failed in part, and a folder with their results."""
    path = tmp_path_factory.mktemp("once")
    replicas = [
        {"seed": 0, "lr": 0.01, "status": "done", "reason": None},
        {"seed": 1, "lr": 0.01, "status": "failed", "reason": "loss not finite at step 50"},
    ]
    toy_run(path / "runs" / "rebar", "rebar", git={"commit": "0123456789abcdef", "dirty": False})
    toy_run(path / "runs" / "failed", "reinforce", seeds=(0, 1), state="failed", replicas=replicas)
    toy_run(path / "runs" / "relax")
    collect("toy", [path / "runs"], path / "results", budget="100 of 10,000 steps", missing=["relax-exp a=1"])
    return path


@pytest.fixture
def collected(once, tmp_path):
    """A folder of results, beside the folder of its runs."""
    for name in ("runs", "results"):
        shutil.copytree(once / name, tmp_path / name)
    return tmp_path / "results" / "toy"


def test_the_runs_are_the_same_as_before(collected):
    before, after = cells_of(collected.parents[1] / "runs"), cells_of(collected)
    assert records(before) == records(after)  # eight digits
    for old, new in zip(before, after, strict=True):
        assert (old.task, old.estimator, old.status, old.planned) == (new.task, new.estimator, new.status, new.planned)
        for metric in ("loss", "grad/log_variance", "time/elapsed", "theta"):
            np.testing.assert_allclose(old.series(metric)[1], new.series(metric)[1], rtol=1e-8)
        assert [r.reason for r in old.replicas] == [r.reason for r in new.replicas]
        assert [run.label for run in old.runs] == [run.label for run in new.runs]
        ours, theirs = (cell.replicas[0].run.curves for cell in (old, new))
        assert ours["f"] == pytest.approx(theirs["f"], rel=1e-5)
        assert ours["relaxation"].keys() == theirs["relaxation"].keys()


def test_all_files_are_there_and_check_finds_no_difference(collected):
    names = {path.name for path in collected.iterdir()}
    made = {"table.md", "table.csv", "table.tex", "summary.json", "README.md", "figure1.png", "figure1.svg"}
    assert names == made | {"curves.csv", "provenance.json", "relaxations.json"}
    assert check(collected) == []
    readme = (collected / README).read_text()
    for text in ("100 of 10,000 steps", "`relax-exp a=1`", "commits: 0123456789", "seed 1, lr 0.01): failed"):
        assert text in readme
    relax = next(cell for cell in json.loads((collected / "summary.json").read_text()) if cell["estimator"] == "relax")
    assert relax["rows"] == {"file": "curves.csv", "runs": ["runs/relax"], "lr": 0.01, "step": 100}
    assert (relax["metric"], relax["seeds"]) == ("excess", [0, 1, 2])
    lines = list(csv.DictReader((collected / "curves.csv").read_text().splitlines()))
    there = [float(r["excess"]) for r in lines if r["run"] == "runs/relax" and r["step"] == "100"]
    assert relax["mean"] == pytest.approx(np.mean(there), rel=1e-7)


def test_the_report_takes_them_for_runs(collected, tmp_path, capsys):
    assert main([str(collected), "-o", str(tmp_path / "again")]) == 0
    assert main([str(tmp_path / "runs"), "-o", str(tmp_path / "direct")]) == 0
    for name in ("table.md", "table.csv", "table.tex"):
        assert (tmp_path / "again" / name).read_text() == (tmp_path / "direct" / name).read_text()
    capsys.readouterr()
    assert main(["--check", str(tmp_path / "results")]) == 0
    assert "all as the committed runs give it" in capsys.readouterr().out


def test_results_beside_their_runs_count_once(collected):
    collected.parent.rename(collected.parents[1] / "runs" / "results-smoke")
    assert len(runs_of(collected.parents[1] / "runs")) == 3
    assert len(runs_of(collected.parents[1] / "runs" / "results-smoke")) == 3


def test_a_changed_number_is_named(collected, capsys):
    path = collected / "curves.csv"
    lines = path.read_text().splitlines()
    (last,) = [i for i, line in enumerate(lines) if line.startswith("runs/relax,0,0.01,100,")]
    column = lines[0].split(",").index("excess")
    fields = lines[last].split(",")
    fields[column] = "0.5"
    path.write_text("\n".join([*lines[:last], ",".join(fields), *lines[last + 1 :]]) + "\n")
    assert {difference.split(": line ")[0] for difference in check(collected)} == {
        str(collected / name) for name in ("table.md", "table.csv", "table.tex", "summary.json")
    }
    assert main(["--check", str(collected.parent)]) == 1
    assert "but the committed runs give" in capsys.readouterr().out
    assert main(["--render", str(collected)]) == 0
    assert check(collected) == []


def test_a_table_that_was_edited_or_lost_is_named(collected):
    (collected / "table.csv").unlink()
    table = collected / "table.md"
    table.write_text(table.read_text() + "one line more\n")
    lost, more = sorted(check(collected))
    assert "table.csv: line 1 is missing" in lost
    assert "table.md" in more and "'one line more', but the committed runs give None" in more


def test_a_table_that_nothing_makes_any_more_is_named(collected):
    (collected / "paired.csv").write_text("task\n")
    assert check(collected) == [f"{collected / 'paired.csv'}: the committed runs give no such table any more"]


def test_prose_in_the_readme_stays(collected):
    readme = collected / README
    text = readme.read_text()
    readme.write_text("# Title of mine\n\n" + text.partition("\n\n")[2] + "\nWhat it says.\n")
    render(collected)
    assert readme.read_text().startswith("# Title of mine\n\n<!-- made")
    assert readme.read_text().endswith("\nWhat it says.\n")
    assert check(collected) == []
    readme.write_text("Prose alone.\n")
    render(collected)
    assert readme.read_text().startswith("# toy\n") and readme.read_text().endswith("\nProse alone.\n")


def test_no_path_of_the_machine_is_kept(tmp_path):
    path = toy_run(tmp_path / "runs" / "a", out=str(tmp_path / "x"), data_root="/data")
    meta = json.loads((path / "meta.json").read_text())
    meta["command"] = f"{tmp_path}/bin/relax-exp task=toy out={tmp_path}/x data_root=/data 'seeds=[0,1]' threads=1"
    (path / "meta.json").write_text(json.dumps(meta))
    collect("toy", [path], tmp_path / "results")
    (run,) = runs_of(tmp_path / "results")
    assert run.meta["command"] == "relax-exp task=toy 'seeds=[0,1]' threads=1"
    assert run.config["out"] is None and run.config["data_root"] is None
    for file in (tmp_path / "results" / "toy").glob("*.*"):
        assert str(tmp_path).encode() not in file.read_bytes(), file


def test_of_an_estimator_elsewhere_on_a_machine_the_name_of_its_file_stays():
    config = {"estimator": {"name": "mine", "path": "/home/somebody/mine.py"}, "out": "/tmp/x"}
    assert archive.without_paths(config) == {"estimator": {"name": "mine", "path": "mine.py"}, "out": None}
    near = {"estimator": {"name": "mine", "path": "examples/mine.py"}}
    assert archive.without_paths(near) == near
    command = "relax-exp task=toy ++estimator.path=/home/somebody/mine.py"
    assert archive._meta({"command": command}) == {"command": "relax-exp task=toy estimator.path=mine.py"}
    quoted = """relax-exp task=toy 'estimator.path="/home/x y/mine.py"'"""
    assert archive._meta({"command": quoted}) == {"command": "relax-exp task=toy estimator.path=mine.py"}


def test_long_runs_are_thinned_and_keep_their_end(tmp_path):
    rows = [{"step": s, "seed": 0, "lr": 0.1, "loss": 1 / s, "estimator/temperature": 1.0} for s in range(1, 1004)]
    write_run(tmp_path / "a", configuration({"name": "knapsack"}, "mine", [0], [0.1]), rows)
    collect("long", [tmp_path / "a"], tmp_path)
    _, (run,) = archive.read(tmp_path / "long")
    steps = [row["step"] for row in run.rows]
    assert steps == [*range(6, 1003, 6), 1003]
    assert run.rows[0] == {"seed": 0, "lr": 0.1, "step": 6, "loss": pytest.approx(1 / 6, rel=1e-8)}


def test_the_command_collects(tmp_path, capsys):
    toy_run(tmp_path / "runs" / "a")
    options = ["--collect", "toy", "-o", str(tmp_path / "results"), "--budget", "two minutes"]
    assert main([str(tmp_path / "runs"), *options]) == 0
    assert f"wrote {tmp_path / 'results' / 'toy' / 'curves.csv'}" in capsys.readouterr().out
    assert "- budget: two minutes\n" in (tmp_path / "results" / "toy" / README).read_text()
    assert main([str(tmp_path / "nowhere"), *options]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_nothing_is_written_where_runs_cannot_be_collected(tmp_path):
    with pytest.raises(ReportError, match="no runs found"):
        collect("toy", [], tmp_path / "results")
    toy_run(tmp_path / "runs" / "a", seeds=(0, 1))
    toy_run(tmp_path / "runs" / "b", seeds=(2, 3), batch_size=200)
    with pytest.raises(ReportError, match="--by batch_size"):
        collect("toy", [tmp_path / "runs"], tmp_path / "results")
    toy_run(tmp_path / "other" / "runs" / "a", "rebar")
    with pytest.raises(ReportError, match="two runs are called runs/a"):
        collect("toy", [tmp_path / "runs" / "a", tmp_path / "other"], tmp_path / "results")
    assert not (tmp_path / "results").exists()
    assert main(["--check", str(tmp_path)]) == 1


def test_damage_is_named(collected):
    path = collected / "curves.csv"
    whole = path.read_text()
    path.write_text(whole + "runs/other,0,0.01,100,,1,1\n")
    with pytest.raises(ReportError, match=r"cannot read .*curves\.csv: KeyError: 'runs/other'"):
        check(collected)
    path.write_text(whole.replace(",100,,", ",hundred,,", 1))
    with pytest.raises(ReportError, match=r"cannot read .*curves\.csv: ValueError"):
        check(collected)
    (collected / "provenance.json").write_text("{")
    with pytest.raises(ReportError, match=r"cannot read .*provenance\.json"):
        check(collected)


def study(path, problem):
    """A run of task=temperature: two temperatures of concrete, two schedules of three seeds."""
    accuracy = {"error": 0.01, "sd": 1.0, "rmse": 1.1, "cosine": 0.9}
    gradient = [{"estimator": "concrete", "temperature": t, "bias": t / 10, **accuracy} for t in (0.5, 1.0)]
    gradient += [{"estimator": name, "bias": 0, **accuracy} for name in ("reinforce", "rloo")]
    training = [
        {"estimator": e, "schedule": s, "step": n, "seed": seed, "excess": 0.1 * (seed + 1) / n, "p_best": 0.5}
        for e, s in (("concrete", "fixed 0.5"), ("exact", ""))
        for n in (10, 20)
        for seed in (0, 1, 2)
    ]
    task = {
        "name": "temperature",
        "problem": problem,
        "categories": None,
        "optimizer": "sgd",
        "draws": 50,
        "scale": 1.0,
    }
    write_run(path, configuration(task, "all", [0, 1, 2], [0.1]), [])
    (path / "table.json").write_text(json.dumps({"gradient": gradient, "training": training}))


def test_a_study_of_temperatures_goes_the_same_way(tmp_path):
    study(tmp_path / "runs" / "a", "cos")
    study(tmp_path / "runs" / "b", "arsm")
    written = collect("temperature", [tmp_path / "runs"], tmp_path / "results")
    names = {path.name for path in written}
    assert {"tradeoff_cos4.png", "schedules_cos4.png", "tradeoff_arsm30.png", "table.tex", "curves.csv"} <= names
    assert check(tmp_path / "results" / "temperature") == []
    lines = list(csv.DictReader((tmp_path / "results" / "temperature" / "table.csv").read_text().splitlines()))
    (trained,) = [
        x for x in lines if (x["problem"], x["part"], x["schedule"]) == ("4-way cos", "training", "fixed 0.5")
    ]
    assert float(trained["excess"]) == pytest.approx(0.01)  # the median of .005, .01, .015
    markdown = (tmp_path / "results" / "temperature" / "table.md").read_text()
    assert "| concrete    | 0.5           |   0.05 |" in markdown and "1/(C-1) = 0.0345" in markdown


@pytest.mark.parametrize(
    "folder", sorted(path.parent for path in COMMITTED.rglob("provenance.json")), ids=lambda p: p.name
)
def test_committed_tables_follow_from_committed_runs(folder):
    assert check(folder) == []


def test_runs_are_added_to_those_that_are_there(collected, tmp_path, capsys):
    def labels() -> list[str]:
        return list(json.loads((collected / "provenance.json").read_text())["runs"])

    there, numbers = labels(), (collected / "curves.csv").read_text()
    (again, *others) = sorted((collected.parents[1] / "runs").glob("*/meta.json"))
    assert len(others) == 2
    added = ["--collect", "toy", "--add", "-o", str(collected.parent)]
    assert main([str(again.parent), *added]) == 0  # a run that is there already is not there twice
    assert (labels(), (collected / "curves.csv").read_text()) == (there, numbers)
    assert json.loads((collected / "provenance.json").read_text())["budget"] == "100 of 10,000 steps"
    assert check(collected) == []
    assert main([str(again.parent), "--collect", "toy", "-o", str(collected.parent)]) == 0  # without it, alone
    assert len(labels()) == 1
    assert main([*(str(other.parent) for other in others), *added]) == 0
    assert labels() == there
    assert main([str(again.parent), "--add"]) == 2 and "--collect NAME" in capsys.readouterr().err
