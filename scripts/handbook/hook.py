"""What mkdocs calls (mkdocs.yml, ``hooks``) to fit the repository's pages into the site.

It adds pages that are not in docs/ and turns links of the repository into links of the site.
"""

from __future__ import annotations

import sys
from pathlib import Path

from mkdocs.structure.files import File

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from handbook import claims, gallery, links, notebooks, reference, which
from handbook.links import MOVED, ROOT


def on_config(config):
    """Fill in the parts of the navigation that are found."""
    sections = {title: parts for entry in config.nav for title, parts in entry.items()}
    sections["Tutorials"][:] = [f"tutorials/{path.stem}.md" for path in notebooks.found()]
    sections["Estimators"] += pages_of("estimators")
    sections["Tasks"] += pages_of("tasks")
    sections["Results"] += [{"Folders": [f"results/{path.name}/README.md" for path in gallery.folders()]}]
    sections["Reference"] += reference.navigation()
    for page in ("own_model.md", "moving.md"):
        if (ROOT / "docs" / page).is_file():
            sections["Start"].append(page)
    return config


def pages_of(folder: str) -> list[str]:
    """The pages of a folder of docs/ but its index, by name."""
    return sorted(f"{folder}/{path.name}" for path in (ROOT / "docs" / folder).glob("*.md") if path.stem != "README")


def on_files(files, config):
    """Add what is generated, and what pages show or offer from outside of docs/."""
    texts = {name: (ROOT / path).read_text() for path, name in MOVED.items()}
    texts |= {f"tutorials/{path.stem}.md": notebooks.markdown(path) for path in notebooks.found()}
    texts |= {"claims.md": claims.page(), "gallery.md": gallery.page()}
    texts |= gallery.result_pages() | reference.pages()
    texts["which.md"] = which.filled((ROOT / "docs" / "which.md").read_text())
    if old := files.get_file_from_path("which.md"):
        files.remove(old)
    for name, text in texts.items():
        files.append(File.generated(config, name, content=text))
    for path in links.assets(texts):
        files.append(File.generated(config, str(path), abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Links to files of the repository become links to their pages."""
    origin = {name: path for path, name in MOVED.items()}.get(page.file.src_uri)
    return links.rewritten(markdown, page.file.src_uri, origin, files)
