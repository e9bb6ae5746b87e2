"""The commands in messages can be pasted into a shell, whatever the names are."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from purchase_predict.workflow.hints import command_line

PROJECT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", ["purchase_predict", "two words", "it's; rm -rf $HOME", "ü*?"])
def test_a_shell_passes_on_the_names_as_they_are(name: str) -> None:
    line = command_line("approve", registry_name=name, version=2)
    echoed = subprocess.run(["sh", "-c", f"printf '%s\\n' {line}"], capture_output=True, text=True, check=True)
    assert echoed.stdout.splitlines() == [
        *("mlflow", "run", ".", "-e", "approve", "--env-manager", "local"),
        *("-P", f"registry_name={name}", "-P", "version=2"),
    ]
    assert shlex.split(line)[-1] == "version=2"


def test_no_module_writes_such_a_command_itself() -> None:
    written = {
        str(file.relative_to(PROJECT))
        for file in (PROJECT / "purchase_predict").rglob("*.py")
        if re.search(r"mlflow run \. -(e|P)", file.read_text(encoding="utf-8"))
    }
    assert written == set()
