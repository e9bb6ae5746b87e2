"""Notifications: one line to the user's webhook (Slack and others) about a failure or a change of an environment.

The webhook's address is a secret: whoever knows it can post there. It is read from the variable NOTIFY_URL or from
.env. It is not a parameter, because parameters are recorded with the run. No message, error or log of this module
contains it.
"""

import http.client
import json
import os
import threading
import urllib.error
import urllib.request

import click
from mlflow.entities import Run

from purchase_predict.errors import print_line, printable
from purchase_predict.settings import Settings
from purchase_predict.workflow import addresses

#: Maximum number of seconds that a run waits for an answer.
_TIMEOUT = 3.0
#: Maximum number of characters of a posted text, without the link.
_LENGTH = 2000


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Refuses redirects: they would send the text, and with some servers the secret address, to another server."""

    def redirect_request(self, *_: object) -> None:
        """Returns None, so that urllib raises the redirect as an HTTPError."""


class Posted(click.ClickException):
    """An error that is not posted to the webhook, because its run has already posted the outcome."""


def notify(text: str, run: Run | None = None) -> None:
    """Posts `{"text": ...}`, which Slack and others understand, with a link to the run.

    Does nothing if NOTIFY_URL is not set. A tracking store without a server has no pages, so the post then names the
    run's id instead. If the notification cannot be sent, one line on stderr says so, and the run continues.

    Args:
        text: what happened, in a sentence.
        run: the run in which it happened; None: no run could be opened, or the run that `mlflow run` opened did not
            become active.
    """
    try:
        address = Settings.read().notify_url
    except click.ClickException:  # the settings are wrong; `text` may report this, so post it
        address = os.environ.get("NOTIFY_URL")
    if not address:
        return
    run_id = run.info.run_id if run else os.environ.get("MLFLOW_RUN_ID")
    page = run and addresses.server() and addresses.link(run.info.experiment_id, run.info.run_id)
    where = f" {page}" if page else f" (run {run_id})" if run_id else ""
    body = json.dumps({"text": printable(text)[:_LENGTH] + where})
    answers: list[str] = []
    # In a thread: a connection's timeout limits neither a DNS lookup nor an answer that arrives in small pieces.
    sending = threading.Thread(target=lambda: answers.append(_post(address, body.encode())), daemon=True)
    sending.start()
    sending.join(_TIMEOUT)
    problem = answers[0] if answers else _no_answer()
    if problem:
        print_line(f"notification not sent: {problem}; check the variable NOTIFY_URL", err=True)


def _post(address: str, body: bytes) -> str:
    """Posts JSON. Returns a description of the problem, without the address; empty if the post was sent."""
    if not address.lower().startswith(("http://", "https://")):
        return "the address must begin with https:// or http://"
    try:
        request = urllib.request.Request(address, body, {"Content-Type": "application/json"}, method="POST")
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=_TIMEOUT):
            return ""
    except urllib.error.HTTPError as error:
        return f"the address answered {error.code}"
    except (OSError, ValueError, http.client.HTTPException) as error:  # some of these errors quote the address
        reason = getattr(error, "reason", None) or error
        if isinstance(reason, TimeoutError):
            return _no_answer()
        return f"the address cannot be reached ({type(reason).__name__})"


def _no_answer() -> str:
    return f"no answer within {_TIMEOUT:.0f} s"
