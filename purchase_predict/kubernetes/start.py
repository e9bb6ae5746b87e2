"""The first process in a Job's container: compares the image with what the workflow expects, then runs the step.

    python -m purchase_predict.kubernetes.start python -m steps.train --dataset=runs:/...

This module does not import MLflow. So if the image was built from another source, the Job ends within a second, before
the step changes its run.
"""

import json
import os
import sys

import click

from purchase_predict.kubernetes.closure import EXPECTED, difference, refuse


def main(command: list[str]) -> None:
    """Replaces this process by the command. Exits with one line if the image was built from another source.

    Args:
        command: the words of the command.
    """
    expected = json.loads(os.environ.pop(EXPECTED, "{}"))
    entry_point = str(expected.pop("entry_point", ""))
    if expected:
        try:
            if differs := difference(entry_point, expected):
                raise refuse("the image", differs)
        except click.ClickException as error:
            sys.exit(f"Error: {error.format_message()}")
    os.execvp(command[0], command)  # no shell


if __name__ == "__main__":
    main(sys.argv[1:])
