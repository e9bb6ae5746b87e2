"""Limits the number of connections, and the time that a new connection may wait before it sends a request.

uvicorn's own timeout applies only to connections that have already sent a request.
"""

import asyncio
import resource
from asyncio import TimerHandle

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from purchase_predict.serving.meters import Meters

#: Maximum number of open connections. A further connection is closed at once, and counted in the metrics.
MAX_CONNECTIONS = 5000
#: Seconds that a new connection has for the headers of its first request.
SILENT_SECONDS = 10.0
#: Maximum number of files that the server has open in addition to its connections.
_OTHER_FILES = 256


def protocol(meters: Meters) -> type[HttpToolsProtocol]:
    """Returns uvicorn's HTTP protocol with the limits of this module; `meters` counts the refused connections."""

    class Connection(HttpToolsProtocol):
        """A client's connection."""

        _first_request: TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            """Begins a connection, or closes it if there are too many."""
            super().connection_made(transport)
            if len(self.connections) > MAX_CONNECTIONS:
                meters.add("connections_refused_total")
                transport.close()
                return
            self._first_request = self.loop.call_later(SILENT_SECONDS, self._close_if_silent)

        def connection_lost(self, exc: Exception | None) -> None:
            """Ends a connection."""
            if self._first_request:
                self._first_request.cancel()
            super().connection_lost(exc)

        def _close_if_silent(self) -> None:
            if self.cycle is None:  # there has been no request
                self.timeout_keep_alive_handler()

    return Connection


def allow_open_files() -> None:
    """Increases this process's soft limit of open files to what the connections need, but not above the hard limit."""
    wanted = MAX_CONNECTIONS + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
