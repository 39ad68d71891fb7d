"""Hook of MkDocs: pages may link to records in benchmarks/results/, and docs/try.md gets the parts it runs with."""

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

RESULTS = "benchmarks/results"
PARTS = "build/try"
"""Folder in which docs/try/parts.py makes the library and the networks of docs/try.md."""


def on_files(files: Files, config: Any) -> Files:
    """Publish the records beside the pages, and beside docs/try.md its parts, as far as they have been made."""
    repository = Path(config.config_file_path).parent
    published = {f"{RESULTS}/{path.name}": path for path in (repository / RESULTS).glob("*.json")}
    published["try/comparison.css"] = repository / "mrda" / "app" / "comparison.css"
    parts = repository / PARTS
    if (parts / "facts.json").exists():  # written last
        published |= {f"try/{path.relative_to(parts).as_posix()}": path for path in parts.rglob("*") if path.is_file()}
    for uri, path in sorted(published.items()):
        files.append(File.generated(config, uri, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Let links that are right in the repository lead to the published records."""
    up = "../" * page.file.src_uri.count("/")
    return markdown.replace(f"]({up}../{RESULTS}/", f"]({up}{RESULTS}/")
