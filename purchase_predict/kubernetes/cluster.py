"""The cluster's API: the few calls that a Job needs, each retried while the API is away (no answer, or overloaded).

The official client authenticates (kubeconfig, exec plugins, client certificates, a pod's token and its renewal). The
calls themselves are plain HTTP, because the client's classes do not accept the same values in every version
(docs/upstream.md). The API's JSON does not change within v1.
"""

import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import click
import requests

from purchase_predict.errors import first_line, printable
from purchase_predict.kubernetes.explain import QUOTA_WAY_OUT

#: The first and the longest pause between two attempts while the API is away, in seconds. Each pause is twice the
#: pause before it, up to the longest.
_PAUSE, _LONGEST_PAUSE = 1.0, 30.0
#: Seconds for which a call is retried while the API is away; then the call fails.
_PATIENCE = 600.0
#: Timeouts in seconds: to connect, and between two pieces of an answer.
_TIMEOUT = (10.0, 120.0)
#: Errors that mean that a connection or an answer broke off.
_BROKEN = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)
#: HTTP statuses of an API that is overloaded or restarting, or of the proxy in front of it.
_RETRIED_STATUSES = {429, 500, 502, 503, 504}


class Away(click.ClickException):
    """The API was away for the whole time in which a call is retried."""


class Refused(click.ClickException):
    """The API refused a call.

    Attributes:
        status: the HTTP status.
        reason: the API's own message.
    """

    def __init__(self, message: str, status: int, reason: str) -> None:
        super().__init__(message)
        self.status, self.reason = status, reason


class Cluster:
    """A cluster, used with the rights of the kubeconfig's user or of the pod's service account.

    A call that fails raises click.ClickException, such as `Refused` or `Away`.
    """

    def __init__(self, configuration: Any, patience: float = _PATIENCE) -> None:
        """Uses the official client's `configuration`. Retries a call for `patience` seconds while the API is away."""
        self._configuration, self._patience = configuration, patience
        self._session = requests.Session()
        self._session.auth = self._sign
        self._session.verify = configuration.ssl_ca_cert or configuration.verify_ssl
        if configuration.cert_file:
            self._session.cert = (configuration.cert_file, configuration.key_file)
        if configuration.proxy:
            self._session.proxies = {"http": configuration.proxy, "https": configuration.proxy}

    @classmethod
    def connect(cls, context: str = "", patience: float = _PATIENCE) -> "Cluster":
        """The cluster of the kubeconfig; in a pod without a kubeconfig, the pod's own cluster.

        Args:
            context: a context of the kubeconfig; empty: its current context.
            patience: seconds to retry a call while the API is away.

        Raises:
            click.ClickException: the client is not installed, or no cluster is configured.
        """
        try:
            from kubernetes import client, config
        except ImportError as error:
            raise click.ClickException(
                "backend=kubernetes needs the package kubernetes, 31.0.0 or newer: pip install kubernetes==36.0.3"
            ) from error
        configuration = client.Configuration()
        try:
            # KUBECONFIG is read here, because the client reads it only once, when the client is imported.
            file = os.environ.get("KUBECONFIG") or None
            config.load_kube_config(file, context=context or None, client_configuration=configuration)
        except (config.ConfigException, OSError) as error:
            try:
                if context:
                    raise config.ConfigException from error
                config.load_incluster_config(client_configuration=configuration)
            except config.ConfigException:
                raise click.ClickException(
                    f"no cluster is configured: {first_line(error)}; set KUBECONFIG, or context in backend_config"
                ) from error
        return cls(configuration, patience)

    @property
    def address(self) -> str:
        """The API's address."""
        return str(self._configuration.host)

    def hurry(self, seconds: float) -> None:
        """From now on, calls are retried for at most this many seconds while the API is away."""
        self._patience = min(self._patience, seconds)

    def create(self, job: dict[str, Any]) -> None:
        """Creates a Job. A Job of this name that already exists is no error.

        Each run has its own Job name, so an existing Job comes from an earlier call whose answer was lost.
        """
        namespace, name = job["metadata"]["namespace"], job["metadata"]["name"]
        for last in (False, False, True):
            try:
                self._call("POST", _jobs(namespace), {"fieldValidation": "Strict"}, job)
                return
            except Refused as error:
                # Status 409: the Job exists already, or a quota was changed at the same time. In the second case, the
                # next attempt may succeed.
                if error.status != 409 or (last and not self.job(namespace, name)):
                    raise
            if self.job(namespace, name):
                return
            time.sleep(_PAUSE)

    def job(self, namespace: str, name: str) -> dict[str, Any] | None:
        """The Job of this name, or None."""
        return self._found(f"{_jobs(namespace)}/{name}")

    def delete(self, namespace: str, name: str) -> None:
        """Asks the API to delete a Job, which remains until its pods have ended. A missing Job is no error."""
        try:
            self._call("DELETE", f"{_jobs(namespace)}/{name}", {"propagationPolicy": "Foreground"})
        except Refused as error:
            if error.status != 404:
                raise

    def pods(self, namespace: str, job: str) -> list[dict[str, Any]]:
        """The pods of a Job, the newest last."""
        found = self._call("GET", f"/api/v1/namespaces/{namespace}/pods", {"labelSelector": f"job-name={job}"})
        return sorted(found.json()["items"], key=lambda pod: str(pod["metadata"].get("creationTimestamp", "")))

    def events(self, namespace: str, name: str) -> list[dict[str, Any]]:
        """The cluster's events about a Job or pod; empty if the API refuses the call, e.g. for lack of rights."""
        try:
            selector = {"fieldSelector": f"involvedObject.name={name}"}
            return list(self._call("GET", f"/api/v1/namespaces/{namespace}/events", selector).json()["items"])
        except Refused:
            return []

    def wait_for_change(self, namespace: str, name: str, version: str, seconds: int) -> None:
        """Waits until a Job has a later resource version than `version`, for at most `seconds`.

        The method returns earlier if the connection breaks or the API no longer knows `version`. So the caller has to
        look at the Job again in any case.
        """
        parameters = {
            "watch": "true",
            "fieldSelector": f"metadata.name={name}",
            "resourceVersion": version,
            "timeoutSeconds": str(seconds),
        }
        try:
            with self._call("GET", _jobs(namespace), parameters, stream=True) as answer:
                for line in answer.iter_lines():
                    if line and json.loads(line)["type"] != "BOOKMARK":
                        return
        except (requests.RequestException, ValueError, Refused):
            logging.getLogger(__name__).debug("the watch ended early", exc_info=True)
            time.sleep(_PAUSE)

    def log(self, namespace: str, pod: str, container: str, since: str) -> Iterator[tuple[str, str]]:
        """Time and text of each line that a container writes, until the container ends or the connection breaks.

        Args:
            since: the time of the last line already read, as this method returned it; empty: read from the first line.

        Raises:
            click.ClickException: the API refuses the call, or does not answer.
            requests.RequestException: the connection broke.
        """
        parameters = {"container": container, "follow": "true", "timestamps": "true"}
        if since:
            parameters["sinceTime"] = since
        path = f"/api/v1/namespaces/{namespace}/pods/{pod}/log"
        with self._call("GET", path, parameters, stream=True) as answer:
            # Only a line feed ends a line. A carriage return, as in a progress bar, does not: the API writes no time
            # after it.
            for line in answer.iter_lines(delimiter=b"\n"):
                time_, _, text = line.decode("utf-8", "replace").partition(" ")
                if line and time_ > since:
                    yield time_, text

    # ---- one call ------------------------------------------------------------------------------------------------

    def _found(self, path: str) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = self._call("GET", path).json()
        except Refused as error:
            if error.status == 404:
                return None
            raise
        return found

    def _call(
        self, method: str, path: str, parameters: dict[str, str] | None = None, body: Any = None, stream: bool = False
    ) -> requests.Response:
        def once() -> requests.Response:
            address = self.address.rstrip("/") + path
            answer = self._session.request(
                method, address, params=parameters, json=body, stream=stream, timeout=_TIMEOUT
            )
            if answer.status_code in _RETRIED_STATUSES:
                raise requests.ConnectionError(f"{answer.status_code} {answer.reason}")
            return answer

        answer = self._again(once)
        if answer.status_code >= 400:
            raise self._refusal(answer, f"{method} {path}")
        return answer

    def _again(self, once: Callable[[], requests.Response]) -> requests.Response:
        deadline, pause = time.monotonic() + self._patience, _PAUSE
        while True:
            try:
                return once()
            except requests.exceptions.SSLError as error:
                raise click.ClickException(f"cluster {self.address}: {printable(first_line(error))}") from error
            except _BROKEN as error:
                if time.monotonic() + pause > deadline:
                    raise Away(
                        f"cluster {self.address}: no answer for {self._patience:.0f} s ({printable(first_line(error))})"
                    ) from error
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _refusal(self, answer: requests.Response, call: str) -> Refused:
        try:
            reason = str(answer.json()["message"])
        except (ValueError, KeyError, TypeError):
            reason = f"{answer.status_code} {answer.reason}"
        way_out = {
            401: "sign in to the cluster again",
            403: "docs/deployment.md lists the rights that the launcher needs",
        }.get(answer.status_code, "")
        if "exceeded quota" in reason:
            way_out = QUOTA_WAY_OUT
        text = f"cluster {self.address} refuses {call}: {reason}" + (f": {way_out}" if way_out else "")
        return Refused(printable(text), answer.status_code, reason)

    def _sign(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        # The token is read at each call, because the client renews it before it expires. Since the session has an
        # `auth`, requests does not use ~/.netrc.
        token = self._configuration.auth_settings().get("BearerToken", {}).get("value")
        if token:
            request.headers["Authorization"] = token
        return request


def _jobs(namespace: str) -> str:
    return f"/apis/batch/v1/namespaces/{namespace}/jobs"
