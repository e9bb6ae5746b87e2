"""Where a model comes from, for the report: the steps of the pipeline and their runs."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """A step of the pipeline at the time the page is made: its name, what it did, its run id and the run's address."""

    name: str
    what: str
    run_id: str = ""
    link: str = ""
