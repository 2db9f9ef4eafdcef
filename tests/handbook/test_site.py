"""What the site adds to docs/: links, gallery, reference, notebooks, the table of estimators."""

import nbformat
import pytest
from handbook import gallery, links, notebooks, reference, which

from relax_exp import estimators


class Files:
    """What mkdocs knows, by path."""

    def __init__(self, *paths):
        self.paths = paths

    def get_file_from_path(self, path):
        return path if path in self.paths else None


def test_links_of_the_repository_become_links_of_the_site():
    files = Files(
        "overview.md", "results/toy/README.md", "reference/relax_exp/runs/run.md", "theory.md", "results/README.md"
    )
    text = (
        "[a](../../results/toy/README.md) [b](../../README.md#using-it) [c](../../relax_exp/runs/run.py) "
        "[d](../theory.md) "
        "[e](https://example.org) [f](#here) [g](../../no.md) [h](../../results/)\n```\n[i](../../README.md)\n```\n"
    )
    assert links.rewritten(text, "experiments/toy.md", None, files) == (
        "[a](../results/toy/README.md) [b](../overview.md#using-it) [c](../reference/relax_exp/runs/run.md) "
        "[d](../theory.md) [e](https://example.org) [f](#here) [g](../../no.md) [h](../results/README.md)\n"
        "```\n[i](../../README.md)\n```\n"
    )


def test_links_of_the_readme_are_resolved_from_the_repositorys_top():
    files = Files("README.md", "results/toy/README.md")
    text = "[a](docs/README.md) [b](results/toy)"
    assert links.rewritten(text, "overview.md", "README.md", files) == "[a](README.md) [b](results/toy/README.md)"


def test_the_gallery_has_every_committed_figure_with_a_caption():
    page = gallery.page()
    for figure in (gallery.RESULTS).glob("*/*.png"):
        assert f"results/{figure.parent.name}/{figure.stem}." in page
        assert gallery.caption(figure) != figure.stem.replace("_", " "), (
            f"say what {figure.name} shows in gallery.WORDS"
        )


def test_every_module_has_a_page_in_the_reference():
    texts = reference.pages()
    assert "::: relax_exp.distributions" in texts["reference/relax_exp/distributions.md"]
    listed = {
        uri for entry in reference.navigation() for pages in entry.values() for page in pages for uri in page.values()
    }
    assert listed == texts.keys() - {"reference/README.md"}


def test_the_table_has_every_estimator():
    table = which.table()
    assert all(f"[{name}](estimators/{name}.md)" in table for name in estimators.names())
    assert "| –" not in table.rpartition("reinforce")[0][:200]
    assert which.filled("a\n<!-- table -->\nold\n<!-- end -->\nb").endswith("\nb")


def test_a_notebook_as_a_page(tmp_path):
    cell = nbformat.v4.new_code_cell("print(1)", outputs=[nbformat.v4.new_output("stream", name="stdout", text="1\n")])
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# T"), cell]), tmp_path / "t.ipynb")
    page = notebooks.markdown(tmp_path / "t.ipynb")
    assert page.startswith("# T\n\n[Download this page as a notebook](t.ipynb)")
    assert "```python\nprint(1)\n```" in page
    assert "```text\n1\n```" in page


@pytest.mark.parametrize("path", notebooks.found(), ids=lambda path: path.stem)
def test_committed_notebooks_are_executed_and_without_errors(path):
    cells = nbformat.read(path, as_version=4).cells
    assert all(cell.execution_count for cell in cells if cell.cell_type == "code")
    assert not [output for cell in cells for output in cell.get("outputs", []) if output.output_type == "error"]


def test_the_theory_has_every_estimator():
    text = (links.ROOT / "docs" / "theory.md").read_text()
    assert [name for name in estimators.names() if f"(estimators/{name}.md)" not in text] == []


def test_captions_are_words():
    said = gallery.in_words("CartPole-v0_frames-250000_entropy-0.01")
    assert said == "CartPole-v0, 250,000 frames, entropy weight 0.01"
    assert gallery.in_words("mnist_linear1") == "MNIST, one linear layer"
    assert gallery.in_words("cos4") == "cosine problem, 4 categories"
