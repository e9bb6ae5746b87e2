"""What the preloaded Python imports: what the project imports of others, and what that imports late."""

import ast
import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parent.parent.parent
#: Not imported: Spark, which few processes need, and what is the project's.
NOT_IMPORTED = {"pyspark", "purchase_predict", "steps", "main"}
#: Not kept: it becomes another one when it is imported within a server.
NOT_KEPT = "mlflow.server."
#: Variables that are read at import and once more by whoever uses them.
READ_AGAIN = {
    "HOME", "PATH", "PWD", "TMPDIR", "TEMP", "TMP", "PYTEST_CURRENT_TEST", "MLFLOW_TRACKING_URI",
    "MLFLOW_DISABLE_TELEMETRY",  # which another one turns off in all tests
    "_MLFLOW_SERVER_FILE_STORE", "_MLFLOW_SERVER_SERVE_ARTIFACTS",  # by what is not kept
}  # fmt: skip
#: What these import late, when they are used.
LATE = (
    "mlflow.cli",
    "mlflow.projects.backend.local",
    "mlflow.store.tracking.sqlalchemy_store",
    "mlflow.store.model_registry.sqlalchemy_store",
    "mlflow.store.artifact.mlflow_artifacts_repo",
    "mlflow.data.pandas_dataset",
    "ibis.backends.duckdb",
    "matplotlib.backends.backend_agg",
    "matplotlib.backends.backend_svg",
)


def imported_by_the_project() -> Iterator[str]:
    """The modules of others that an import statement of the project names."""
    for file in (PROJECT / "main.py", *PROJECT.glob("steps/*.py"), *PROJECT.glob("purchase_predict/**/*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            yield from (name for name in names if name.partition(".")[0] not in NOT_IMPORTED)


def preload() -> list[str]:
    """Imports all of it.

    Returns:
        The variables that were read meanwhile, by name (who goes through all of them reads none): where one of them
        differs, a process starts anew.
    """
    before, read = dict(os.environ), set[str]()
    kind = type(os.environ)
    get = kind.__getitem__

    def watched(environ: Any, name: Any) -> Any:
        if environ is os.environ and isinstance(name, str) and sys._getframe(1).f_code.co_name != "__iter__":
            read.add(name)
        return get(environ, name)

    kind.__getitem__ = watched
    for name in sorted({*imported_by_the_project(), *LATE}):
        try:
            __import__(name)
        except ImportError:
            continue  # whoever needs it says so
    assert not [name for name in sys.modules if name.partition(".")[0] in NOT_IMPORTED - {"pyspark"}]
    for name in [name for name in sys.modules if f"{name}.".startswith(NOT_KEPT)]:
        del sys.modules[name]
    gc.collect()
    gc.freeze()  # no process has to look through these objects, nor to copy them for it
    kind.__getitem__ = get
    set_at_import = {name for name, value in os.environ.items() if before.get(name) != value}
    return sorted(read - READ_AGAIN - set_at_import)
