"""The shape of the code: modules and functions short enough for a newcomer, and layers for the imports."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from purchase_predict.settings import PROJECT

CODE = sorted(
    path for folder in ("purchase_predict", "steps", "tools", "benchmarks") for path in (PROJECT / folder).rglob("*.py")
)
TESTS = sorted((PROJECT / "tests").rglob("*.py"))
STEPS = sorted(path for path in (PROJECT / "steps").glob("*.py") if path.name != "__init__.py")


def lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def test_no_module_is_longer_than_400_lines() -> None:
    assert {path.name: lines(path) for path in (*CODE, *TESTS) if lines(path) > 400} == {}


def test_no_helper_lives_in_a_test_module() -> None:
    found = []
    for path in TESTS:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").rpartition(".")[2].startswith("test_"):
                found.append(f"{path.name}: {node.module}")
    assert found == []


def test_no_function_is_longer_than_60_lines() -> None:
    found = {}
    for path in [*CODE, PROJECT / "main.py"]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                length = (node.end_lineno or 0) - node.lineno + 1
                if length > 60:
                    found[f"{path.name}:{node.name}"] = length
    assert found == {}


#: Arguments of `click.echo` that are not literals, as `<file>: <expression>`, with the reason why they need neither
#: `print_line` nor `print_block`.
PRINTED = {
    "errors.py: printable(text)": "print_line itself",
    "errors.py: '\\n'.join(map(_visible, without_secrets(text).split('\\n')))": "print_block itself",
    "progress.py: phase.line(500, False)": "the project's own names of phases, and numbers",
    "log.py: line": "a pod's log: each word is printable, and the spaces between them stay",
    "status.py: json.dumps(found.as_json(), indent=2) if format == 'json' else '\\n'.join(found.lines())": "JSON "
    "escapes what is not ASCII, and `lines` returns printable ones",
}


def test_a_line_that_is_no_literal_is_printed_by_print_line_or_print_block() -> None:
    """Such a line may contain a name from outside, with control characters for the terminal.

    `click.echo` would print these characters raw.
    """
    found = set()
    for path in (*CODE, PROJECT / "main.py"):
        if not path.is_relative_to(PROJECT / "tools") and not path.is_relative_to(PROJECT / "benchmarks"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and ast.unparse(node.func) in ("click.echo", "click.secho", "print"):
                    found |= {f"{path.name}: {ast.unparse(a)}" for a in node.args if not isinstance(a, ast.Constant)}
    assert found == set(PRINTED)


@pytest.mark.parametrize("path", STEPS, ids=[path.stem for path in STEPS])
def test_a_step_has_less_than_60_lines(path: Path) -> None:
    assert lines(path) < 60


def test_main_has_50_lines_at_most() -> None:
    assert lines(PROJECT / "main.py") <= 50


def test_a_wing_has_a_docstring_and_imports_nothing() -> None:
    for path in (PROJECT / "purchase_predict").rglob("__init__.py"):
        (statement,) = ast.parse(path.read_text(encoding="utf-8")).body
        assert isinstance(statement, ast.Expr), path
        assert isinstance(statement.value, ast.Constant), path


def contract(kind: str) -> dict[str, object]:
    contracts = tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    return next(found for found in contracts if found["type"] == kind and found.get("containers"))


def test_every_module_is_in_a_layer_and_nothing_else_is() -> None:
    layers = contract("layers")
    assert layers["exhaustive"] is True
    assert not layers.get("exhaustive_ignores")
    named = {name.strip() for layer in layers["layers"] for name in layer.replace(":", "|").split("|")}  # type: ignore[attr-defined]
    package = PROJECT / "purchase_predict"
    present = {path.stem for path in package.glob("*.py")} | {
        path.parent.name for path in package.glob("*/__init__.py")
    }
    assert named == present - {"__init__"}


@pytest.mark.parametrize("statement", ["from . import step", "import importlib\nimportlib.import_module('json')"])
def test_an_import_that_the_key_could_miss_is_refused_by_the_linter(statement: str) -> None:
    ruff = [sys.executable, "-m", "ruff", "check", "--stdin-filename", "purchase_predict/workflow/new.py", "-"]
    found = subprocess.run(ruff, input=f'"""New."""\n\n{statement}\n', cwd=PROJECT, capture_output=True, text=True)
    assert found.returncode == 1
    assert "TID25" in found.stdout
