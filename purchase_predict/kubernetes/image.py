"""Checks before a Job is submitted whether its image was built from the source of the checkout.

`make image` gives an image a label with digests of its source files. This module reads the label from the image's
registry. The container later checks the files themselves (`start`). So if the label cannot be read from here, a wrong
image is still refused, but only after a pod has started.
"""

import base64
import json
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import requests

from purchase_predict.errors import first_line, printable
from purchase_predict.kubernetes import closure

#: The image's label: the result of `closure.of_image` as JSON in base 64, which shells and builders leave unchanged.
LABEL = "purchase-predict.source"
_TYPES = (
    "application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json",
)  # fmt: skip
#: Docker's configuration with the user's logins.
_DOCKER = Path.home() / ".docker/config.json"
#: Docker Hub: the host of its registry, the names that stand for it in an image's name, and its key in `_DOCKER`.
_HUB, _HUB_NAMES, _HUB_LOGIN = "registry-1.docker.io", ("docker.io", "index.docker.io"), "https://index.docker.io/v1/"
_TIMEOUT = 10.0
#: Errors raised for a text that is not JSON, is nested too deeply, or holds other values than expected.
_UNREADABLE = (ValueError, RecursionError, LookupError, TypeError, AttributeError)


class _Refused(Exception):
    """The registry answered with an error; the text is its HTTP status."""


@cache
def _label(image: str) -> tuple[dict[str, Any], str]:
    """Two values, one of them empty: the content of an image's label; why it cannot be read from here."""
    host, name, digest = _parts(image)
    try:
        registry = _Registry(host, name)
        found = registry.get(f"manifests/{digest}")
        if "manifests" in found:  # an image index: one manifest per system, and attestations
            systems = [one for one in found["manifests"] if one.get("platform", {}).get("os") == "linux"]
            found = registry.get(f"manifests/{systems[0]['digest']}")
        labels = registry.get(f"blobs/{found['config']['digest']}").get("config", {}).get("Labels") or {}
        if not labels.get(LABEL):
            return {}, f"the image has no label {LABEL}, which `make image` writes"
        content = json.loads(base64.b64decode(labels[LABEL]))
        return {"source": dict(content["source"]), "lock": str(content["lock"])}, ""
    except _Refused as error:
        return {}, f"{host} answers {error}"
    except (requests.ConnectionError, requests.Timeout):
        return {}, f"{host} does not answer"
    except (requests.RequestException, *_UNREADABLE) as error:
        return {}, printable(f"{host} returned an unreadable answer: {type(error).__name__} {first_line(error)}")


def refuse_other_source(image: str, entry_point: str, project: Path) -> str:
    """Raises if an image's label shows that the image was built from another source.

    Args:
        image: `<registry>/<name>@sha256:<digest>`.
        entry_point: the step.
        project: the checkout that the image must be built from.

    Returns:
        Why the label cannot be read from here (no answer from the registry, no access, no such label); empty if it
        can be read.

    Raises:
        click.ClickException: the image was built from another source; the message names the files that differ.
    """
    label, unread = _label(image)
    if label and (differs := closure.label_difference(entry_point, label, project)):
        raise closure.refuse(f"the image {image}", differs)
    return unread


def _parts(image: str) -> tuple[str, str, str]:
    """Registry, name and digest of an image, by Docker's rules. A tag is left out."""
    name, _, digest = image.partition("@")
    first, _, rest = name.partition("/")
    host = _HUB
    if rest and re.search(r"[.:]|^localhost$", first):
        host, name = _HUB if first in _HUB_NAMES else first, rest
    if host == _HUB and "/" not in name:
        name = f"library/{name}"
    return host, re.sub(r":[^/:]+$", "", name), digest


class _Registry:
    """The API of a registry (OCI distribution specification), for one image name."""

    def __init__(self, host: str, name: str) -> None:
        local = re.fullmatch(r"(localhost|127\.0\.0\.1)(:\d+)?", host)
        self._base, self._name, self._host = f"{'http' if local else 'https'}://{host}/v2/{name}", name, host
        self._session = requests.Session()
        self._session.headers["Accept"] = ", ".join(_TYPES)
        self._session.auth = _without_netrc

    def get(self, path: str) -> dict[str, Any]:
        answer = self._session.get(f"{self._base}/{path}", timeout=_TIMEOUT)
        if answer.status_code == 401:
            self._sign_in(answer.headers.get("WWW-Authenticate", ""))
            answer = self._session.get(f"{self._base}/{path}", timeout=_TIMEOUT)
        _refuse(answer)
        return dict(answer.json())

    def _sign_in(self, challenge: str) -> None:
        login = _docker_login(self._host)
        kind, _, rest = challenge.partition(" ")
        if kind.lower() == "basic" and login:
            self._session.headers["Authorization"] = f"Basic {login}"
            return
        asked = dict(re.findall(r'(\w+)="([^"]*)"', rest))
        query = {name: asked[name] for name in ("service", "scope") if name in asked}
        headers = {"Authorization": f"Basic {login}"} if login else {}
        answer = requests.get(asked["realm"], query, headers=headers, auth=_without_netrc, timeout=_TIMEOUT)
        _refuse(answer)
        granted = answer.json()
        self._session.headers["Authorization"] = f"Bearer {granted.get('token') or granted['access_token']}"


def _without_netrc(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Leaves a request as it is. Without an `auth` function, requests would send a login from ~/.netrc."""
    return request


def _refuse(answer: requests.Response) -> None:
    if not answer.ok:
        raise _Refused(f"{answer.status_code} {answer.reason}")


def _docker_login(host: str) -> str:
    """Docker's stored user and password for a registry, in base 64; empty if none is stored or it cannot be read."""
    server = _HUB_LOGIN if host == _HUB else host
    try:
        config = json.loads(_DOCKER.read_text(encoding="utf-8"))
        if login := config.get("auths", {}).get(server, {}).get("auth"):
            return str(login)
        helper = config.get("credHelpers", {}).get(server) or config.get("credsStore")
        if not helper:
            return ""
        asked = subprocess.run(
            [f"docker-credential-{helper}", "get"],
            input=server,
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        )
        found = json.loads(asked.stdout)
        return base64.b64encode(f"{found['Username']}:{found['Secret']}".encode()).decode()
    except (OSError, subprocess.SubprocessError, *_UNREADABLE):
        return ""


if __name__ == "__main__":
    sys.stdout.write(base64.b64encode(closure.text(closure.of_image()).encode()).decode())
