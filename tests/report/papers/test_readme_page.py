"""Table 1's headline in the README above the folders of results: filled with them, and named where it is stale."""

import pytest
from folders import cells_of
from test_table1 import run

from relax_exp.cli.report import main
from relax_exp.report.papers.readme import headline
from relax_exp.report.results import collect

MARKS = "before\n<!-- table1 -->\n<!-- /table1 -->\nafter\n"


@pytest.fixture
def page(tmp_path):
    """A page with marks above the results of RELAX (two seeds), of REBAR (unfinished), and of no run at all."""
    run(tmp_path / "runs" / "vae" / "relax")
    run(tmp_path / "runs" / "vae" / "rebar", "rebar", seeds=(0,), state="running")
    page = tmp_path / "README.md"
    page.write_text(MARKS)
    collect("table1", [tmp_path / "runs"], tmp_path / "results")
    return page


def test_it_is_filled(page):
    text = page.read_text()
    assert text.startswith("before\n<!-- table1 -->\n\n|") and text.endswith("\n\n<!-- /table1 -->\nafter\n")
    lines = [[field.strip() for field in line.strip("|").split("|")] for line in text.splitlines() if "|" in line]
    assert lines[0][2:4] == ["draft REBAR", "draft RELAX"] and len(lines) == 2 + 6
    of = {tuple(line[:2]): line[2:] for line in lines[2:]}
    # t interval of (-110, -109): 12.706 * .7071 / sqrt(2)
    ours = ["-110.00 ‡", "-109.50 ± 6.35", "1k, 1; 1k, 2", "–"]
    assert of["MNIST", "one linear layer"] == ["-111.66", "-111.22", "-111.60", "-111.20", *ours]
    assert of["Omniglot", "nonlinear"][-4:] == ["not run", "not run", "–", "–"]


def test_it_says_how_wide_the_nonlinear_decoder_was(tmp_path):
    run(tmp_path / "runs" / "relax", model="nonlinear", decoder_hidden=784)
    run(tmp_path / "runs" / "rebar", "rebar", model="nonlinear", decoder_hidden=784)
    table = headline(cells_of(tmp_path / "runs"))
    assert [row[-1] for row in table.rows[:3]] == ["–", "–", "784"]


def test_a_stale_one_is_named_and_made_anew(page, capsys):
    results, right = str(page.parent / "results"), page.read_text()
    assert main(["--check", results]) == 0
    page.write_text(right.replace("-109.50", "-100.00"))
    assert main(["--check", results]) == 1
    assert "README.md: line 6 is" in capsys.readouterr().out
    assert main(["--render", results]) == 0 and page.read_text() == right


def test_a_page_without_marks_stays(page):
    results = str(page.parent / "results")
    for text in ("mine\n", "<!-- table1 -->\nnot closed\n", MARKS.replace("table1", "toy")):
        page.write_text(text)
        assert main(["--check", results]) == 0 and main(["--render", results]) == 0
        assert page.read_text() == text


def test_of_runs_of_several_lengths_it_shows_the_longest(tmp_path):
    short, long = {"steps": 1000}, {"steps": 5000, "levels": (-115.0, -105.0), "bound_every": 2500}
    for estimator in ("relax", "rebar"):
        run(tmp_path / "runs" / "a" / estimator, estimator, **long)
        run(tmp_path / "runs" / "z" / estimator, estimator, **short)
    line = next(row for row in headline(cells_of(tmp_path / "runs")).rows if row[:2] == ["mnist", "linear1"])
    assert line[6:9] == ["-104.50 ± 6.35", "-104.50 ± 6.35", "5k, 2"]
