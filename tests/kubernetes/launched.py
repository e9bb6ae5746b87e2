"""A workflow whose steps run as Jobs on the stand-in for a cluster."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.kubernetes.standin import Cluster
from tests.workflow.runner import Outcome, Workflow

#: Parameters of a short workflow: 20,000 sample events, 1 trial, no backtest.
SMALL = ("-P", "source=sample:20000", "-P", "max_evals=1", "-P", "backtest=false")


@dataclass(frozen=True)
class Launched:
    """A workflow, the cluster on which its steps run, and the file with its `backend_config`."""

    workflow: Workflow
    cluster: Cluster
    file: Path

    def arguments(self, *more: str, backend: str = "kubernetes") -> tuple[str, ...]:
        """The arguments of a run on the cluster."""
        return (*SMALL, "-P", f"backend={backend}", "-P", f"backend_config={self.file}", *more)

    def run(self, *more: str, backend: str = "kubernetes", **environ: str) -> Outcome:
        """Runs main in this process, with the steps on the cluster."""
        return self.workflow.main_here(*self.arguments(*more, backend=backend), **environ)

    def configure(self, **values: Any) -> None:
        """Changes settings in the file."""
        self.file.write_text(yaml.safe_dump(yaml.safe_load(self.file.read_text()) | values))
