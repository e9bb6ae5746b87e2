"""The server's health: readiness and metrics."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from purchase_predict.serving.follower import Follower
from purchase_predict.serving.service import Service
from purchase_predict.serving.state import Size, Unavailable


@dataclass
class Health:
    """Readiness and metrics of a service."""

    service: Service

    def ready(self) -> dict[str, Any]:
        """The content of /ready: whether model and state are available, which version answers, and all problems.

        If the state can be read but not written, for example on a full disk, `problems` says so. The server stays
        ready: only a further request can show that writing works again, and a server that is not ready gets none. The
        server also stays ready if Redis evicts keys, because most visitors are still known.
        """
        size, wrong = self._size()
        follower = self.service.follower
        found = [wrong or self.service.unwritten, size.problem if size else ""]
        found += [follower.problem for follower in self._followers()]
        scorer = follower.scorer
        return {
            "ready": size is not None and scorer is not None,
            "model": follower.name,
            "env": follower.env,
            "model_version": scorer.version if scorer else None,
            "problems": [problem for problem in found if problem],
        }

    def metrics(self) -> str:
        """All metrics in Prometheus's text format."""
        return self.service.meters.text(self._gauges())

    def _gauges(self) -> Iterator[tuple[str, dict[str, str], float]]:
        now = time.time()
        for follower in self._followers():
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
        yield "state_writable", {}, float(size is not None and not self.service.unwritten)
        if size:
            yield "state_bytes", {}, size.bytes
            yield "state_evicted_keys", {}, size.evicted
        if size and size.visitors is not None:
            yield "state_visitors", {}, size.visitors

    def _followers(self) -> list[Follower]:
        shadow = self.service.shadow
        return [self.service.follower, *([shadow.follower] if shadow else [])]

    def _size(self) -> tuple[Size | None, str]:
        try:
            return self.service.state.size(), ""
        except Unavailable as error:
            return None, str(error)
