"""Functions of mrda_kernels._C and the names of their parameters, as its stub has them."""

import ast
from pathlib import Path

import mrda_kernels


def names(arguments: ast.arguments) -> list[str]:
    """Names of parameters; "*" before those that are given by name alone."""
    star = ["*"] if arguments.kwonlyargs else []
    return [each.arg for each in arguments.args] + star + [each.arg for each in arguments.kwonlyargs]


def functions(nodes: list[ast.stmt]) -> dict[str, list[str]]:
    return {node.name: names(node.args) for node in nodes if isinstance(node, ast.FunctionDef)}


TREE = ast.parse((Path(mrda_kernels.__file__).parent / "_C.pyi").read_text())
STUBS = functions(TREE.body)
CLASSES = {node.name: functions(node.body) for node in TREE.body if isinstance(node, ast.ClassDef)}
