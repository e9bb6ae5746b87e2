"""Runs a step: tags its run with the step key, calls the step's function, and marks the run complete at the end.

The step key is the SHA-256 of everything that can change the result: entry point, parameters, content of the inputs,
source files, Python's minor version, installed packages. A run can be reused if it has the same key, is FINISHED, has
the completion tag (written last), and still has all its artifacts.
"""

import functools
import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import mlflow
from mlflow.entities import Run
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NOTE

from purchase_predict.checksums import checksum
from purchase_predict.errors import print_block, print_line
from purchase_predict.progress import phase
from purchase_predict.secrets import shown_uri
from purchase_predict.workflow import artifacts, descriptions, lease, names, summary
from purchase_predict.workflow.command import command
from purchase_predict.workflow.completed import (
    COMPLETE,
    DIGEST,
    INPUTS,
    KEY,
    KEY_PARTS,
    OUTPUT,
    fetch,
)
from purchase_predict.workflow.plan import Fingerprint, Plan
from purchase_predict.workflow.scratch import scratch_folder
from purchase_predict.workflow.storing import ArtifactStore


@dataclass(frozen=True)
class StepRun:
    """The run of a step, for the step's function.

    Attributes:
        run: MLflow's run.
        scratch: a folder for temporary files, removed at the end of the step.
        search_key: the search key of the step.
        input_digests: the content digest of each input, by the input's name, as in the step key.
        checksums: the checksum of each artifact file that `log` or `stored` noted, by its path among the artifacts.
    """

    run: Run
    scratch: Path
    search_key: str
    input_digests: Mapping[str, str]
    checksums: dict[str, str] = field(default_factory=dict)

    @property
    def run_id(self) -> str:
        """MLflow's id of the run."""
        return str(self.run.info.run_id)

    @property
    def experiment_id(self) -> str:
        """MLflow's id of the run's experiment."""
        return str(self.run.info.experiment_id)

    def fetch(self, uri: str) -> Path:
        """Downloads the artifact at `runs:/<run id>/<path>` into the scratch folder, and checks it.

        Raises:
            click.ClickException: the artifact cannot be downloaded, or differs from what its step wrote.
        """
        return fetch(uri, self.folder())

    def fetch_own(self, path: str) -> Path:
        """Downloads an artifact of this run, although the run is not complete yet."""
        return artifacts.fetch_unchecked(self.run, path, self.folder())

    def log(self, folder: Path, path: str = "") -> None:
        """Logs each file of a folder as an artifact of this run, with its checksum.

        Args:
            folder: what to log.
            path: the artifact folder to log into; empty: the root.
        """
        prefix = f"{path}/" if path else ""
        with phase("storing the artifacts"):
            for file in folder.rglob("*"):
                if file.is_file():
                    self.checksums[prefix + file.relative_to(folder).as_posix()] = checksum(file)
            mlflow.log_artifacts(str(folder), path or None)

    def store(self) -> ArtifactStore:
        """The artifact store of this run, to which other machines can write. Call `stored` when they have finished."""
        return ArtifactStore.of(str(mlflow.get_artifact_uri()), mlflow.get_tracking_uri())

    def stored(self, path: str, files: Mapping[str, tuple[int, str]]) -> None:
        """Checks that this run's artifacts contain the files that other machines stored, and notes the checksums.

        Args:
            path: the artifact folder into which the files were stored.
            files: size in bytes and checksum of each file, by its path among the artifacts.

        Raises:
            click.ClickException: a file is missing or has another size, or the folder has a further file.
        """
        sizes = {name: size for name, (size, _) in files.items()}
        self.store().check(sizes, artifacts.listed(self.run_id, [path]))
        self.checksums.update({name: checksum for name, (_, checksum) in files.items()})

    def folder(self) -> Path:
        """A new empty folder, removed at the end of the step."""
        return Path(tempfile.mkdtemp(dir=self.scratch))


@dataclass(frozen=True)
class Output:
    """What a step made.

    Attributes:
        path: the path of the artifact that the next step takes.
        digest: the digest of the output's content.
        summary: what was done, in a sentence. It is printed at the end, and is the first line of the run's description.
    """

    path: str
    digest: str
    summary: str


def step(entry_point: str, fingerprint: Fingerprint | None = None) -> Callable[[Callable[..., Output]], click.Command]:
    """Makes the click command of a step from `function(run: StepRun, **parameters) -> Output`.

    Empty inputs are filled in (`plan.with_inputs`). The run gets its step key as a tag before the function is called.
    The last tag marks the run as complete.

    Args:
        entry_point: the step.
        fingerprint: the function that computes a source's content digest; needed by a step that reads a source.
    """

    def decorate(function: Callable[..., Output]) -> click.Command:
        @command(entry_point)
        @functools.wraps(function)
        def run_step(run: Run, **values: Any) -> None:
            plan = Plan.make(entry_point, values, run.info.experiment_id, fingerprint)
            source = shown_uri(names.source_of(plan.values, plan.inputs))
            # Main claims the keys of its steps. A step that runs alone claims its own key, but waits for no run.
            claim = {} if MLFLOW_PARENT_RUN_ID in run.data.tags else {lease.CLAIM: plan.key}
            mlflow.set_tags(
                {
                    "mlflow.project.entryPoint": entry_point,
                    KEY: plan.key,
                    KEY_PARTS: json.dumps(plan.parts, sort_keys=True),
                    INPUTS: json.dumps(plan.inputs),
                    names.SOURCE: source,
                }
                | claim
            )
            names.give(run, entry_point, names.name_of(entry_point, plan.values, source))
            with scratch_folder() as scratch:
                running = StepRun(run, scratch, plan.search_key, plan.input_digests)
                output = function(running, **plan.values)
            sizes = artifacts.listed(run.info.run_id)
            if not any(path.partition("/")[0] == output.path for path in sizes):
                sizes |= artifacts.listed(run.info.run_id, [output.path])
            written = mlflow.MlflowClient().get_run(run.info.run_id)  # read again, to include the logged models
            record = artifacts.as_tags(written, sizes, running.checksums)
            text = descriptions.of_step(written, output.summary, source, plan.inputs, output.path, sizes)
            descriptions.describe_models(written, text)
            mlflow.set_tags({DIGEST: output.digest, OUTPUT: output.path, MLFLOW_RUN_NOTE: text} | record)
            mlflow.set_tag(COMPLETE, "true")  # last, because without this tag the run is not reused
            print_line(f"{entry_point}: {output.summary}")
            if MLFLOW_PARENT_RUN_ID not in run.data.tags:
                print_block(summary.of_step_alone(written, output.path))

        return run_step

    return decorate
