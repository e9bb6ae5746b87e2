"""The complete commands that messages tell the user to run."""

import shlex


def command_line(entry_point: str, **parameters: object) -> str:
    """The command that runs an entry point, quoted for a shell, with the parameters in the given order."""
    given = [part for name, value in parameters.items() for part in ("-P", f"{name}={value}")]
    return shlex.join(["mlflow", "run", ".", "-e", entry_point, "--env-manager", "local", *given])
