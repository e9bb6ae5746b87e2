"""The step key: a digest of everything that can change a step's result."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from purchase_predict.errors import some_of
from purchase_predict.parameters import PARAMETERS
from purchase_predict.settings import PROJECT
from purchase_predict.workflow.environment import environment
from purchase_predict.workflow.source import source_closure

#: Version of the key's format. Increase it when a part of the key changes its meaning. Since format 2, a Python file is
#: compared by its syntax tree.
KEY_FORMAT = 2
#: The parts of a key that are mappings from names to values.
GROUPS = ("parameters", "environment", "inputs", "source")
#: Maximum number of differences that `differences` names.
_NAMED_DIFFERENCES = 3
#: Source files that only use a search's result, such as those of the report and the backtest. They cannot change its
#: trials, so the search key leaves them out.
_AFTER_SEARCH = (
    "purchase_predict/report/",
    *(
        f"purchase_predict/evaluation/{name}.py"
        for name in ("backtest", "curves", "profile", "promo_codes", "stability", "weaknesses")
    ),
)
#: Path prefixes of source files that only draw a step's page, by step; a step that is not listed has none. The step key
#: leaves these files out, because a new layout is no reason to decide about a promotion again.
_LOOKS = {"deploy": ("purchase_predict/report/layout", "purchase_predict/report/promotion_page")}


def counted_source(entry_point: str, project: Path = PROJECT) -> dict[str, str]:
    """The source files that count for the key of a step, each with a digest (see `source`)."""
    closure = source_closure(entry_point, project)
    return {name: digest for name, digest in closure.items() if not name.startswith(_LOOKS.get(entry_point, ()))}


def key_parts(entry_point: str, values: Mapping[str, Any], inputs: Mapping[str, str]) -> dict[str, Any]:
    """The parts from which the key of a step is computed.

    Args:
        entry_point: the step.
        values: all its parameters, typed (`parameters.resolve`).
        inputs: the content digest of each of its inputs, by the input's name.
    """
    return {
        "format": KEY_FORMAT,
        "entry_point": entry_point,
        "parameters": {name: value for name, value in values.items() if PARAMETERS[name].in_key},
        "inputs": dict(inputs),
        "source": counted_source(entry_point),
        "environment": environment(),
    }


def key_of(parts: Mapping[str, Any]) -> str:
    """SHA-256 of the parts as canonical JSON."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def search_key_of(parts: Mapping[str, Any]) -> str:
    """The search key, computed from the parts of the step key.

    Parameters and source files that cannot change the trials are left out.
    """
    values = {name: value for name, value in parts["parameters"].items() if not PARAMETERS[name].same_trials}
    source = {name: digest for name, digest in parts["source"].items() if not name.startswith(_AFTER_SEARCH)}
    return key_of({**parts, "parameters": values, "source": source})


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The first few differences between the parts of two keys, as one line of text; empty if nothing differs."""
    if before.get("format") != now.get("format"):
        return "key format changed"
    found = []
    for group, text in (("parameters", "{}: {} -> {}"), ("environment", "{} {} -> {}")):
        old, new = before.get(group, {}), now.get(group, {})
        for name in sorted(set(old) | set(new)):
            if old.get(name) != new.get(name):
                shown = ("unset" if side.get(name) is None else side[name] for side in (old, new))
                found.append(text.format(name, *shown))
    old, new = before.get("inputs", {}), now.get("inputs", {})
    found += [f"content of {name} changed" for name in sorted(new) if old.get(name) != new[name]]
    old, new = before.get("source", {}), now.get("source", {})
    found += [f"{name} changed" for name in sorted(set(old) | set(new)) if old.get(name) != new.get(name)]
    return some_of(found, _NAMED_DIFFERENCES, "; ")
