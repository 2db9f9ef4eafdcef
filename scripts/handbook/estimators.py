"""The page of each estimator, from its registry entry, docstring, options and verification, and the list of all."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterable
from pathlib import Path

from handbook.links import ROOT
from relax_exp import estimators
from relax_exp.config.yaml_files import CONFIGS, documented
from relax_exp.estimators import Entry
from relax_exp.estimators.options import accepted

PAGES = ROOT / "docs" / "estimators"
SOURCES = ROOT / "relax_exp" / "estimators"
VERIFIED = ROOT / "results" / "verify" / "table.md"
TASKS = {  # of the example
    "bernoulli": "toy",
    "categorical": "categorical_toy",
    "gaussian": "lax_toy",
    "permutation": "permutation",
}
UNITS = {
    "bernoulli": "variables",
    "categorical": "categories of one variable",
    "gaussian": "variables",
    "permutation": "items to rank, at most 8",
    "subset": "items, of which 2 are taken",
    "top_k": "items, of which 2 are taken",
}
OF = {
    "mean": "d E[f] / d parameters",
    "bound": "the gradient of the K-sample bound, not of E[f]",
    "path": "d E[f] / d parameters, along a path of the sample",
}
NEEDS = {
    "value": "values of f only, which may be a black box",
    "gradient": "the derivative of f at hard samples",
    "relaxed": "f and its derivative at soft samples",
}
COLUMNS = ("problem", "verdict", "largest |z|", "variance", "relative to REINFORCE", "bias", "cosine")
CLASSES = {entry.path.split(":")[1]: name for name, entry in estimators.REGISTRY.items()}
MADE = "<!-- made by `make docs`: edit the docstring, the options' file or scripts/handbook instead -->"
# Between these a page is written by hand: the idea, the formula, when to use it. It stays as it is.
BEGIN, END = "<!-- by hand, to the next mark -->", "<!-- end of what is by hand -->"


def page(name: str, rows: list[dict[str, str]], by_hand: str) -> str:
    """The page of one estimator, with what is written by hand in it."""
    entry = estimators.lookup(name)
    module, cls = entry.path.split(":")
    family = entry.families[0]
    lines = [
        f"# {name}",
        MADE,
        f"{entry.summary[0].upper()}{entry.summary[1:]}.",
        f"{BEGIN}\n\n{by_hand}\n\n{END}" if by_hand else f"{BEGIN}\n\n{END}",
        "## At a glance",
        "\n".join(["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in facts(name, entry))]),
        "## Source and details",
        prose(docstring(module, cls)),
        f"Code: [relax_exp/estimators/{module}.py](../../relax_exp/estimators/{module}.py), `{cls}`.",
        "## Options",
        options(name),
        "## Example",
        f"```\nrelax-exp {example(name, family)}\n```",
        f'```python\nestimators.build("{name}", family="{family}", event_shape={shape(family, 4)})\n```',
        "## Against enumeration",
        verification(name, rows),
    ]
    return "\n\n".join(lines) + "\n"


def facts(name: str, entry: Entry) -> Iterable[tuple[str, str]]:
    """What is true of the estimator whatever the problem."""
    built = [
        (family, given, estimators.build(name, family, shape(family, 10), **given))
        for family in entry.families
        for given in entry.variants
    ]
    asked = {estimators.needs(name, given) for given in entry.variants}
    unbiased = {estimator.unbiased for *_, estimator in built}
    yield "variables", ", ".join(entry.families)
    yield "needs", "; ".join(f"`{need}`: {said}" for need, said in NEEDS.items() if need in asked)
    yield "unbiased", "yes" if all(unbiased) else "no"
    yield "estimates", OF[built[0][2].target]
    yield "symbols", "those of [Theory](../theory.md)"
    yield "evaluations of f for a gradient", evaluations(name, built)


def evaluations(name: str, built: list[tuple[str, dict, estimators.Estimator]]) -> str:
    """The number, with the sizes and options that it depends on."""
    keys = documented(options_file(name))
    if samples := keys.get("estimator.samples"):
        _, given, estimator = built[0]
        times = estimator.evaluations // given.get("samples", int(samples[0]))
        copied = "estimator.copies" in keys
        return "as many as `samples`" if times == 1 else f"`samples` times {'`copies`' if copied else times}"
    counts: dict[str, list[str]] = {}
    for family, given, estimator in built:
        smaller = estimators.build(name, family, shape(family, 5), **given).evaluations
        size = f" for 10 {UNITS[family]}" if smaller != estimator.evaluations else ""
        chosen = " ".join(f"`{k}={v}`" for k, v in given.items() if k in ("noise", "surrogate", "pairs"))
        counts.setdefault(f"{estimator.evaluations}{size}", []).append(chosen)
    said = {count: " or ".join(filter(None, dict.fromkeys(chosen))) for count, chosen in counts.items()}
    return "; ".join(f"{count} with {chosen}" if chosen else count for count, chosen in said.items())


def example(name: str, family: str) -> str:
    """A task with the estimator; its verification where no task has such variables."""
    return (
        f"task={TASKS[family]} estimator={name} 'seeds=[0,1,2]'" if family in TASKS else f"task=verify estimator={name}"
    )


def shape(family: str, size: int) -> tuple[int, ...]:
    """The event shape of ``size`` variables or items, or of one variable with as many categories."""
    return {"categorical": (1, size), "subset": (size, 2), "top_k": (size, 2), "permutation": (min(size, 8),)}.get(
        family, (size,)
    )


def docstring(module: str, cls: str) -> str:
    """A class's docstring, with double backslashes of its source as they are meant."""
    tree = ast.parse((SOURCES / f"{module}.py").read_text())
    (found,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == cls)
    return ast.get_docstring(found)


def prose(text: str) -> str:
    """A docstring as Markdown: formulas that stand apart stay as they are, names of estimators become links."""
    blocks = []
    for block in text.split("\n\n"):
        if all(line.startswith("    ") for line in block.splitlines()):
            blocks.append(f"```\n{inspect.cleandoc(block)}\n```")
        else:
            blocks.append("".join(map(inline, re.split(r"(``.+?``|`.+?`)", block, flags=re.S))))
    return "\n\n".join(blocks)


def inline(part: str) -> str:
    """Code as code; a reference as a link where it has a page; whatever Markdown would take for markup escaped."""
    if part.startswith("``"):
        return part[1:-1]
    if part.startswith("`"):
        page = CLASSES.get(part.strip("`"))
        return f"[{part}]({page}.md)" if page else part
    part = re.sub(r"([\\\[\]])", r"\\\1", part)
    return part.replace("~", "&#126;").replace("<", "&lt;")


def options_file(name: str) -> Path:
    """The estimator's YAML file."""
    return CONFIGS / "estimator" / f"{name}.yaml"


def options(name: str) -> str:
    """The keys with their defaults, in a configuration and from Python, and comments."""
    found = {key: said for key, said in documented(options_file(name)).items() if said[1]}
    if not found:
        return "None."
    entry = estimators.lookup(name)
    family = entry.families[0]
    python = accepted(type(estimators.build(name, family, shape(family, 4), **entry.variants[0])))
    rows = []
    for key, (value, comment) in found.items():
        option = key.removeprefix("estimator.")
        default = f"`{value}`" if "$" not in value else "[by task](../tasks/README.md)"
        own = f"`{python[option]!r}`" if option in python else "not there"
        rows.append(f"| `{key}` | {default} | {own} | {cell(comment)} |")
    head = ["| key | default | from Python | meaning |", "|---|---|---|---|"]
    return "\n".join([*head, *rows])


def verification(name: str, rows: list[dict[str, str]]) -> str:
    """The estimator's rows of the table that ``relax-exp task=verify`` made."""
    again = f"`relax-exp task=verify estimator={name}` measures it"
    if not rows:
        return f"Not in the committed table; {again}."
    table = ["| options | " + " | ".join(map(cell, COLUMNS)) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    table += [
        f"| {row['options'] or 'default'} | " + " | ".join(cell(row[column]) for column in COLUMNS) + " |"
        for row in rows
    ]
    head = (
        f"From [results/verify](../../results/verify/table.md); {again} anew. `relative to REINFORCE`: its "
        "variance over REINFORCE's on the same problem; `bias`, `cosine`: of the mean gradient against the exact one."
    )
    folded = f'<details markdown="1">\n<summary>{len(rows)} comparisons with the exact gradient</summary>'
    return "\n\n".join([judged(rows), head, folded, "\n".join(table), "</details>"])


def judged(rows: list[dict[str, str]]) -> str:
    """The verdicts in a sentence."""
    verdicts = [row["verdict"] for row in rows]
    z = max(float(row["largest |z|"]) for row in rows)
    if set(verdicts) == {"unbiased"}:
        return f"**Unbiased in all {len(rows)} comparisons**; the largest |z| is {z:.2f}."
    if any("FAILS" in verdict for verdict in verdicts):
        return f"**Fails {sum('FAILS' in verdict for verdict in verdicts)} of {len(rows)} comparisons.**"
    return f"**Biased**, as it should be: found in {verdicts.count('biased')} of {len(rows)} comparisons."


def verified() -> dict[str, list[dict[str, str]]]:
    """The rows of the verification's table, by estimator."""
    first, *_ = VERIFIED.read_text().split("\n## ")  # the table of all; behind it is what was measured besides
    lines = [split(line) for line in first.splitlines() if line.startswith("| ")]
    header, rows = lines[0], {}
    for line in lines[1:]:
        row = dict(zip(header, line, strict=True))
        name, _, options = row["estimator"].partition(" ")
        row["options"] = options.removeprefix("(").removesuffix(")")
        rows.setdefault(name, []).append(row)
    return rows


def split(line: str) -> list[str]:
    """The cells of a line of a table."""
    return [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line.strip("| "))]


def cell(text: str) -> str:
    """Text in a cell."""
    return text.replace("|", "\\|")


def index() -> str:
    """The list of all."""
    rows = [
        f"| [{name}]({name}.md) | {', '.join(entry.families)} | {entry.needs} | {cell(entry.summary)} |"
        for name, entry in estimators.REGISTRY.items()
    ]
    head = (
        "A page for each: what it asks of f, its formula and source, its options, and how it compares with the exact "
        "gradient. `needs` is explained there. Which of them a task can use: [Tasks](../tasks/README.md). An option "
        "`estimator.X` of a page is the keyword `X` of `Latent` and `build`, whose default stands under *from Python*; "
        "`lr_scale` and `warmup` are the trainer's, and not there. Symbols: [Theory](../theory.md)."
    )
    table = "\n".join(["| name | variables | needs | |", "|---|---|---|---|", *rows])
    return "\n\n".join(["# Estimators", MADE, head, table]) + "\n"


def by_hand(path: Path) -> str:
    """What is written by hand in a page, if there is one."""
    text = path.read_text() if path.is_file() else ""
    return text.partition(BEGIN)[2].partition(END)[0].strip()


def pages() -> dict[Path, str]:
    """Every file of docs/estimators with its text."""
    rows = verified()
    paths = {name: PAGES / f"{name}.md" for name in estimators.names()}
    texts = {path: page(name, rows.get(name, []), by_hand(path)) for name, path in paths.items()}
    return {PAGES / "README.md": index(), **texts}
