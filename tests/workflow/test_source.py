"""The source closure of a step: every file that can change its result, and no comment."""

import ast
import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from purchase_predict.parameters import STEPS
from purchase_predict.settings import PROJECT
from purchase_predict.workflow.source import source_closure
from tests.conftest import checkout


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkout(tmp_path_factory.mktemp("closure"))


def changed_by(project: Path, name: str, edit: Callable[[str], str]) -> set[str]:
    """The steps whose closure changes with an edit of one file, which is undone."""
    before = {step: source_closure(step, project) for step in STEPS}
    file = project / name
    text = file.read_text(encoding="utf-8") if file.exists() else None
    file.write_text(edit(text or ""), encoding="utf-8")
    try:
        return {step for step in STEPS if source_closure(step, project) != before[step]}
    finally:
        if text is None:
            file.unlink()
        else:
            file.write_text(text, encoding="utf-8")


def with_statement(text: str) -> str:
    return text + "\nEDITED = 1\n"


@pytest.mark.parametrize(
    ("edited", "changed"),
    [
        ("README.md", set()),
        ("main.py", set()),
        ("MLproject", set()),
        ("purchase_predict/parameters.py", set(STEPS)),
        ("purchase_predict/workflow/chain.py", set()),
        ("purchase_predict/workflow/lease.py", set()),
        ("purchase_predict/workflow/summary.py", set()),
        ("purchase_predict/workflow/uncommitted.py", set()),
        ("purchase_predict/workflow/step.py", set(STEPS)),
        ("steps/deploy.py", {"deploy"}),
        ("steps/train.py", {"train"}),
        ("purchase_predict/registry/promotion.py", {"deploy"}),
        ("purchase_predict/search/search.py", {"train"}),
        ("purchase_predict/features/expressions.py", {"process"}),  # imported inside a function of on_duckdb.py
        ("purchase_predict/reading/load.py", {"load"}),
        ("purchase_predict/sources/cloud_storage.py", {"load"}),
        ("purchase_predict/evaluation/scores.py", {"train", "deploy"}),
        ("purchase_predict/models/purchase_model.py", {"train", "deploy"}),
    ],
)
def test_an_edit_changes_the_closure_of_the_steps_that_import_it(copy: Path, edited: str, changed: set[str]) -> None:
    assert changed_by(copy, edited, with_statement) == changed


def test_a_comment_a_docstring_or_a_reformatted_line_changes_nothing(copy: Path) -> None:
    for name in sorted({name for step in STEPS for name in source_closure(step, copy) if name.endswith(".py")}):

        def edit(text: str) -> str:
            tree = ast.parse(text)
            for node in ast.walk(tree):
                if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node):
                    node.body[0].value.value = "Another sentence."  # type: ignore[attr-defined]
            return "# a comment\n" + ast.unparse(tree) + "\n# another one\n"

        assert changed_by(copy, name, edit) == set(), name


def test_line_ends_of_the_checkout_do_not_count(copy: Path) -> None:
    before = source_closure("load", copy)
    file = copy / "steps" / "load.py"
    text = file.read_bytes()
    file.write_bytes(text.replace(b"\n", b"\r\n"))
    assert source_closure("load", copy) == before
    file.write_bytes(text)


#: Ways to import a module of the project from `purchase_predict/reading/load.py`; the module prints its name.
FORMS = [
    ("purchase_predict/extra.py", "import purchase_predict.extra"),
    ("purchase_predict/extra.py", "import purchase_predict.extra as e"),
    ("purchase_predict/extra.py", "from purchase_predict import extra"),
    ("purchase_predict/extra.py", "from purchase_predict.extra import *"),
    ("purchase_predict/extra.py", "from .. import extra"),
    ("purchase_predict/reading/extra.py", "from . import extra"),
    ("purchase_predict/reading/extra.py", "from .extra import VALUE"),
    ("purchase_predict/extra.py", "def late():\n    from purchase_predict import extra\nlate()"),
    ("purchase_predict/extra.py", "import importlib\nimportlib.import_module('purchase_predict.extra')"),
    ("purchase_predict/extra.py", "import importlib\nimportlib.import_module('..extra', __package__)"),
    ("purchase_predict/extra.py", "__import__('purchase_predict.extra')"),
    ("purchase_predict/more/extra.py", "import purchase_predict.more.extra"),
    ("extra.py", "import extra"),
    ("extras/extra.py", "from extras import extra"),
    ("extras/extra.py", "from extras.extra import VALUE"),
    ("steps/extra.py", "from steps import extra"),
]


@pytest.mark.parametrize(("name", "statement"), FORMS, ids=[statement.replace("\n", "; ") for _, statement in FORMS])
def test_a_module_is_followed_whatever_the_form_of_its_import(copy: Path, name: str, statement: str) -> None:
    loader, extra = copy / "purchase_predict/reading/load.py", copy / name
    text = loader.read_text(encoding="utf-8")
    extra.parent.mkdir(exist_ok=True)
    extra.write_text("VALUE = 1\nprint('imported', flush=True)\n")
    loader.write_text(f"{text}\n{statement}\n")
    try:
        run = subprocess.run(
            [sys.executable, "-c", "import purchase_predict.reading.load"], cwd=copy, capture_output=True, text=True
        )
        assert run.stdout == "imported\n", run.stderr
        assert name in source_closure("load", copy)
        assert changed_by(copy, name, with_statement) == {"load"}
    finally:
        loader.write_text(text)
        extra.unlink()


def test_a_module_whose_name_only_the_running_code_knows_is_refused(copy: Path) -> None:
    loader = copy / "purchase_predict/reading/load.py"
    text = loader.read_text(encoding="utf-8")
    loader.write_text(f"{text}\nimport importlib\nimportlib.import_module('purchase_predict.' + 'extra')\n")
    try:
        with pytest.raises(click.ClickException, match=r"purchase_predict/reading/load.py, line \d+: imports a module"):
            source_closure("load", copy)
    finally:
        loader.write_text(text)


def test_templates_and_styles_beside_a_module_count(copy: Path) -> None:
    for name, steps in (("page.extra.jinja", {"train"}), ("base.css", {"train", "deploy"})):
        assert changed_by(copy, f"purchase_predict/report/{name}", lambda text: text + "<p>") == steps


_EXECUTED = """
import json, sys
import steps.{step}
names = [m.__file__ for m in sys.modules.values() if getattr(m, "__file__", None)]
print(json.dumps(names))
"""


def executed(step: str, project: Path) -> set[str]:
    """The project's files that Python runs when it imports a step."""
    code = _EXECUTED.format(step=step)
    run = subprocess.run([sys.executable, "-c", code], cwd=project, check=True, capture_output=True, text=True)
    files = {Path(file).resolve() for file in json.loads(run.stdout.splitlines()[-1])}
    return {
        file.relative_to(project).as_posix()
        for file in files
        if file.is_relative_to(project) and "site-packages" not in file.parts
    }


def statements(text: str) -> list[int]:
    """The places in a module's syntax tree at which a statement can be changed."""
    nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.stmt)]
    return list(range(len(nodes)))


def with_changed_statement(text: str, place: int) -> str:
    """The module with one statement more before the one at this place, in its own block."""
    tree = ast.parse(text)
    chosen = [node for node in ast.walk(tree) if isinstance(node, ast.stmt)][place]
    for node in ast.walk(tree):
        for block in ("body", "orelse", "finalbody"):
            lines = getattr(node, block, None)
            if isinstance(lines, list) and chosen in lines:
                lines.insert(lines.index(chosen), ast.parse("assert True").body[0])
    return ast.unparse(tree)


def test_a_changed_statement_of_a_module_that_a_step_executes_is_never_missed(copy: Path) -> None:
    """Random statements of random modules; the wing `workflow/`, which touches no table, counts with step.py alone."""
    ran = {step: executed(step, copy) for step in STEPS}
    rng = random.Random(0)
    for name in sorted(set().union(*ran.values())):
        if name.startswith("purchase_predict/workflow/") and not name.endswith(("/__init__.py", "/step.py")):
            continue
        text = (copy / name).read_text(encoding="utf-8")
        if places := statements(text):
            place = rng.choice(places)
            changed = changed_by(copy, name, lambda text, place=place: with_changed_statement(text, place))
            assert {step for step in STEPS if name in ran[step]} <= changed, (name, place)


def test_the_closure_holds_every_module_that_a_step_really_imports() -> None:
    for step in STEPS:
        ours = executed(step, PROJECT)
        counted = {name for name in ours if not name.startswith("purchase_predict/workflow/")}
        assert counted <= set(source_closure(step)), step
