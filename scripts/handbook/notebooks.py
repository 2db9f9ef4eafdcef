"""The tutorials: notebooks as pages of the site, and ``python scripts/handbook/notebooks.py``, which executes them.

Committed notebooks have their outputs, so that GitHub shows them; CI executes them anew and fails where a cell does.
"""

from __future__ import annotations

import argparse
import base64
import os
import sys
import time
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "tutorials"
IMAGES = ("image/svg+xml", "image/png")


def found() -> list[Path]:
    """All notebooks, in their order."""
    return sorted(FOLDER.glob("*.ipynb"))


def markdown(path: Path) -> str:
    """A notebook as Markdown: text as it is, code in fences, what it printed and drew below."""
    import nbformat

    cells = nbformat.read(path, as_version=4).cells
    parts = []
    for cell in cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source)
        elif cell.cell_type == "code":
            parts.append(f"```python\n{cell.source}\n```")
            parts += [shown for output in cell.outputs if (shown := _output(output))]
    parts.insert(1, f"[Download this page as a notebook]({path.name}){{ .md-button download }}")
    return "\n\n".join(parts) + "\n"


def _output(output) -> str:
    if output.output_type == "stream":
        return _block(output.text) if output.name == "stdout" else ""
    data = output.get("data", {})
    for kind in IMAGES:
        if kind in data:
            raw = data[kind].encode() if kind == "image/svg+xml" else base64.b64decode(data[kind])
            return (
                f'<img alt="figure drawn by the cell above" src="data:{kind};base64,{base64.b64encode(raw).decode()}">'
            )
    return _block(data["text/plain"]) if "text/plain" in data else ""


def _block(text: str) -> str:
    return (
        f'<div class="notebook-output" markdown="1">\n\n```text\n{text.rstrip()}\n```\n\n</div>' if text.strip() else ""
    )


def execute(path: Path) -> None:
    """Run every cell of a notebook from the start and keep what it prints and draws. Raises where a cell does."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    os.environ.setdefault("IPYTHONDIR", "/nonexistent")
    NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(FOLDER)}}
    ).execute()
    for cell in notebook.cells:
        cell.metadata = {}
    notebook.metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    path.write_text(nbformat.writes(notebook) + "\n")


def main() -> int:
    """Execute the notebooks that are named, or all."""
    parser = argparse.ArgumentParser(description="Execute the tutorials and keep their outputs.")
    parser.add_argument("notebooks", nargs="*", type=Path)
    parser.add_argument("--check", action="store_true", help="leave the files as they are")
    arguments = parser.parse_args()
    for path in arguments.notebooks or found():
        before, start = path.read_text(), time.monotonic()
        execute(path)
        if arguments.check:
            path.write_text(before)
        print(f"{path.name}: executed in {time.monotonic() - start:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
