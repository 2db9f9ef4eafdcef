"""How many states and categories the estimators that enumerate can take: plain numbers, so without torch."""

from __future__ import annotations

from relax_exp.schema import ConfigError, one_of

MAX_EXACT_LATENTS = 16  # 2^16 states
MAX_STATES = {"exact": 2**MAX_EXACT_LATENTS, "unordered": 4096}  # of all variables of a layer
ONE_CATEGORY = ("reinforce", "rloo", "concrete")  # that take one category, where nothing is random
MAX_CATEGORIES = {"arsm": 362}  # C (C - 1) / 2 + 1 evaluations, at most 2^16


def check_categories(task: dict, name: str) -> None:
    """Whether an estimator that enumerates can cope with so many. Raises ConfigError."""
    variables, categories = task.get("variables", 1), task["categories"] or 2
    if categories == 1 and name not in ONE_CATEGORY:
        raise ConfigError(f"with one category there is nothing to estimate: use {one_of(ONE_CATEGORY)}")
    if categories > MAX_CATEGORIES.get(name, categories):
        raise ConfigError(f"arsm compares all pairs of categories: at most {MAX_CATEGORIES[name]} of them; use ars")
    limit = MAX_STATES.get(name)
    if limit and categories**variables > limit:
        raise ConfigError(
            f"{name} enumerates {categories}^{variables} states, the limit is {limit}: lower task.variables or "
            "task.categories, or use rloo"
        )
    if name == "unordered" and task.get("layers", 1) > 1:
        raise ConfigError("unordered works on one layer of latents: set task.layers=1, or use rloo")
