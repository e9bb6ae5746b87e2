"""Sends requests at a fixed rate, whether or not earlier ones have been answered, and measures their latencies."""

import asyncio
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

#: Seconds to wait for missing answers after the last request. A request without an answer by then has failed.
LAST_SECONDS = 30.0


@dataclass(frozen=True)
class Waits:
    """The latencies and failures of some requests.

    Attributes:
        seconds: the latency of each answered request (any status), from the time at which it was due; sorted.
        failed: the number of requests without an answer, or with a status other than 200.
    """

    seconds: list[float]
    failed: int

    def quantile(self, share: float) -> float:
        """The quantile of the latencies at `share` (0 to 1), in milliseconds; 0 if no request was answered."""
        return 1000 * self.seconds[min(len(self.seconds) - 1, int(share * len(self.seconds)))] if self.seconds else 0.0


def arrive(address: str, path: str, bodies: Iterator[bytes], rate: float, seconds: float) -> Waits:
    """Posts JSON bodies at a fixed rate, over connections that are kept open.

    A latency starts when its request is due, so it includes the time that the request waits for a busy server.

    Args:
        address: `http://<host>:<port>`.
        path: the path to post to.
        bodies: the JSON bodies, one for each request.
        rate: requests a second.
        seconds: for how long to send requests.
    """
    return asyncio.run(_arrive(address, path, bodies, rate, seconds))


async def _arrive(address: str, path: str, bodies: Iterator[bytes], rate: float, seconds: float) -> Waits:
    host, port = urlsplit(address).hostname or "", urlsplit(address).port or 80
    idle: deque[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = deque()
    waits: list[float] = []
    failed = 0

    async def ask(body: bytes, due: float) -> None:
        nonlocal failed
        try:
            reader, writer = idle.pop() if idle else await asyncio.open_connection(host, port)
            head = f"POST {path} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
            writer.write(head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            answer = await reader.readuntil(b"\r\n\r\n")
            length = next(line for line in answer.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            await reader.readexactly(int(length[15:]))
            failed += b" 200 " not in answer[:16]
            idle.append((reader, writer))
            waits.append(time.perf_counter() - due)
        except Exception:  # a broken connection, or an answer that is not HTTP
            failed += 1

    tasks = set()
    begun = time.perf_counter()
    for number in range(int(rate * seconds)):
        due = begun + number / rate
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        task = asyncio.create_task(ask(next(bodies), due))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        if time.perf_counter() > begun + 3 * seconds:
            break  # far behind schedule: the latencies so far already show it
    _, unanswered = await asyncio.wait(tasks or {asyncio.create_task(asyncio.sleep(0))}, timeout=LAST_SECONDS)
    for task in unanswered:
        task.cancel()
    for _, writer in idle:
        writer.close()
    return Waits(sorted(waits), failed + len(unanswered))
