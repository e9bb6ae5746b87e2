"""The four steps of the workflow called one after the other in one process: the same functions, no chain.

MLFLOW_TRACKING_URI=sqlite:////tmp/one.db python -m benchmarks.one_process /data/primary.csv
"""

import sys

from steps.deploy import deploy
from steps.load import load
from steps.process import process
from steps.train import train


def main(source: str) -> None:
    # An input that is not given is the newest: what the step before has made.
    for step, arguments in ((load, ["--source", source]), (process, []), (train, ["--max_evals", "1"]), (deploy, [])):
        try:
            step.main(arguments)
        except SystemExit as ended:
            if ended.code:
                raise


if __name__ == "__main__":
    main(sys.argv[1])
