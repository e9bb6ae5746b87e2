"""Writes requirements.lock and requirements-dev.lock from the pins of pyproject.toml: `make lock`.

Each lock lists every package that its pins need, directly or indirectly, with the version and the hashes of the files,
for all Pythons that the project supports. A version in a lock stays until a pin asks for another one, or until it is
upgraded: `make lock UPGRADE="--upgrade"` upgrades all packages that are not pinned, and
`make lock UPGRADE="--upgrade-package scipy"` upgrades only scipy.
"""

import hashlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
RUN_LOCK = "requirements.lock"
DEVELOPMENT_LOCK = "requirements-dev.lock"
#: The groups of pyproject.toml in requirements-dev.lock. The group `benchmark` (packages to compare with) is left out.
DEVELOPMENT_GROUPS = ("dev", "servers", "spark", "kubernetes")


def compile_lock(name: str, sources: Sequence[str], options: Sequence[str]) -> None:
    """Writes one lock with uv.

    Args:
        name: the lock's file name.
        sources: uv's arguments that say what to lock.
        options: more arguments of uv, such as `--upgrade`.
    """
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    oldest_python = project["requires-python"].removeprefix(">=")
    command = [
        str(Path(sys.executable).with_name("uv")),
        *("pip", "compile", "--quiet", "--universal", "--generate-hashes", "--python-version", oldest_python),
        # If one version of a package fits all Pythons and systems, the lock has only this version.
        *("--fork-strategy", "fewest"),
        *("--custom-compile-command", "make lock", *options, *sources, "--output-file", name),
    ]
    subprocess.run(command, cwd=PROJECT, check=True)


def write_digest(conda: Path, lock: Path) -> None:
    """Writes the lock's digest into conda.yaml.

    MLflow builds a new conda environment when the text of conda.yaml changes, and thus when the lock changes.
    """
    digest = hashlib.sha256(lock.read_bytes()).hexdigest()
    text = conda.read_text(encoding="utf-8")
    text = re.sub(rf"(# {re.escape(lock.name)} sha256:).*", rf"\1 {digest}", text)
    conda.write_text(text, encoding="utf-8")


def main() -> None:
    """Writes both locks and the digest in conda.yaml."""
    options = sys.argv[1:]
    compile_lock(RUN_LOCK, ["pyproject.toml"], options)
    groups = [argument for group in DEVELOPMENT_GROUPS for argument in ("--group", group)]
    compile_lock(DEVELOPMENT_LOCK, [*groups, "--constraint", RUN_LOCK], options)
    write_digest(PROJECT / "conda.yaml", PROJECT / RUN_LOCK)


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
