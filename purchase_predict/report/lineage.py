"""Where a model comes from, for the report: the source, the commit, and the runs of the pipeline's steps."""

import re
from dataclasses import dataclass, field
from datetime import datetime

#: Matches `sample` and `sample:<events>`, the source names of the built-in sample (see `sources.sources.SAMPLE`).
_SYNTHETIC = re.compile(r"sample(:\d+)?")


@dataclass(frozen=True)
class Step:
    """A step of the pipeline at the time the page is made.

    Attributes:
        name: the step's name.
        what: the state of the step in words, such as `ran` or `reused`.
        run_id: the id of its run; empty: it has no run.
        link: the address of the run's page in MLflow; empty: none.
        needs_ui: whether that address works only while `mlflow ui` runs.
    """

    name: str
    what: str
    run_id: str = ""
    link: str = ""
    needs_ui: bool = False


@dataclass(frozen=True)
class Origin:
    """Where a model comes from, as far as it is known when the page is made.

    Attributes:
        steps: the steps of the pipeline, in their order.
        made: when the train run was started (UTC); None: not known.
        source: what load read, as the user named it, without passwords; empty: not known.
        commit: the git commit of the code; empty: not known.
        uncommitted: whether the code had uncommitted changes.
        rows_read: rows of the source that load read; None: not known, because the run of load was deleted.
        rows_refused: rows of the source that load refused.
        reasons: the number of refused rows by reason, the most frequent first.
    """

    steps: list[Step] = field(default_factory=list)
    made: datetime | None = None
    source: str = ""
    commit: str = ""
    uncommitted: bool = False
    rows_read: int | None = None
    rows_refused: int = 0
    reasons: dict[str, int] = field(default_factory=dict)

    @property
    def synthetic(self) -> bool:
        """Whether the data is the built-in sample: visitors that a program made up."""
        return bool(_SYNTHETIC.fullmatch(self.source))

    def step(self, name: str) -> Step:
        """The step with this name. If `steps` does not have it: a new step of this name without a run."""
        return next((step for step in self.steps if step.name == name), Step(name, ""))
