"""Ctrl-C while a process imports its modules.

Python drops an exception that a signal handler raises in a callback of the import machinery. The process would continue
as if nobody had pressed Ctrl-C. So the event `noted` records the signal, and `workflow.stopping` ends the process
before it opens its run.
"""

import signal
import threading
from typing import Any, NoReturn

#: Set if Ctrl-C was pressed before `workflow.stopping` took the signal over.
noted = threading.Event()


def note() -> None:
    """Makes Ctrl-C set `noted` and raise KeyboardInterrupt. If SIGINT was ignored at the start, it stays ignored."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupted)


def _interrupted(*_: Any) -> NoReturn:
    noted.set()
    raise KeyboardInterrupt
