"""How the server is: whether it can answer, and its metrics."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from purchase_predict.serving.follower import Follower
from purchase_predict.serving.meters import Meters
from purchase_predict.serving.state import Size, State, Unavailable


@dataclass
class Health:
    """What tells how the server is."""

    state: State
    follower: Follower
    shadow: Follower | None
    meters: Meters

    def ready(self) -> dict[str, Any]:
        """Whether model and state are there, with the version at work and what is wrong, if something is."""
        size, wrong = self._size()
        problems = [
            problem for problem in (wrong, self.follower.problem, self.shadow and self.shadow.problem) if problem
        ]
        scorer = self.follower.scorer
        return {
            "ready": size is not None and scorer is not None,
            "model": self.follower.name,
            "env": self.follower.env,
            "model_version": scorer.version if scorer else None,
            "problems": problems,
        }

    def metrics(self) -> str:
        """All metrics in Prometheus's text format."""
        return self.meters.text(self._gauges())

    def _gauges(self) -> Iterator[tuple[str, dict[str, str], float]]:
        now = time.time()
        for follower in filter(None, (self.follower, self.shadow)):
            env, scorer = {"env": follower.env}, follower.scorer
            yield "model_version", env, float(scorer.version) if scorer else 0.0
            if scorer:
                yield "model_age_seconds", env, now - follower.since
            yield "model_loads_total", env, follower.loads
            yield "model_load_failures_total", env, follower.failures
            yield "model_behind", env, float(bool(follower.problem))
            yield "registry_age_seconds", env, now - follower.registry_seen
        size, _ = self._size()
        yield "state_up", {}, float(size is not None)
        if size:
            yield "state_bytes", {}, size.bytes
        if size and size.visitors is not None:
            yield "state_visitors", {}, size.visitors

    def _size(self) -> tuple[Size | None, str]:
        try:
            return self.state.size(), ""
        except Unavailable as error:
            return None, str(error)
