"""The imports of the preloaded Python: packages that the project uses, and modules that these import later."""

import ast
import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parent.parent.parent
#: Packages that are not imported here: Spark, which few processes need, and the project's own. A process runs the
#: project's code of its own checkout.
NOT_IMPORTED = {"pyspark", "purchase_predict", "steps", "main"}
#: A package whose modules are removed again. When it is imported, it sets itself up differently in a server's process
#: than in any other, so each process must import it itself.
NOT_KEPT = "mlflow.server."
#: Variables whose values at import do not matter, because they are read again wherever they are used.
READ_AGAIN = {
    "HOME", "PATH", "PWD", "TMPDIR", "TEMP", "TMP", "PYTEST_CURRENT_TEST", "MLFLOW_TRACKING_URI",
    "MLFLOW_DISABLE_TELEMETRY", "_MLFLOW_TELEMETRY_SESSION_ID",  # DO_NOT_TRACK turns telemetry off in all tests
    "KUBECONFIG",  # read again by process.py
    "_MLFLOW_SERVER_FILE_STORE", "_MLFLOW_SERVER_SERVE_ARTIFACTS",  # read by NOT_KEPT
}  # fmt: skip
#: Modules that the packages import only when they are used.
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
    """The modules in the project's import statements, without those of NOT_IMPORTED."""
    for file in (PROJECT / "main.py", *PROJECT.glob("steps/*.py"), *PROJECT.glob("purchase_predict/**/*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            yield from (name for name in names if name.partition(".")[0] not in NOT_IMPORTED)


def preload() -> list[str]:
    """Imports the modules and removes those of NOT_KEPT again.

    Returns:
        The names of the variables that were read during the imports and matter. A command for which one of these
        variables has another value starts a fresh Python. READ_AGAIN and the variables that the imports set are left
        out. A loop over `os.environ.items()` does not count as reading.
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
            continue  # a program that needs this module reports that it is missing
    assert not [name for name in sys.modules if name.partition(".")[0] in NOT_IMPORTED - {"pyspark"}]
    for name in [name for name in sys.modules if f"{name}.".startswith(NOT_KEPT)]:
        del sys.modules[name]
    gc.collect()
    gc.freeze()  # garbage collection skips these objects, so a fork need not copy their memory
    kind.__getitem__ = get
    set_at_import = {name for name, value in os.environ.items() if before.get(name) != value}
    return sorted(read - READ_AGAIN - set_at_import)
