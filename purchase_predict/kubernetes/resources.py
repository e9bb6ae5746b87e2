"""The memory and disk that a Job requests, computed from `memory_limit`."""

import re
from collections.abc import Mapping
from typing import Any

import click

_UNITS = {"n": 1e-9, "u": 1e-6, "m": 1e-3, "": 1, "k": 1000}
_UNITS |= {unit: 1000**power for power, unit in enumerate("KMGTPE", 1)}
_UNITS |= {f"{unit}i": 1024**power for power, unit in enumerate("KMGTPE", 1)}
_SIZE = re.compile(r"([0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?|[0-9]+\.) ?([KMGTPE]i?|[numk]|)B?")
_GIB = 1024**3
#: The steps whose SQL engine obeys `memory_limit`.
BOUNDED = ("load", "process")
#: Besides the SQL engine (DuckDB), a step needs memory for Python, for Arrow's buffers, and for what DuckDB does not
#: count towards `memory_limit`. So the Job requests twice `memory_limit` plus 1 GiB.
_MEMORY_FACTOR, _MEMORY_MORE = 2, _GIB
#: The disk holds data that DuckDB spills, the downloaded source, and the tables that the step makes. So the Job
#: requests 8 times `memory_limit` plus 10 GiB.
_DISK_FACTOR, _DISK_MORE = 8, 10 * _GIB


def size_of(text: str) -> float:
    """A size in bytes. The text has the form of Kubernetes (`512Mi`, `2G`, `64k`, `1e9`) or DuckDB (`512MiB`, `2 GB`).

    Raises:
        ValueError: the text is no size.
    """
    match = _SIZE.fullmatch(text)
    if not match:
        raise ValueError(f"{text} is not a size")
    return float(match[1]) * _UNITS[match[2]]


def merged(*given: Mapping[str, Any]) -> dict[str, Any]:
    """Merges several `resources`, by kind (`requests`, `limits`) and name. A later value wins; a null is ignored."""
    whole: dict[str, Any] = {}
    for kind, part in (item for one in given for item in one.items()):
        if isinstance(part, Mapping):
            whole[kind] = whole.get(kind, {}) | {name: size for name, size in part.items() if size is not None}
        elif part is not None:  # `claims`, which is a list
            whole[kind] = part
    return whole


def resources(entry_point: str, given: Mapping[str, Any], memory_limit: str, place: str) -> dict[str, Any]:
    """The container's `resources`: the values of `backend_config`, and computed values where it gives none.

    Args:
        entry_point: the step; values are computed only for the steps in `BOUNDED`.
        given: the step's resources in the file `backend_config` and its template; empty: none.
        memory_limit: the step's parameter `memory_limit`, such as `2GB`; empty: nothing is computed.
        place: the file's name in messages.

    Raises:
        click.ClickException: `memory_limit` is no size; or a memory request or limit in the file is not above
            `memory_limit`; or a memory request, memory limit or disk limit in the file cannot be read.
    """
    if entry_point not in BOUNDED or not memory_limit:
        return dict(given)
    try:
        wanted = size_of(memory_limit)
    except ValueError as error:  # `mlflow run -b` passes the parameter as the user wrote it
        raise click.ClickException(f"memory_limit={memory_limit}: must be a size such as 2GB or 512MB") from error
    memory = {kind: _size(given, kind, "memory", entry_point, place) for kind in ("requests", "limits")}
    for kind, size in memory.items():
        if size is not None and size <= wanted:
            raise click.ClickException(
                f"{place}: resources.{kind}.memory={given[kind]['memory']} of {entry_point} must be more than "
                f"memory_limit={memory_limit}, because the SQL engine alone may use that much: raise "
                f"resources.{kind}.memory, or lower memory_limit"
            )
    # Memory also gets a limit. So a step that uses more is killed, and not its neighbours on the node.
    need, disk = wanted * _MEMORY_FACTOR + _MEMORY_MORE, wanted * _DISK_FACTOR + _DISK_MORE
    computed = {
        "requests": {"memory": _mib(need), "ephemeral-storage": _mib(disk)},
        "limits": {"memory": _mib(max(need, memory["requests"] or 0))},
    }
    # Kubernetes refuses a request above the limit. So if the file has a limit below the computed request, the computed
    # request is left out. Kubernetes then requests the limit, unless the file has its own request.
    for name, request in list(computed["requests"].items()):
        limit = _size(given, "limits", name, entry_point, place)
        if limit is not None and limit < size_of(request):
            del computed["requests"][name]
    return merged(computed, given)


def _size(given: Mapping[str, Any], kind: str, name: str, entry_point: str, place: str) -> float | None:
    """The number of bytes that the file gives; None: the file gives no value."""
    text = str((given.get(kind) or {}).get(name, ""))
    try:
        return size_of(text) if text else None
    except ValueError as error:
        raise click.ClickException(f"{place}: resources.{kind}.{name} of {entry_point}: {error}") from error


def _mib(size: float) -> str:
    return f"{-int(-size // 1024**2)}Mi"
