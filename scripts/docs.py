"""Write the generated parts of docs/estimators/ and docs/tasks/, see `handbook.estimators` and `handbook.tasks`.

``make docs`` writes them; ``python scripts/docs.py --check`` names those that are not what it would write, and fails.
"""

from __future__ import annotations

import argparse
import sys

from handbook import estimators, tasks
from handbook.links import ROOT


def main() -> int:
    """0; 1 where ``--check`` finds a page that is missing, left over or different."""
    parser = argparse.ArgumentParser(
        description="Write docs/estimators/ and docs/tasks/ from the registry, docstrings and options."
    )
    parser.add_argument("--check", action="store_true", help="write nothing: name what would change, exit code 1")
    check, made = parser.parse_args().check, {**estimators.pages(), **tasks.pages()}
    there = {path: path.read_text() for folder in (estimators.PAGES, tasks.PAGES) for path in folder.glob("*.md")}
    stale = [path for path in sorted({*made, *there}) if made.get(path) != there.get(path)]
    for path in stale:
        print(f"{'differs' if check else 'made'}: {path.relative_to(ROOT)}")
        if not check and path in made:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(made[path])
        elif not check:
            path.unlink()
    if check and stale:
        print("type: make docs", file=sys.stderr)
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
