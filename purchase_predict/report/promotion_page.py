"""The record of the gate's decision, as JSON and as a page, with the metrics of challenger and champion."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from purchase_predict.metrics import Score
from purchase_predict.report import layout
from purchase_predict.report.lineage import Step


def write(facts: Mapping[str, Any], scores: Mapping[str, Score], train: Step, folder: Path) -> Path:
    """Writes `promotion.json` and `promotion.html`; returns the folder.

    Args:
        facts: the content of promotion.json. If a person approved the version, it has the entry `approval` with `by`
            and `reason`.
        scores: the challenger's metrics on the test rows.
        train: the step that made the challenger.
        folder: an empty folder; it is made if it does not exist.
    """
    folder.mkdir(exist_ok=True)
    (folder / "promotion.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    (folder / "promotion.html").write_text(render(facts, scores, train), encoding="utf-8")
    return folder


def render(facts: Mapping[str, Any], scores: Mapping[str, Score], train: Step) -> str:
    """The page as an HTML document; the arguments are those of `write`."""
    contest = facts["champion"]
    compared = contest["metrics"] if contest else {}
    ends = [abs(each["difference"][end]) for each in compared.values() for end in ("low", "high")]
    widest = max([*ends, 1e-9])
    return layout.render(
        "promotion_page.html.jinja",
        facts=facts,
        contest=contest,
        approval=facts.get("approval"),
        scores=scores,
        at=lambda difference: 50 + 50 * difference / widest,
        train=train,
        made=datetime.now(UTC),
    )
