"""The few lines of Table 1 that a page shows, apart from the pages that show them."""

from test_table1 import run

from relax_exp.report.papers import readme

MARKED = "before\n<!-- table1 -->\nold\n<!-- /table1 -->\nafter\n"


def cells(path):
    from folders import cells_of

    run(path / "vae" / "relax")
    return cells_of(path)


def test_what_is_between_the_marks_is_made_anew_and_nothing_else(tmp_path):
    text = readme.inserted(MARKED, "table1", cells(tmp_path))
    assert text.startswith("before\n<!-- table1 -->\n\n| data") and text.endswith("<!-- /table1 -->\nafter\n")
    assert "old" not in text
    assert readme.inserted(text, "table1", cells_again := cells(tmp_path / "again")) == text and cells_again


def test_a_page_without_both_marks_or_without_runs_stays(tmp_path):
    found = cells(tmp_path)
    for text in ("no marks", "<!-- table1 -->\nno end", "<!-- other -->\n<!-- /other -->"):
        assert readme.inserted(text, "table1", found) == text
    assert readme.inserted(MARKED, "table1", []) == MARKED


def test_every_model_has_a_line_with_what_was_not_run_said(tmp_path):
    table = readme.headline(cells(tmp_path))
    assert len(table.rows) == 6 and all(len(row) == len(table.headers) for row in table.rows)
    trained = [row for row in table.rows if row[-2] != readme.EMPTY]
    assert len(trained) == 1
    assert readme.headline([]) is None
