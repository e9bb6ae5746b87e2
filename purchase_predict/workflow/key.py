"""The key of a step: what can change its result, as one digest."""

import ast
import functools
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from purchase_predict.parameters import PROJECT
from purchase_predict.workflow.environment import environment
from purchase_predict.workflow.plan import MADE_BY

KEY_FORMAT = 1
#: Parameters that say how long a search goes on, not which trials it makes.
HOW_LONG = ("max_evals", "max_minutes")
#: Parameters that cannot change a step's result. Inputs count by their content, not by where they are; the engines
#: agree row for row.
NOT_IN_KEY = {"source", "engine", "reuse", "gcp_project", "memory_limit", "promote_rolled_back", *MADE_BY}


def key_parts(entry_point: str, values: Mapping[str, Any], inputs: Mapping[str, str]) -> dict[str, Any]:
    """What the key of a step is made of.

    Args:
        entry_point: the step.
        values: all its parameters, typed (`parameters.resolve`).
        inputs: the content digest of each of its inputs.
    """
    return {
        "format": KEY_FORMAT,
        "entry_point": entry_point,
        "parameters": {name: value for name, value in values.items() if name not in NOT_IN_KEY},
        "inputs": dict(inputs),
        "source": source_closure(entry_point),
        "environment": environment(),
    }


def key_of(parts: Mapping[str, Any]) -> str:
    """SHA-256 of the parts as canonical JSON."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def search_key_of(parts: Mapping[str, Any]) -> str:
    """The key of a step without how long it searches: under the same one, trials are the same."""
    values = {name: value for name, value in parts["parameters"].items() if name not in HOW_LONG}
    return key_of({**parts, "parameters": values})


def source_closure(entry_point: str, project: Path = PROJECT) -> dict[str, str]:
    """The step's file and the project's modules that it imports, directly or not, each with a digest of its text."""
    found: dict[str, str] = {}
    waiting = ["steps/__init__.py", f"steps/{entry_point}.py"]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        # A checkout with other line ends is the same source.
        text = (project / name).read_bytes().replace(b"\r\n", b"\n")
        found[name] = hashlib.sha256(text).hexdigest()[:16]
        waiting += _imported_files(_imported_modules(text, name), project)
    return dict(sorted(found.items()))


@functools.cache  # main asks for four steps, which share most of their files; by the text, which may change meanwhile
def _imported_modules(text: bytes, name: str) -> list[str]:
    modules: list[str] = []
    for node in ast.walk(ast.parse(text, name)):
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return modules


def _imported_files(modules: Sequence[str], project: Path) -> Iterator[str]:
    for module in modules:
        parts = module.split(".")
        if parts[0] in ("purchase_predict", "steps"):
            for depth in range(1, len(parts) + 1):
                for name in ("/".join(parts[:depth]) + ".py", "/".join(parts[:depth]) + "/__init__.py"):
                    if (project / name).is_file():
                        yield name
