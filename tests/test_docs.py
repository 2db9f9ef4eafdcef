"""The documentation: every link resolves, every command composes, every estimator and experiment has a page."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from handbook import estimators as pages
from hydra import compose, initialize_config_dir

import docs
from relax_exp import estimators
from relax_exp.config import plans, resolve, yaml_files
from relax_exp.tasks.registry import TASKS

ROOT = Path(__file__).parents[1]
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "results").rglob("README.md")),
]
FENCES = re.compile(r"^```.*?^```", re.M | re.S)
LINKS = re.compile(r"(?<!\\)\[[^\]]*\]\(<?([^)\s>]+)>?\)")


def named(path: Path) -> str:
    """For the names of tests."""
    return str(path.relative_to(ROOT))


def commands(path: Path) -> list[str]:
    """What a document says to type after ``relax-exp``, in its blocks."""
    blocks = "\n".join(FENCES.findall(path.read_text()))
    return re.findall(r"^relax-exp ((?:-m )?(?:task|experiment)=.*)$", blocks.replace("\\\n", " "), re.M)


def anchors(text: str) -> set[str]:
    """Those that GitHub gives to headings."""
    headings = re.findall(r"^#+ +(.+?) *$", FENCES.sub("", text), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken(path: Path) -> list[str]:
    """The relative links of a document to files or headings that are not there."""
    out = []
    for link in LINKS.findall(re.sub(r"`[^`\n]*`", "", FENCES.sub("", path.read_text()))):
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        if not target.exists() or (anchor and anchor not in anchors(target.read_text())):
            out.append(link)
    return out


@pytest.mark.parametrize("path", DOCUMENTS, ids=named)
def test_links(path):
    assert not broken(path), f"{named(path)} links to what is not there"


def test_a_broken_link_is_found(tmp_path):
    (tmp_path / "there.md").write_text("# What it is\n")
    text = "[a](there.md) [b](gone.md) [c](there.md#what-it-is) [d](there.md#other) [e](#here)\n"
    text += "```\n[f](no.md)\n```\n## Here\n"
    (tmp_path / "page.md").write_text(text)
    assert broken(tmp_path / "page.md") == ["gone.md", "there.md#other"]


def test_estimators_pages_are_as_made():
    done = subprocess.run([sys.executable, ROOT / "scripts" / "docs.py", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"


def test_check_names_a_page_that_differs(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(pages, "pages", lambda: {tmp_path / "a.md": "a\n", tmp_path / "b.md": "b\n"})
    monkeypatch.setattr(pages, "PAGES", tmp_path)
    monkeypatch.setattr(docs.tasks, "PAGES", tmp_path / "none")
    monkeypatch.setattr(docs.tasks, "pages", dict)
    monkeypatch.setattr(docs, "ROOT", tmp_path)
    for name in ("b", "left_over"):
        (tmp_path / f"{name}.md").write_text("old\n")
    monkeypatch.setattr(sys, "argv", ["docs.py", "--check"])
    assert docs.main() == 1
    assert capsys.readouterr().out.split() == ["differs:", "a.md", "differs:", "b.md", "differs:", "left_over.md"]
    monkeypatch.setattr(sys, "argv", ["docs.py"])
    assert docs.main() == 0
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a.md": "a\n", "b.md": "b\n"}


def test_every_estimator_and_experiment_has_a_page():
    pages = {path.stem for path in (ROOT / "docs" / "estimators").glob("*.md")}
    assert pages == {*estimators.names(), "README"}
    index = (ROOT / "docs" / "README.md").read_text()
    for name in plans.names():
        assert (ROOT / "docs" / "experiments" / f"{name}.md").is_file(), f"docs/experiments/{name}.md is missing"
        assert f"(experiments/{name}.md)" in index


@pytest.mark.parametrize("path", [p for p in DOCUMENTS if commands(p) and "results" not in p.parts], ids=named)
def test_commands_compose(path):
    with initialize_config_dir(str(yaml_files.CONFIGS), version_base="1.3"):
        for command in commands(path):
            typed = shlex.split(command, comments=True)
            if "..." in command or "previous" in command or "=ones" in command:  # examples of what is to be added
                continue
            typed = [a for a in typed if not re.match(r"-m|--help|--dry-run|hydra[/.]|estimator\.path=", a)]
            if chosen := plans.mentioned(typed):
                rest = [a for a in typed if a.partition("=")[0] not in ("experiment", "budget")]
                budgets = [a.partition("=")[2] for a in typed if a.startswith("budget=")] or plans.BUDGETS
                assert all(plans.jobs(chosen, budget, rest) for budget in budgets), command
            else:
                one = [a if "[" in a else a.partition(",")[0] for a in typed]
                assert resolve.resolve(compose("config", one), one), command


def test_every_task_has_a_page():
    pages = {path.stem for path in (ROOT / "docs" / "tasks").glob("*.md")}
    assert pages == {*TASKS, "README"}


@pytest.mark.parametrize("name", estimators.names())
def test_an_estimators_page_has_what_is_written_by_hand(name):
    text = pages.by_hand(pages.PAGES / f"{name}.md")
    headings = re.findall(r"^## (.+)$", text, re.M)
    assert headings == ["Idea", "Formula", "When to use it"], f"docs/estimators/{name}.md: write these by hand"
    assert "$$\n" in text
    assert "\n- Cost: " in text


def test_what_is_written_by_hand_stays(tmp_path):
    path = tmp_path / "page.md"
    path.write_text(f"# old\n\n{pages.BEGIN}\n\n## Idea\n\nMine.\n\n{pages.END}\n\nold\n")
    made = pages.page("reinforce", [], pages.by_hand(path))
    assert f"{pages.BEGIN}\n\n## Idea\n\nMine.\n\n{pages.END}" in made
