"""The versions of Python and of the packages that the project installs, for the step key."""

import functools
import hashlib
import importlib.metadata
import re
import sys
import tomllib
from pathlib import Path

from purchase_predict.settings import PROJECT


@functools.cache
def environment() -> dict[str, str]:
    """The part of a step key that describes the environment.

    Returns:
        A value for each of these names:
        - `python`: Python's version up to the minor one, such as 3.11.
        - each package that pyproject.toml pins: its installed version, or `none`.
        - `lock`: a digest of the installed versions of the packages that requirements.lock lists.
    """
    versions = _installed_versions()
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pinned = [re.split(r"[\[=<>!~ ;]", requirement)[0] for requirement in project["dependencies"]]
    lock = (PROJECT / "requirements.lock").read_text(encoding="utf-8")
    return {
        "python": f"{sys.version_info.major}.{sys.version_info.minor}",
        **{name: _version(name, versions) for name in pinned},
        "lock": _locked_digest(lock, versions),
    }


def _locked_digest(lock: str, versions: dict[str, str]) -> str:
    found = []
    for name, marker in re.findall(r"^([\w.-]+)==[^\s;]+( ;)?", lock, re.MULTILINE):
        version = _version(name, versions)
        # A package with a marker is needed on some systems only, so it is skipped if it is not installed.
        if version != "none" or not marker:
            found.append(f"{name}=={version}")
    return hashlib.sha256("\n".join(sorted(found)).encode()).hexdigest()[:16]


def _version(name: str, versions: dict[str, str]) -> str:
    known = versions.get(_normalized(name))
    if known is not None:
        return known
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "none"


def _installed_versions() -> dict[str, str]:
    """The versions of the installed packages, by normalized name.

    They are read from the names of the `.dist-info` folders. Reading the metadata files of 115 packages would
    take 0.17 s per step.
    """
    versions: dict[str, str] = {}
    for folder in sys.path:
        for entry in sorted(Path(folder).glob("*.dist-info")):
            name, _, version = entry.stem.partition("-")
            versions.setdefault(_normalized(name), version)
    return versions


def _normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
