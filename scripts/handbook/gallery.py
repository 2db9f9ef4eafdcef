"""The gallery: every committed figure with what it shows and the command that made it, and a page for each folder."""

from __future__ import annotations

import json
import re
from pathlib import Path

from handbook.links import ROOT
from relax_exp.report.style import words

RESULTS = ROOT / "results"
WORDS = {  # what a figure shows, by how its file's name begins
    "figure1": "Figure 1: the exact loss, the variance of the gradient, and the learned relaxation beside f",
    "table1": "Table 1: what RELAX gains over REBAR, pair by pair",
    "vae_": "Binary VAE: training bound, validation bound and log-variance of the gradient over steps",
    "categorical_vae": "Categorical VAE: training bound, validation bound and log-variance over steps",
    "categorical_toy": "Categorical toy problem: exact loss, probability of the best category, log-variance",
    "permutation": "Permutations of eight items: exact loss, probability of the best ranking, log-variance",
    "lax_toy": "A function of one Gaussian variable: exact loss, standard deviation, log-variance",
    "cartpole": "Policy gradients: return and log-variance",
    "continuous": "Gaussian policies: return and log-variance",
    "atari": "Atari: score, variance explained by the value, log-variance",
    "structured": "Structured prediction: training bound, validation bound and log-variance over steps",
    "sequence": "Text with categorical latents: bits per character and log-variance",
    "schedules": "Training at fixed and annealed temperatures, beside unbiased gradients",
    "tradeoff": "Bias, spread and error of one gradient over the temperature",
    "variance": "Variance relative to REINFORCE",
    "densities": "The Concrete distribution on the simplex of three categories, at rising temperatures",
    "gumbel_rao": "Squared bias, variance and mean square error of Gumbel-Rao over the temperature",
    "simplex_variance": "Variance of straight-through Gumbel-Softmax and of Gumbel-Rao over the simplex",
    "histograms": "Single gradients at fixed parameters: discrete estimators above, LAX below",
    "lax_parts": "LAX and its three parts, draw by draw",
    "m_sample_law": "The variance of M averaged samples falls as 1/M",
    "solving_times": "Episodes until an environment is solved, with those that were not",
    "fixed_theta": "Toy problem at a fixed logit: only the estimator is tuned",
    "score_term": "What leaving out the score term of the direct gradient does",
    "ratios": "Ratios of gradient variances",
    "frozen": "Variances at frozen policies",
    "track": "Variances of several estimators along the trajectory of one",
}


def folders() -> list[Path]:
    """The folders of results."""
    return sorted(path for path in RESULTS.iterdir() if any(path.glob("*.md")))


def figures(folder: Path) -> list[Path]:
    """Its figures: drawings, or pictures where there is no drawing of that name."""
    return [
        path.with_suffix(".svg") if path.with_suffix(".svg").is_file() else path
        for path in sorted(folder.glob("*.png"))
    ]


def caption(figure: Path) -> str:
    """What a figure shows, in words."""
    begins = max((key for key in WORDS if figure.stem.startswith(key)), key=len, default=None)
    if begins is None:
        return figure.stem.replace("_", " ")
    rest = figure.stem.removeprefix(begins).strip("_")
    return WORDS[begins] + (f" ({in_words(rest)})" if rest else "")


def in_words(name: str) -> str:
    """What tells a figure from its siblings: the end of its file's name, in words."""
    if made := re.fullmatch(r"(arsm|cos|quadratic)(\d*)", name):
        problem = {"arsm": "ARSM's problem", "cos": "cosine problem", "quadratic": "quadratic"}[made[1]]
        return f"{problem}, {made[2]} categories" if made[2] else problem
    options = re.findall(r"[a-z]+(?:_[a-z]+)*-[\d.]+", name)  # key=value, as `slug` of the figures writes it
    for option in options:
        name = name.replace(option, option.replace("-", "="))
    named = [option.replace("-", "=") for option in options]
    plain = re.sub("|".join(map(re.escape, named)) or "(?!)", "", name).strip("_").replace("_", " ")
    return ", ".join(map(words, filter(None, [plain, *named])))


def command(folder: Path) -> str:
    """What to type to make the runs behind a folder's figures again."""
    if not (folder / "provenance.json").is_file():
        return ""
    about = json.loads((folder / "provenance.json").read_text())
    if about.get("experiment") == folder.name and (ROOT / "configs" / "experiment" / f"{folder.name}.yaml").is_file():
        budget = str(about.get("budget", "")).split()[:1]
        if budget and budget[0] in ("smoke", "cpu", "published", "paper"):
            return f"relax-exp experiment={folder.name} budget={budget[0]}"
    commands = [run["meta"].get("command", "") for run in about["runs"].values()]
    commands = [re.sub(r"^python -m relax_exp", "relax-exp", said) for said in dict.fromkeys(filter(None, commands))]
    return "\n".join(commands)


def page() -> str:
    """Every figure, folder by folder."""
    lines = [
        "# Gallery",
        "",
        "Every figure of the committed results. The first command trains the runs behind it; "
        "`relax-exp-report --render results` draws all figures again from the committed numbers, without training.",
        "",
    ]
    for folder in folders():
        shown = figures(folder)
        if not shown:
            continue
        lines += [f"## {folder.name}", "", f"[Tables, numbers and provenance](results/{folder.name}/README.md)", ""]
        for figure in shown:
            path = figure.relative_to(ROOT)
            lines += [f"**{caption(figure)}.**", "", f"![{caption(figure)}]({path})", ""]
        if said := command(folder):
            lines += ["```sh", said, f"relax-exp-report --render results/{folder.name}", "```", ""]
    return "\n".join(lines)


def result_pages() -> dict[str, str]:
    """The page of each folder: what its README says, its figures, its tables."""
    texts = {"results/README.md": (RESULTS / "README.md").read_text()}
    for folder in folders():
        own = folder / "README.md"
        text = own.read_text().rstrip() + "\n" if own.is_file() else f"# {folder.name}\n"
        if shown := figures(folder):
            text += "\n## Figures\n\n" + "".join(f"![{caption(path)}]({path.name})\n\n" for path in shown)
        if (folder / "table.md").is_file():
            text += "\n" + (folder / "table.md").read_text()
        elif not own.is_file():
            pages = sorted(path.name for path in folder.glob("*.md"))
            text += "\n" + "".join(f"- [{name.removesuffix('.md')}]({name})\n" for name in pages)
        texts[f"results/{folder.name}/README.md"] = text
    return texts
