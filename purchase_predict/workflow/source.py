"""The source code that a step depends on: its file and the project's modules that it imports, each with a digest.

The digest of a Python file is computed from its syntax tree without docstrings. So edits to comments, docstrings or
formatting do not change the digest. A file "counts" if its digest is part of the step key. Of the package `workflow/`,
only `step.py` and `__init__.py` count. Its other modules neither read nor change tables: the linter's import contracts
forbid them to import a library for tables. Modules of other packages that `workflow/` imports do count. `progress.py`
does not count: it shows progress and returns nothing. `key.counted_source` leaves out a few more files.
"""

import ast
import functools
import hashlib
from collections.abc import Iterator
from pathlib import Path

import click

from purchase_predict.settings import PROJECT

_WORKFLOW = "purchase_predict/workflow/"
_COUNTED_OF_WORKFLOW = ("__init__.py", "step.py")
#: This module is left out of every key: it shows progress and returns nothing that a result could depend on.
_PROGRESS = "purchase_predict/progress.py"
#: Functions that import a module by its name.
_IMPORTERS = {"import_module", "__import__", "run_module", "find_spec"}


def source_closure(entry_point: str, project: Path = PROJECT) -> dict[str, str]:
    """The files that a step's code consists of, each with a digest.

    These are the step's file, the project's modules that it imports (directly or indirectly, by any form of import),
    and the other files (templates, styles) in the folders of these modules. Files that do not count are left out.

    Raises:
        click.ClickException: a file cannot be parsed, or it imports a module whose name is computed at run time.
    """
    found: dict[str, str] = {}
    top = {path.name.partition(".")[0] for path in project.iterdir()}
    asked: set[str] = set()
    waiting = ["steps/__init__.py", f"steps/{entry_point}.py"]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found[name], modules = _parsed((project / name).read_bytes(), name, _counts(name))
        for module in modules - asked:
            if module.partition(".")[0] in top:  # other modules are not this project's
                waiting += _files_of(module, project)
        asked |= modules
    counted = {name: digest for name, digest in found.items() if _counts(name)}
    for folder in {Path(name).parent for name in counted} - {Path()}:
        counted |= _data_files(folder, set(counted), project)
    return dict(sorted(counted.items()))


def _counts(name: str) -> bool:
    if name == _PROGRESS:
        return False
    return not name.startswith(_WORKFLOW) or name.removeprefix(_WORKFLOW) in _COUNTED_OF_WORKFLOW


@functools.cache  # the steps share most files; the text is part of the cache's key, because a file may change
def _parsed(text: bytes, name: str, counts: bool) -> tuple[str, frozenset[str]]:
    """The digest of a Python file (empty if it does not count), and every imported name that may be a module."""
    try:
        tree = ast.parse(text, name)
    except (SyntaxError, ValueError) as error:
        raise click.ClickException(f"{name}: is not Python source: {error}") from error
    imports: list[ast.AST] = []
    meaning = _meaning(tree, imports)
    modules = frozenset(module for node in imports for module in _imported(node, name))
    return _digest(repr(meaning).encode()) if counts else "", modules


def _meaning(node: ast.AST, imports: list[ast.AST]) -> list[object]:
    """A syntax tree as nested lists, without docstrings. Appends to `imports` the nodes that may import a module.

    This single pass and a `repr` of the lists take less time than `ast.walk` and `ast.dump`.
    """
    if isinstance(node, (ast.Import, ast.ImportFrom, ast.Call)):
        imports.append(node)
    parts: list[object] = [node.__class__.__name__]
    for name in node._fields:
        value = getattr(node, name, None)
        if isinstance(value, ast.AST):
            parts.append(_meaning(value, imports))
        elif isinstance(value, list):
            kept = (one for one in value if name != "body" or not _is_text(one))
            parts.append([_meaning(one, imports) if isinstance(one, ast.AST) else one for one in kept])
        else:
            parts.append(value)
    return parts


def _is_text(statement: ast.stmt) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def _imported(node: ast.AST, name: str) -> Iterator[str]:
    """The modules that a node may import, as absolute names."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        package = list(Path(name).parent.parts)
        above = package[: len(package) - node.level + 1] if node.level else []
        module = ".".join([*above, *([node.module] if node.module else [])])
        yield module
        yield from (f"{module}.{alias.name}" for alias in node.names)
    elif isinstance(node, ast.Call) and _called(node) in _IMPORTERS:
        argument = node.args[0] if node.args else None
        if not (isinstance(argument, ast.Constant) and isinstance(argument.value, str)):
            raise click.ClickException(
                f"{name}, line {node.lineno}: imports a module whose name is computed, so the step's key cannot "
                "include the module: write the name as a string literal"
            )
        package = list(Path(name).parent.parts)
        level = len(argument.value) - len(argument.value.lstrip("."))
        above = package[: len(package) - level + 1] if level else []
        yield ".".join([*above, argument.value.lstrip(".")])


def _called(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def _files_of(module: str, project: Path) -> Iterator[str]:
    """The project's files that Python runs when it imports the module; none for a module outside the project."""
    parts = module.split(".")
    for depth in range(1, len(parts) + 1):
        place = "/".join(parts[:depth])
        for name in (f"{place}.py", f"{place}/__init__.py"):
            if (project / name).is_file():
                yield name


def _data_files(folder: Path, counted: set[str], project: Path) -> dict[str, str]:
    """The other files in a package's folder (templates, styles) that a counted module may read.

    A file belongs to the module of the same name: `layout.css` belongs to `layout.py`. If there is no such module, the
    file belongs to all modules of the folder.
    """
    found = {}
    for path in (project / folder).iterdir():
        if not path.is_file() or path.suffix in (".py", ".pyc") or path.name.startswith("."):
            continue
        owner = folder / f"{path.name.partition('.')[0]}.py"
        if owner.as_posix() in counted or not (project / owner).is_file():
            found[(folder / path.name).as_posix()] = _digest(path.read_bytes().replace(b"\r\n", b"\n"))
    return found


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
