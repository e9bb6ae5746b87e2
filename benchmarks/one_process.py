"""Runs the four steps of the workflow one after the other in one process, instead of a chain of processes.

MLFLOW_TRACKING_URI=sqlite:////tmp/one.db python -m benchmarks.one_process /data/primary.csv
"""

import sys

from steps.deploy import deploy
from steps.load import load
from steps.process import process
from steps.train import train


def main(source: str) -> None:
    # A step whose input is not given takes the newest one: the output of the step before.
    for step, arguments in ((load, ["--source", source]), (process, []), (train, ["--max_evals", "1"]), (deploy, [])):
        try:
            step.main(arguments)
        except SystemExit as ended:
            if ended.code:
                raise


if __name__ == "__main__":
    main(sys.argv[1])
