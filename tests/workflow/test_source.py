"""The source closure of a step: it contains every file that can change the step's result, and ignores comments.

A closure has one digest per file. So a test edits many files at once, and then checks the digest of each.
"""

import ast
import json
import random
import subprocess
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click
import pytest

from purchase_predict.parameters import STEPS
from purchase_predict.workflow.source import source_closure
from tests.conftest import checkout
from tests.preloaded.start import program

#: By step, then by file: the digest of each file in the step's closure.
Closures = dict[str, dict[str, str]]


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkout(tmp_path_factory.mktemp("closure"))


def closures(project: Path) -> Closures:
    return {step: source_closure(step, project) for step in STEPS}


@pytest.fixture(scope="module")
def before(copy: Path) -> Closures:
    """The closures of the project without any edit."""
    return closures(copy)


@contextmanager
def edited(project: Path, names: Iterable[str], edit: Callable[[str], str]) -> Iterator[None]:
    """Edits these files while the block runs. A file that does not exist is created, and removed at the end."""
    texts = {project / name: None for name in names} | {
        project / name: (project / name).read_text(encoding="utf-8") for name in names if (project / name).exists()
    }
    try:
        for file, text in texts.items():
            file.write_text(edit(text or ""), encoding="utf-8")
        yield
    finally:
        for file, text in texts.items():
            if text is None:
                file.unlink()
            else:
                file.write_text(text, encoding="utf-8")


def differing(before: Closures, after: Closures) -> dict[str, set[str]]:
    """By file: the steps in whose closures the file has a new digest, was added or was removed."""
    steps: dict[str, set[str]] = {}
    for step in STEPS:
        for name in {*before[step], *after[step]}:
            if before[step].get(name) != after[step].get(name):
                steps.setdefault(name, set()).add(step)
    return steps


def with_statement(text: str) -> str:
    return text + "\nEDITED = 1\n"


#: A module that is in no closure, because it shows progress and returns nothing.
SHOWS_ONLY = "purchase_predict/progress.py"
#: Pairs of a file and the steps whose closures change if the file is edited.
EDITED: list[tuple[str, set[str]]] = [
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
    (SHOWS_ONLY, set()),
    ("purchase_predict/registry/promotion.py", {"deploy"}),
    ("purchase_predict/search/search.py", {"train"}),
    ("purchase_predict/features/expressions.py", {"process"}),  # imported inside a function of on_duckdb.py
    ("purchase_predict/reading/load.py", {"load"}),
    ("purchase_predict/sources/cloud_storage.py", {"load"}),
    ("purchase_predict/evaluation/scores.py", {"train", "deploy"}),
    ("purchase_predict/models/purchase_model.py", {"train", "deploy"}),
]


@pytest.fixture(scope="module")
def after_edits(copy: Path, before: Closures) -> dict[str, set[str]]:
    """By file: the steps in whose closures the file's digest changes if all files of EDITED are edited at once."""
    with edited(copy, [name for name, _ in EDITED], with_statement):
        return differing(before, closures(copy))


@pytest.mark.parametrize(("name", "changed"), EDITED)
def test_an_edit_changes_the_closure_of_the_steps_that_import_it(
    name: str, changed: set[str], after_edits: dict[str, set[str]]
) -> None:
    assert after_edits.get(name, set()) == changed


def test_an_edit_changes_the_digest_of_no_other_file(after_edits: dict[str, set[str]]) -> None:
    assert set(after_edits) <= {name for name, _ in EDITED}


def test_a_comment_a_docstring_or_a_reformatted_line_changes_nothing(copy: Path, before: Closures) -> None:
    def edit(text: str) -> str:
        tree = ast.parse(text)
        for node in ast.walk(tree):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node):
                node.body[0].value.value = "Another sentence."  # type: ignore[attr-defined]
        return "# a comment\n" + ast.unparse(tree) + "\n# another one\n"

    modules = {name for step in STEPS for name in before[step] if name.endswith(".py")}
    with edited(copy, sorted(modules), edit):
        assert differing(before, closures(copy)) == {}


def test_line_ends_of_the_checkout_do_not_count(copy: Path, before: Closures) -> None:
    file = copy / "steps" / "load.py"
    text = file.read_bytes()
    file.write_bytes(text.replace(b"\n", b"\r\n"))
    assert source_closure("load", copy) == before["load"]
    file.write_bytes(text)


#: Pairs of a module's file and a statement that imports the module in `purchase_predict/reading/load.py`. `#` stands
#: for the number of the pair, so each module is imported by one statement only. The modules print their names.
FORMS = [
    ("purchase_predict/extra#.py", "import purchase_predict.extra#"),
    ("purchase_predict/extra#.py", "import purchase_predict.extra# as e"),
    ("purchase_predict/extra#.py", "from purchase_predict import extra#"),
    ("purchase_predict/extra#.py", "from purchase_predict.extra# import *"),
    ("purchase_predict/extra#.py", "from .. import extra#"),
    ("purchase_predict/reading/extra#.py", "from . import extra#"),
    ("purchase_predict/reading/extra#.py", "from .extra# import VALUE"),
    ("purchase_predict/extra#.py", "def late():\n    from purchase_predict import extra#\nlate()"),
    ("purchase_predict/extra#.py", "import importlib\nimportlib.import_module('purchase_predict.extra#')"),
    ("purchase_predict/extra#.py", "import importlib\nimportlib.import_module('..extra#', __package__)"),
    ("purchase_predict/extra#.py", "__import__('purchase_predict.extra#')"),
    ("purchase_predict/more/extra#.py", "import purchase_predict.more.extra#"),
    ("extra#.py", "import extra#"),
    ("extras/extra#.py", "from extras import extra#"),
    ("extras/extra#.py", "from extras.extra# import VALUE"),
    ("steps/extra#.py", "from steps import extra#"),
]


@dataclass(frozen=True)
class Imported:
    """The results of importing the modules of all FORMS at once.

    Attributes:
        printed: the names of the modules that Python imported.
        edits: by file of a module: the steps whose closures change if the module is edited.
        closure: the closure of load: the digest of each file.
    """

    printed: set[str]
    edits: dict[str, set[str]]
    closure: dict[str, str]


@pytest.fixture(scope="module")
def imported(copy: Path) -> Imported:
    loader = "purchase_predict/reading/load.py"
    names = [name.replace("#", str(number)) for number, (name, _) in enumerate(FORMS)]
    statements = [statement.replace("#", str(number)) for number, (_, statement) in enumerate(FORMS)]
    for name in names:
        (copy / name).parent.mkdir(exist_ok=True)
    with (
        edited(copy, [loader], lambda text: "\n".join([text, *statements, ""])),
        edited(copy, names, lambda _: "VALUE = 1\nprint('imported', __name__, flush=True)\n"),
    ):
        code = "import purchase_predict.reading.load"
        run = subprocess.run([program("python"), "-c", code], cwd=copy, check=True, capture_output=True, text=True)
        unedited = closures(copy)
        with edited(copy, names, with_statement):
            edits = differing(unedited, closures(copy))
    return Imported({line.removeprefix("imported ") for line in run.stdout.splitlines()}, edits, unedited["load"])


@pytest.mark.parametrize("number", range(len(FORMS)), ids=[statement.replace("\n", "; ") for _, statement in FORMS])
def test_a_module_is_followed_whatever_the_form_of_its_import(number: int, imported: Imported) -> None:
    name = FORMS[number][0].replace("#", str(number))
    assert name.removesuffix(".py").replace("/", ".") in imported.printed
    assert name in imported.closure
    assert imported.edits[name] == {"load"}


def test_a_module_whose_name_only_the_running_code_knows_is_refused(copy: Path) -> None:
    loader = copy / "purchase_predict/reading/load.py"
    text = loader.read_text(encoding="utf-8")
    loader.write_text(f"{text}\nimport importlib\nimportlib.import_module('purchase_predict.' + 'extra')\n")
    try:
        with pytest.raises(click.ClickException, match=r"purchase_predict/reading/load.py, line \d+: imports a module"):
            source_closure("load", copy)
    finally:
        loader.write_text(text)


def test_templates_and_styles_beside_a_module_count(copy: Path, before: Closures) -> None:
    page, style = (f"purchase_predict/report/{name}" for name in ("page.extra.jinja", "base.css"))
    with edited(copy, [page, style], lambda text: text + "<p>"):
        assert differing(before, closures(copy)) == {page: {"train"}, style: {"train", "deploy"}}


#: Program that prints, for each step, the files of all modules that are loaded after the step's import. Each step is
#: imported in a fork of a process that has imported only MLflow.
_EXECUTED = f"""
import importlib, json, os, sys, mlflow

for step in {list(STEPS)}:
    if os.fork() == 0:
        importlib.import_module("steps." + step)
        names = [m.__file__ for m in sys.modules.values() if getattr(m, "__file__", None)]
        print(json.dumps([step, names]), flush=True)
        os._exit(0)
    os.wait()
"""


@pytest.fixture(scope="module")
def executed(copy: Path) -> dict[str, set[str]]:
    """By step: the project's files that Python runs when it imports the step."""
    run = subprocess.run([program("python"), "-c", _EXECUTED], cwd=copy, check=True, capture_output=True, text=True)
    ran = {}
    for step, names in map(json.loads, run.stdout.splitlines()):
        files = {Path(name).resolve() for name in names}
        ran[step] = {file.relative_to(copy).as_posix() for file in files if file.is_relative_to(copy)}
    assert set(ran) == set(STEPS)
    assert all(f"steps/{step}.py" in ran[step] for step in STEPS)
    return ran


def statements(text: str) -> list[int]:
    """The numbers of a module's statements, in the order of `ast.walk`."""
    nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.stmt)]
    return list(range(len(nodes)))


def with_changed_statement(text: str, place: int) -> str:
    """The module's text with one more statement, in the same block and before the statement with the number `place`."""
    tree = ast.parse(text)
    chosen = [node for node in ast.walk(tree) if isinstance(node, ast.stmt)][place]
    for node in ast.walk(tree):
        for block in ("body", "orelse", "finalbody"):
            lines = getattr(node, block, None)
            if isinstance(lines, list) and chosen in lines:
                lines.insert(lines.index(chosen), ast.parse("assert True").body[0])
    return ast.unparse(tree)


def test_a_changed_statement_of_a_module_that_a_step_executes_is_never_missed(
    copy: Path, before: Closures, executed: dict[str, set[str]]
) -> None:
    """Adds a statement at a random place of each module.

    Of the package `workflow/`, only `step.py` and `__init__.py` count: its other modules touch no tables.
    """
    rng = random.Random(0)
    uncounted = {SHOWS_ONLY} | {
        name
        for name in set().union(*executed.values())
        if name.startswith("purchase_predict/workflow/") and not name.endswith(("/__init__.py", "/step.py"))
    }
    names = sorted(set().union(*executed.values()) - uncounted)
    with_places = [name for name in names if statements((copy / name).read_text(encoding="utf-8"))]
    assert len(with_places) > 40
    with edited(copy, with_places, lambda text: with_changed_statement(text, rng.choice(statements(text)))):
        changed = differing(before, closures(copy))
    for name in with_places:
        assert {step for step in STEPS if name in executed[step]} <= changed.get(name, set()), name


def test_the_closure_holds_every_module_that_a_step_really_imports(executed: dict[str, set[str]]) -> None:
    for step in STEPS:
        counted = {name for name in executed[step] if not name.startswith("purchase_predict/workflow/")} - {SHOWS_ONLY}
        assert counted <= set(source_closure(step)), step
