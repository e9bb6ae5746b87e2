"""Runs of the workflow's steps: opened, keyed, completed, found again, and reused where nothing changed.

The key of a step is the SHA-256 of what can change its result: entry point, parameters, content of its inputs, source
files, installed packages. A run is a hit when it has the key, finished, carries the completion tag, which is written
last, and still has the artifacts that it wrote.
"""

import functools
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import mlflow
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from purchase_predict.errors import first_line
from purchase_predict.workflow import lease
from purchase_predict.workflow.command import command
from purchase_predict.workflow.completed import (
    COMPLETE,
    DIGEST,
    INPUTS,
    KEY,
    KEY_PARTS,
    OUTPUT,
    artifact_tags,
    artifacts_of,
)
from purchase_predict.workflow.key import key_of, key_parts, search_key_of
from purchase_predict.workflow.plan import MADE_BY, input_digests, with_inputs
from purchase_predict.workflow.stopping import scratch_folder


@dataclass(frozen=True)
class StepRun:
    """The run of a step while the step works: inputs come from it, outputs go to it."""

    run_id: str
    scratch: Path
    search_key: str

    def fetch(self, uri: str) -> Path:
        """Downloads what stands at `runs:/<run id>/<path>` into the scratch folder."""
        folder = Path(tempfile.mkdtemp(dir=self.scratch))
        try:
            return Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(folder)))
        except (MlflowException, OSError) as error:
            raise click.ClickException(f"{uri}: cannot be fetched: {first_line(error)}") from error

    def folder(self) -> Path:
        """A new empty folder that does not outlive the step."""
        return Path(tempfile.mkdtemp(dir=self.scratch))


@dataclass(frozen=True)
class Output:
    """What a step made: the artifact path that the next step takes, and the digest of its content."""

    path: str
    digest: str


def step(entry_point: str) -> Callable[[Callable[..., Output]], click.Command]:
    """Makes the click command of a step of `function(run: StepRun, **parameters) -> Output`.

    An empty input stands for the newest completed run of the step that makes it. The run is tagged with its key
    first, and with its completion last.
    """

    def decorate(function: Callable[..., Output]) -> click.Command:
        @command(entry_point)
        @functools.wraps(function)
        def run_step(run: Run, **values: Any) -> None:
            values = with_inputs(values, run.info.experiment_id)
            parts = key_parts(entry_point, values, input_digests(values))
            client = mlflow.MlflowClient()
            uris = {name: value for name, value in values.items() if name in MADE_BY}
            key = key_of(parts)
            # A step of main's is claimed by main; one that runs alone does not wait, but others wait for it.
            alone = {} if MLFLOW_PARENT_RUN_ID in run.data.tags else {lease.CLAIM: key}
            mlflow.set_tags(
                {
                    "mlflow.project.entryPoint": entry_point,
                    KEY: key,
                    KEY_PARTS: json.dumps(parts, sort_keys=True),
                    INPUTS: json.dumps(uris),
                }
                | alone
            )
            with scratch_folder() as scratch:
                output = function(StepRun(run.info.run_id, scratch, search_key_of(parts)), **values)
            artifacts = artifacts_of(run.info.run_id)
            if not any(path.partition("/")[0] == output.path for path in artifacts):
                artifacts |= artifacts_of(run.info.run_id, [output.path])
            mlflow.set_tags({DIGEST: output.digest, OUTPUT: output.path} | artifact_tags(artifacts))
            client.set_tag(run.info.run_id, COMPLETE, "true")

        return run_step

    return decorate
