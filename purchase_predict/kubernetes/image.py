"""What an image says of its source before anything runs: a label that `make image` writes, read from the registry.

A second look is taken in the container (`start`), which sees the files themselves. So a registry that cannot be read
from here, or an image without the label, costs the start of a pod and no more.
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

#: The label of the image: what `closure.of_image` says, as JSON in base 64, which no shell and no builder changes.
LABEL = "purchase-predict.source"
_TYPES = (
    "application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json",
)  # fmt: skip
#: Where Docker keeps who its user is.
_DOCKER = Path.home() / ".docker/config.json"
_HUB, _HUB_LOGIN = "registry-1.docker.io", "https://index.docker.io/v1/"
_TIMEOUT = 10.0


class _Refused(Exception):
    """The registry answers with this status."""


@cache
def _label(image: str) -> tuple[dict[str, Any], str]:
    """What an image's label says; why it cannot be read from here, if so."""
    host, name, digest = _parts(image)
    try:
        registry = _Registry(host, name)
        found = registry.get(f"manifests/{digest}")
        if "manifests" in found:  # one for each system; what builds attest about them is of none
            systems = [one for one in found["manifests"] if one.get("platform", {}).get("os") == "linux"]
            found = registry.get(f"manifests/{systems[0]['digest']}")
        labels = registry.get(f"blobs/{found['config']['digest']}").get("config", {}).get("Labels") or {}
        if not labels.get(LABEL):
            return {}, f"it has no label {LABEL}, which `make image` writes"
        said = json.loads(base64.b64decode(labels[LABEL]))
        return {"source": dict(said["source"]), "lock": str(said["lock"])}, ""
    except _Refused as error:
        return {}, f"{host} answers {error}"
    except (requests.ConnectionError, requests.Timeout):
        return {}, f"{host} does not answer"
    except (requests.RequestException, ValueError, KeyError, IndexError, TypeError) as error:
        return {}, printable(f"{host} answers what cannot be read: {type(error).__name__} {first_line(error)}")


def refuse_other_source(image: str, entry_point: str, project: Path) -> str:
    """Ends where the label says that the image is of another source.

    Args:
        image: `<registry>/<name>@sha256:<digest>`.
        entry_point: the step.
        project: the checkout that the step must be of.

    Returns:
        Why the label cannot be read from here (the registry does not answer, asks who we are, there is no such label);
        empty if it can.

    Raises:
        click.ClickException: it is of another source; the message names the files.
    """
    said, unread = _label(image)
    if said and (differs := closure.label_difference(entry_point, said, project)):
        raise closure.refuse(f"the image {image}", differs)
    return unread


def _parts(image: str) -> tuple[str, str, str]:
    """Registry, name and digest of an image, as Docker reads them."""
    name, _, digest = image.partition("@")
    first, _, rest = name.partition("/")
    if rest and re.search(r"[.:]|^localhost$", first):
        host, name = first, rest
    else:
        host, name = _HUB, name if rest else f"library/{name}"
    return host, re.sub(r":[^/:]+$", "", name), digest


class _Registry:
    """The API of a registry (the distribution specification of OCI), for one name in it."""

    def __init__(self, host: str, name: str) -> None:
        local = re.fullmatch(r"(localhost|127\.0\.0\.1)(:\d+)?", host)
        self._base, self._name, self._host = f"{'http' if local else 'https'}://{host}/v2/{name}", name, host
        self._session = requests.Session()
        self._session.headers["Accept"] = ", ".join(_TYPES)
        self._session.auth = lambda request: request  # else requests would take ~/.netrc

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
        answer = requests.get(asked["realm"], params=query, headers=headers, timeout=_TIMEOUT)
        _refuse(answer)
        said = answer.json()
        self._session.headers["Authorization"] = f"Bearer {said.get('token') or said['access_token']}"


def _refuse(answer: requests.Response) -> None:
    if not answer.ok:
        raise _Refused(f"{answer.status_code} {answer.reason}")


def _docker_login(host: str) -> str:
    """User and password for a registry as Docker keeps them, in base 64; empty: none is kept."""
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
    except (OSError, ValueError, KeyError, subprocess.SubprocessError):
        return ""


if __name__ == "__main__":
    sys.stdout.write(base64.b64encode(closure.text(closure.of_image()).encode()).decode())
