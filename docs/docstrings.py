"""Extension of griffe for the API pages: Markdown in docstrings, and options with their choices and defaults."""

import ast
import re
from collections.abc import Iterator
from typing import Any

import griffe

ROLE = re.compile(r":(?:func|class|meth|mod):`(~?)([\w.]+)`")
PRODUCT = re.compile(r"(`+[^`]+`+)|(?<=\w)\*(?=\w)")
"""Code, or an asterisk as in 4*width, which Markdown would take for emphasis."""


class Sphinx(griffe.Extension):
    """Converts the Sphinx markup of docstrings: cross-references, and paragraphs that introduce code."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the docstring before it is parsed."""
        if obj.docstring is not None:
            text = ROLE.sub(_reference, obj.docstring.value).replace("::\n", ":\n")
            text = PRODUCT.sub(lambda found: found[1] or r"\*", text)
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", text, flags=re.MULTILINE)


class Options(griffe.Extension):
    """Shows what stands behind a name in the fields of a dataclass: the choices of a `Literal`, a constant's value."""

    def on_package(self, *, pkg: griffe.Module, loader: griffe.GriffeLoader, **_: Any) -> None:
        """Replace names in annotations and defaults, once all modules are known."""
        for field in _fields(pkg):
            choices, default = (_constant(loader, name) for name in (field.annotation, field.value))
            if str(choices).startswith("Literal["):
                field.annotation = choices
            if default is not None and _is_literal(str(default)):
                field.value = default


def _fields(owner: griffe.Module | griffe.Class) -> Iterator[griffe.Attribute]:
    decorators = owner.decorators if isinstance(owner, griffe.Class) else []
    is_dataclass = any(decorator.callable_path == "dataclasses.dataclass" for decorator in decorators)
    for member in owner.members.values():
        if isinstance(member, griffe.Attribute) and is_dataclass:
            yield member
        elif isinstance(member, griffe.Module | griffe.Class):
            yield from _fields(member)


def _constant(loader: griffe.GriffeLoader, name: Any) -> Any:
    """Return the value that a name is assigned in its module; None if it has none."""
    if not isinstance(name, griffe.ExprName):
        return None
    try:
        return getattr(loader.modules_collection[name.canonical_path], "value", None)
    except KeyError:  # a builtin, or a name of another package
        return None


def _is_literal(code: str) -> bool:
    try:
        ast.literal_eval(code)
    except ValueError:
        return False
    return True


def _reference(role: re.Match[str]) -> str:
    short, path = role.groups()
    return f"`{path.rsplit('.', 1)[-1] if short else path}`"
