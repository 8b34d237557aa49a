"""What every field of a record means, from the schema itself. No torch.

The meanings are the strings under the fields in `bench/record.py`. Python drops them, so they are read from the source.
"""

import ast
import inspect
from typing import NamedTuple

from bench import record
from bench.formatting import code, escape, table

SHOWN = ("TrainRecord", "Epochs", "TestDetail", "SpeedRecord", "Inference", "Layer", "Labels", "Environment")


class Field(NamedTuple):
    name: str
    type: str
    meaning: str


def fields(name: str) -> list[Field]:
    """The fields of one struct of the schema, in order, each with the string that follows it."""
    body = _classes()[name].body
    found = []
    for statement, following in zip(body, [*body[1:], None], strict=True):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            meaning = _string(following)
            found.append(Field(statement.target.id, ast.unparse(statement.annotation), meaning))
    return found


def render() -> str:
    """A table for each struct, under its own description."""
    classes = _classes()
    parts = []
    for name in SHOWN:
        rows = [[code(field.name), escape(field.type), _line(field.meaning)] for field in fields(name)]
        parts.append(f"### {code(name)}\n\n{_line(ast.get_docstring(classes[name]) or '')}\n\n"
                     + table(["field", "type", "meaning"], rows, text_columns=3))
    return "\n\n".join(parts)


def _line(text: str) -> str:
    """The schema's own words, code spans and all, as one line of a table."""
    return " ".join(text.split()).replace("|", "\\|")


def _classes() -> dict[str, ast.ClassDef]:
    tree = ast.parse(inspect.getsource(record))
    return {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}


def _string(statement: ast.stmt | None) -> str:
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
        return inspect.cleandoc(str(statement.value.value))
    return ""
