"""Table 1, the table of bounds to reach, and LaTeX, from synthetic runs."""

import csv
import math
import re

import numpy as np
import pytest
import torch
from folders import cells_of, configuration, write_run

from relax_exp.config.resolve import _file, estimator_options
from relax_exp.data import ImageData
from relax_exp.report import formats
from relax_exp.report.formats import Table, escape, latex
from relax_exp.report.papers.bounds import OF_A_LAYER, bounds, evaluations, reach
from relax_exp.report.papers.learning_rates import learning_rates
from relax_exp.report.papers.paired import paired, verdict
from relax_exp.report.papers.published import published
from relax_exp.report.papers.table1 import table1
from relax_exp.report.runs import Run, read_run
from relax_exp.runs.build import make_task


def run(path, estimator="relax", dataset="mnist", model="linear1", seeds=(0, 1), lrs=(1e-3,), levels=(-120.0, -110.0),
        steps=1000, state="done", evaluations=None, whole=False, about=None, **options):  # fmt: skip
    """A VAE run whose bounds rise through ``levels`` at equal distances; seed s adds s, rates above 1e-3 take 5 off."""
    task = {"name": "vae", "dataset": dataset, "model": model, **options}
    estimator = estimator if isinstance(estimator, dict) else {"name": estimator, "noise": "tied"}
    config = configuration(task, estimator, seeds, lrs, steps) | {"batch_size": 24}
    rows = []
    for i, level in enumerate(levels, 1):
        for seed in seeds:
            for lr in lrs:
                bound = level + seed - 5 * (lr > 1e-3)
                values = {"train/elbo": bound, "valid/elbo": bound - 2, "time/elapsed": 10.0 * i}
                if whole or i == len(levels):
                    values |= {"valid/elbo_full": bound - 1, "valid/bound100_full": bound + 4}
                if i == len(levels):
                    values |= {"test/elbo_best": bound - 3, "test/bound100_best": bound + 3}
                rows.append({"step": steps * i // len(levels), "seed": seed, "lr": lr, **values})
    meta = {} if evaluations is None else {"evaluations": evaluations}
    return write_run(path, config, rows, state=state, **meta, **(about or {}))


def lines(table, *start):
    """The rows that begin so, as dictionaries by header."""
    return [
        dict(zip(table.headers, r, strict=True))
        for r in table.rows
        if r is not None and tuple(r[: len(start)]) == start
    ]


def test_published_numbers_are_those_printed():
    vae = published()["vae"]
    assert vae["draft"]["mnist"]["nonlinear"] == {
        "nvil": -102.2, "muprop": -101.5, "rebar_tucker": -101.1, "rebar": -83.02, "relax": -79.49
    }  # fmt: skip
    assert vae["published"]["omniglot"]["nonlinear"]["relax"] == -56.12
    for source in ("draft", "published", "validation", "epochs"):
        assert list(vae[source]) == list(vae["images"])
        assert all(list(models) == ["linear1", "linear2", "nonlinear"] for models in vae[source].values())
    assert published()["rl"]["CartPole"] == {"a2c": [1152, 90], "relax": [472, 114]}


def test_our_numbers_stand_below_the_papers(tmp_path):
    run(tmp_path / "a", seeds=(0, 1, 2))
    run(tmp_path / "b", "rebar", seeds=(0,))
    table = table1(cells_of(tmp_path))
    draft, printed, ours, steps, rate = lines(table, "mnist", "linear1")
    assert (draft["NVIL"], draft["REBAR (Tucker)"], draft["RELAX"]) == ("-112.50", "-111.60", "-111.22")
    assert (draft["Concrete"], printed["Concrete"], printed["REBAR (Tucker)"]) == ("–", "-111.30", "–")
    assert ours["RELAX"] == f"-109.00 ± {4.302652730 / math.sqrt(3):.2f}"  # t(2, .975), s = 1
    assert ours["REBAR"] == "-110.00"  # one seed: no interval
    assert (ours["NVIL"], ours["REBAR (Tucker)"]) == ("not run", "not run")
    assert (steps["RELAX"], steps["REBAR"]) == ("1k of 2M, 3 seeds", "1k of 2M, 1 seed")
    assert rate["RELAX"] == "0.001 (1 tried)"
    assert [r[:2] for r in table.rows if r is not None and r[2] == "draft"] == [["mnist", "linear1"]]
    others = [r for r in table.records if r["source"] == "ours" and r["dataset"] == "omniglot"]
    assert len(others) == 3 * 6 and {r["status"] for r in others} == {"not run"}


def test_the_csv_says_how_the_rate_was_chosen(tmp_path):
    run(tmp_path / "a", lrs=(1e-3, 5e-3))
    found = list(csv.DictReader(formats.to_csv(table1(cells_of(tmp_path)).records).splitlines()))
    (relax,) = [
        r
        for r in found
        if (r["model"], r["dataset"], r["source"], r["estimator"]) == ("linear1", "mnist", "ours", "relax")
    ]
    assert (relax["lr"], relax["lr chosen by"]) == ("0.001", "best final 100-sample validation bound of 0.001, 0.005")
    assert (relax["steps"], relax["published steps"], relax["seeds"]) == ("1000", "2000000", "0 1")
    assert float(relax["bound"]) == -109.5
    nvil = next(r for r in found if (r["source"], r["estimator"]) == ("ours", "nvil"))
    assert (nvil["status"], nvil["bound"]) == ("not run", "")


def test_unequal_steps_and_a_fall_at_the_end_have_lines_of_their_own(tmp_path):
    run(tmp_path / "a", levels=(-130, -120, -110, -112), seeds=(0,))
    run(tmp_path / "b", "nvil", steps=500, levels=(-140, -135), seeds=(0,))
    _, _, ours, common, highest, *_ = lines(table1(cells_of(tmp_path)), "mnist", "linear1")
    assert (ours["RELAX"], ours["NVIL"]) == ("-112.00", "-135.00")
    assert common["source"] == "ours at step 500" and (common["RELAX"], common["NVIL"]) == ("-120.00", "-135.00")
    assert highest["source"] == "ours, highest" and highest["RELAX"] == "-110.00"


def test_unfinished_and_failed_cells_say_so(tmp_path):
    run(tmp_path / "a", state="running", seeds=(0,))
    run(tmp_path / "b", "rebar", state="failed")
    run(tmp_path / "c", "nvil", state="running", levels=())
    ours = lines(table1(cells_of(tmp_path)), "mnist", "linear1", "ours")[0]
    assert (ours["RELAX"], ours["REBAR"], ours["NVIL"]) == ("-110.00 ‡", "failed", "no numbers yet")


def test_tuckers_rebar_has_the_column_of_the_draft_on_every_model(tmp_path):
    layer, tensor = ({"name": "rebar", "noise": "tied", "granularity": g} for g in ("layer", "parameter"))
    run(tmp_path / "a", layer)
    run(tmp_path / "b", tensor, levels=(-130, -125))
    run(tmp_path / "c", tensor, model="linear2")
    run(tmp_path / "d", "disarm")
    table = table1(cells_of(tmp_path))
    (first,), (second,) = (lines(table, "mnist", model, "ours") for model in ("linear1", "linear2"))
    assert (first["REBAR"][:7], first["REBAR (Tucker)"][:7]) == ("-109.50", "-124.50")
    assert (second["REBAR"], second["REBAR (Tucker)"][:7]) == ("not run", "-109.50")
    assert table.headers[-1] == "disarm"


def test_the_published_settings_keep_their_column_beside_others(tmp_path):
    default = estimator_options("relax", "vae")
    run(tmp_path / "a", default)
    run(tmp_path / "b", default | {"depth": 4, "weight_decay": 0.0}, levels=(-130, -125))
    run(tmp_path / "c", default | {"weight_decay": 0.0}, model="linear2")
    table = table1(cells_of(tmp_path))
    assert [header for header in table.headers if "relax" in header] == [
        "relax (depth=4, weight_decay=0)", "relax (weight_decay=0)"
    ]  # fmt: skip
    ours = lines(table, "mnist", "linear1", "ours")[0]
    assert (ours["RELAX"][:7], ours["relax (depth=4, weight_decay=0)"][:7]) == ("-109.50", "-124.50")


def test_a_rate_with_fewer_seeds_does_not_take_the_place_of_one_with_more(tmp_path):
    run(tmp_path / "a", lrs=(1e-3,), seeds=(0, 1, 2))
    run(tmp_path / "b", lrs=(5e-4,), seeds=(0,), levels=(-100, -90))
    (rate,) = lines(table1(cells_of(tmp_path)), "mnist", "linear1", "learning rate")
    assert rate["RELAX"] == "0.001 (2 tried)"


def test_rates_of_other_lengths_do_not_count_as_tried(tmp_path):
    run(tmp_path / "a", lrs=(1e-3, 5e-4), steps=1000)
    run(tmp_path / "b", steps=4000)
    (rate,) = lines(table1(cells_of(tmp_path)), "mnist", "linear1", "learning rate")
    assert rate["RELAX"] == "0.001 (1 tried)"


def test_only_the_papers_models_make_table_1(tmp_path):
    run(tmp_path / "a", dataset="digits")
    assert table1(cells_of(tmp_path)) is None and reach(cells_of(tmp_path)) is None


def test_of_runs_of_different_lengths_those_count_that_came_furthest(tmp_path):
    run(tmp_path / "a", lrs=(1e-3, 5e-4))
    run(tmp_path / "b", seeds=(2,), steps=2000, levels=(-118, -105))
    run(tmp_path / "c", seeds=(3,), steps=4000, levels=(), state="running")
    _, _, ours, steps, *_ = lines(table1(cells_of(tmp_path)), "mnist", "linear1")
    assert (ours["RELAX"], steps["RELAX"]) == ("-103.00", "2k of 2M, 1 seed")


def test_what_it_takes_to_reach_a_bound(tmp_path):
    run(tmp_path / "a", "rebar", steps=20_830, levels=(-120, -115, -110, -112), evaluations=2)
    run(tmp_path / "b", steps=20_830, levels=(-118, -109, -108, -107), evaluations=2)
    together = {"evaluations": 1, "trained_together": ["runs/vae/c", "runs/vae/d"]}
    run(tmp_path / "c", "nvil", steps=20_830, levels=(-130, -125, -120, -115), about=together)
    table = reach(cells_of(tmp_path))
    rebar, relax, nvil = (lines(table, "mnist linear1", name)[0] for name in ("rebar", "relax", "nvil"))
    key = "epochs to REBAR's best"
    assert (rebar[key], relax[key], nvil[key]) == ("7.5", "5.0", "not in 10.0")  # 2,083 steps an epoch
    assert (rebar["published"], relax["published"], nvil["published"]) == ("857", "531", "–")
    assert relax["best valid ELBO"] == "-108.50"
    assert {line["common bound"] for line in (rebar, relax, nvil)} == {"-116.50"}
    assert [line["step"] for line in (rebar, relax, nvil)] == ["10,415", "10,415", "20,830"]
    assert [line["evaluations"] for line in (rebar, relax, nvil)] == ["20,830", "20,830", "20,830"]
    assert relax["wall time"] == "10 s"  # 20 seconds of a run with two replicas
    assert nvil["wall time"] == "10 s"  # 40 seconds of two runs with two replicas each


def test_a_run_whose_bound_still_rises_has_no_best(tmp_path):
    run(tmp_path / "a", "rebar", levels=(-120, -115, -110))
    run(tmp_path / "b", levels=(-119, -114, -109))
    assert {line["epochs to REBAR's best"] for line in lines(reach(cells_of(tmp_path)), "mnist linear1")} == {"–"}


def test_epochs_count_on_all_validation_images_where_all_evaluations_measured_them(tmp_path):
    run(tmp_path / "a", "rebar", levels=(-120, -110, -112), whole=True)
    run(tmp_path / "b", levels=(-118, -109, -108), whole=True)
    table = reach(cells_of(tmp_path))
    assert {(line["on images"], line["best valid ELBO"]) for line in lines(table, "mnist linear1")} == {
        ("all", "-110.50"), ("all", "-108.50")
    }  # fmt: skip
    run(tmp_path / "c", "nvil", levels=(-120, -110, -112))  # on all images at its end only
    table = reach(cells_of(tmp_path))
    assert {line["on images"] for line in lines(table, "mnist linear1")} == {"first 1,000"}


def test_validation_bounds_are_compared_with_one_sample_and_tested(tmp_path):
    run(tmp_path / "a", levels=(-120, -110, -112), whole=True)
    run(tmp_path / "b", "rebar", levels=(-120, -110, -112), seeds=(0,))
    table = bounds(cells_of(tmp_path))
    (relax,), (rebar,) = (lines(table, "mnist linear1", name) for name in ("relax", "rebar"))
    half = f"{12.706204736 * math.sqrt(0.5) / math.sqrt(2):.2f}"
    assert (relax["best valid ELBO"], relax["at step"], relax["published"]) == (f"-110.50 ± {half}", "666", "-113.62")
    assert relax["100-sample bound there"] == f"-105.50 ± {half}"
    assert (rebar["best valid ELBO"], rebar["at step"]) == ("-113.00", "1,000")  # it measured all images once
    assert (rebar["test ELBO"], rebar["test 100-sample bound"]) == ("-115.00", "-109.00")
    assert rebar["last test ELBO"] == "–"


def test_relax_against_rebar_goes_by_pairs_of_seeds(tmp_path):
    run(tmp_path / "a", seeds=(0, 1, 2), levels=(-110, -105), steps=10_000)
    run(tmp_path / "b", "rebar", seeds=(1, 2), levels=(-112, -108), steps=10_000)
    run(tmp_path / "c", seeds=(0,), model="linear2")
    run(tmp_path / "d", "rebar", seeds=(0,), model="linear2", levels=(-115, -112))
    run(tmp_path / "e", seeds=(0,), model="nonlinear")
    table = paired(cells_of(tmp_path))
    assert [row and (row[0], row[1], row[2], row[4], row[5]) for row in table.rows] == [
        ("mnist linear1", "5k", "2", "+2.00 ± 0.00", "ahead"),
        ("mnist linear1", "10k", "2", "+3.00 ± 0.00", "ahead"),
        None,
        ("mnist linear2", "1k", "1", "+2.00", "undecided (one seed)"),
    ]
    assert verdict(np.array([1.0, -3.0, 2.5])) == verdict(np.array([4.0])) == "undecided"
    assert verdict(np.array([-1.0, -1.1])) == "behind"


def test_the_grid_of_rates_has_a_column_each(tmp_path):
    run(tmp_path / "a", "rebar", lrs=(1e-3, 5e-3), seeds=(0,))
    run(tmp_path / "b", "rebar", lrs=(1e-4,), seeds=(0,), state="running", levels=(-120, -118))
    run(tmp_path / "c", seeds=(0,))
    table = learning_rates(cells_of(tmp_path))
    assert table.headers[2:] == ["steps", "bound", "0.005", "0.001", "0.0001", "best"]
    assert table.rows == [
        ["mnist linear1", "rebar", "1k", "training", "-115.00", "-110.00", "-118.00 ‡", "0.001"],
        ["mnist linear1", "rebar", "1k", "validation", "-116.00", "-111.00", "-119.00 ‡", "0.001"],
    ]


def test_the_grid_says_how_far_its_runs_have_come(tmp_path):
    for rate in (1e-3, 5e-4):
        path = run(tmp_path / f"{rate}", "rebar", lrs=(rate,), seeds=(0,), steps=400_000, state="interrupted")
        config = path / "config.yaml"
        config.write_text(config.read_text().replace("400000", "2000000"))
    (line, _) = learning_rates(cells_of(tmp_path)).rows
    assert line[:4] == ["mnist linear1", "rebar", "400k of 2M", "training"]


@pytest.mark.parametrize("name", [*OF_A_LAYER, "concrete", "rloo", "vimco", "rebar", "relax"])
def test_evaluations_of_runs_that_do_not_say_are_those_of_the_task(name, tmp_path):
    defaults = {"noise": "tied", "surrogate": "relaxed", "depth": 1, "width": 2, "activation": "relu", "lr_scale": 1}
    options = _file(name, {**defaults, "weight_decay": 0, "warmup": 0})
    images = torch.zeros(4, 9, dtype=torch.uint8)
    data = ImageData("none", images, images, images, torch.full((9,), 0.5), (3, 3), "static")
    for model in ("linear1", "linear2"):
        for noise in ("tied", "independent"):
            options |= {"noise": noise} if "noise" in options else {}
            task = make_task("vae", dict(options), data, model=model, latents=2, hidden=2)
            config = {"task": {"name": "vae", "model": model}, "estimator": options}
            assert evaluations(Run(tmp_path, config, {}, [], {})) == task.evaluations
            assert evaluations(Run(tmp_path, config, {"evaluations": 7}, [], {})) == 7


def test_latex_is_escaped_and_whole():
    assert escape("50% of a_b & {c} #1 ~x^2 \\ $") == (
        r"50\% of a\_b \& \{c\} \#1 \textasciitilde{}x\textasciicircum{}2 \textbackslash{} \$"
    )
    assert escape("-1.50 ± 0.20 – −∞ × 10⁴, t-0.4, 2-3") == (
        r"$-$1.50 $\pm$ 0.20 -- $-$$\infty$ $\times$ 10$^4$, t-0.4, 2-3"
    )
    text = latex(
        Table("a_b", "50% & more", ["x_1", "y", "status"], [["a", "-1", "done"], None, ["b", "2", "x"]], "θ < 1")
    )
    assert r"\begin{tabular}{lll}" in text and text.count(r"\midrule") == 2 and r"\label{tab:a-b}" in text
    for environment in ("table", "tabular"):
        assert text.count(rf"\begin{{{environment}}}") == text.count(rf"\end{{{environment}}}") == 1
    assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")


def test_latex_of_table_1_has_whole_rows_and_plain_characters(tmp_path):
    run(tmp_path / "a")
    text = latex(table1(cells_of(tmp_path)))
    body = text.split(r"\toprule")[1].split(r"\bottomrule")[0]
    rows = [line for line in body.splitlines() if line.endswith(r"\\")]
    assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {8}
    assert text.isascii()
    assert not re.search(r"(?<!\\)[%#_]", text.replace(r"{!}{%", ""))


def test_one_run_alone_has_no_pivot_in_its_own_folder(tmp_path):
    from relax_exp.report.tables import run_table

    path = run(tmp_path / "a")
    assert read_run(path).rows and "Table 1" not in run_table(path)
