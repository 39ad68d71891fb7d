"""Hook of MkDocs: pages may link to records in benchmarks/results/."""

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

RESULTS = "benchmarks/results"


def on_files(files: Files, config: Any) -> Files:
    """Publish the records beside the pages."""
    for path in sorted((Path(config.config_file_path).parent / RESULTS).glob("*.json")):
        files.append(File.generated(config, f"{RESULTS}/{path.name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Let links that are right in the repository lead to the published records."""
    up = "../" * page.file.src_uri.count("/")
    return markdown.replace(f"]({up}../{RESULTS}/", f"]({up}{RESULTS}/")
