"""The first process in a Job's container: compares the image with what the workflow expects, then becomes the step.

    python -m purchase_predict.kubernetes.start python -m steps.train --dataset=runs:/...

It imports no MLflow: an image of another source ends in a second, before the step has touched its run.
"""

import json
import os
import sys

import click

from purchase_predict.kubernetes.closure import EXPECTED, difference, refuse


def main(command: list[str]) -> None:
    """Becomes the command, or ends with one line.

    Args:
        command: its words.
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
