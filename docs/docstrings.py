"""What griffe does besides, when it reads docstrings for the API pages: marks of Sphinx become marks of MkDocs."""

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:func|class|meth|mod):`(~?)([\w.]+)`")
PRODUCT = re.compile(r"(`+[^`]+`+)|(?<=\w)\*(?=\w)")
"""Code, or an asterisk as in 4*width, which would begin an emphasis."""


class Sphinx(griffe.Extension):
    """Cross-references, and paragraphs that announce code."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the docstring before it is parsed."""
        if obj.docstring is not None:
            text = ROLE.sub(_reference, obj.docstring.value).replace("::\n", ":\n")
            text = PRODUCT.sub(lambda found: found[1] or r"\*", text)
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", text, flags=re.MULTILINE)


def _reference(role: re.Match[str]) -> str:
    short, path = role.groups()
    return f"`{path.rsplit('.', 1)[-1] if short else path}`"
