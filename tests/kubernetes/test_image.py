"""The label of an image, read from a stand-in for a registry (OCI distribution specification)."""

import base64
import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import click
import pytest

from purchase_predict.kubernetes import closure, image
from tests.conftest import PROJECT, checkout
from tests.kubernetes.files import IMAGE

DIGEST, OF_LINUX, CONFIG = ("sha256:" + letter * 64 for letter in "abc")
LOGIN = base64.b64encode(b"me:planted").decode()


class Registry(BaseHTTPRequestHandler):
    """A registry with one image. It can be read with a token, which only a client with the right login gets."""

    labels: dict[str, str]
    signs_in = LOGIN

    def do_GET(self) -> None:
        here = f"http://{self.headers['Host']}"
        answers: dict[str, Any] = {
            f"/v2/shop/steps/manifests/{DIGEST}": {
                "manifests": [
                    {"digest": "sha256:0", "platform": {"os": "unknown", "architecture": "unknown"}},
                    {"digest": OF_LINUX, "platform": {"os": "linux", "architecture": "amd64"}},
                ]
            },
            f"/v2/shop/steps/manifests/{OF_LINUX}": {"config": {"digest": CONFIG}},
            f"/v2/shop/steps/blobs/{CONFIG}": {"config": {"Labels": self.labels}},
        }
        if self.path.startswith("/token?service=here&scope=repository%3Ashop"):
            assert self.headers["Accept"] == "*/*"  # the types of manifests mean nothing here
            known = self.headers.get("Authorization") == f"Basic {self.signs_in}"
            self._answer(200 if known else 403, {"token": "one"})
        elif self.headers.get("Authorization") != "Bearer one":
            challenge = f'Bearer realm="{here}/token",service="here",scope="repository:shop/steps:pull"'
            self._answer(401, {}, {"WWW-Authenticate": challenge})
        else:
            self._answer(200 if self.path in answers else 404, answers.get(self.path, {}))

    def _answer(self, status: int, body: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[tuple[str, type[Registry]]]:
    """The image's name with its digest, and the class of its registry, whose attributes a test may set."""
    handler = type("Bound", (Registry,), {"labels": {}})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    host = f"127.0.0.1:{server.server_port}"
    (tmp_path / "config.json").write_text(json.dumps({"auths": {host: {"auth": LOGIN}}}))
    monkeypatch.setattr(image, "_DOCKER", tmp_path / "config.json")
    yield f"{host}/shop/steps@{DIGEST}", handler
    server.shutdown()
    server.server_close()


def written() -> str:
    """The label as `make image` writes it."""
    command = [sys.executable, "-m", "purchase_predict.kubernetes.image"]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True).stdout


def test_an_image_of_another_source_is_refused_before_a_job_is_submitted(
    registry: tuple[str, type[Registry]], tmp_path: Path
) -> None:
    name, handler = registry
    handler.labels = {image.LABEL: written()}
    assert image.refuse_other_source(name, "train", PROJECT) == ""
    here = checkout(tmp_path / "project")
    for file in ("steps/train.py", "purchase_predict/search/space.py", "purchase_predict/kubernetes/job.py"):
        (here / file).write_text((here / file).read_text() + "\nADDED = 1\n")
    (here / "requirements.lock").write_text("numpy==1.0\n")
    with pytest.raises(click.ClickException) as error:
        image.refuse_other_source(name, "train", here)
    assert re.findall(r"[\w/]+\.(?:py|lock)\b", error.value.message) == [
        "requirements.lock", "purchase_predict/search/space.py", "steps/train.py",
    ]  # fmt: skip
    assert name in error.value.message


@pytest.mark.parametrize(
    ("labels", "signs_in", "says"),
    [
        ({}, LOGIN, "the image has no label purchase-predict.source, which `make image` writes"),
        ({image.LABEL: ""}, LOGIN, "the image has no label"),
        ({image.LABEL: "e30="}, LOGIN, "returned an unreadable answer: KeyError 'source'"),
        ({image.LABEL: base64.b64encode(b"[" * 100_000).decode()}, LOGIN, "an unreadable answer: RecursionError"),
        ({image.LABEL: written()}, "other", "answers 403 Forbidden"),
    ],
)
def test_a_label_that_cannot_be_read_is_said_and_holds_nothing_up(
    registry: tuple[str, type[Registry]], labels: dict[str, str], signs_in: str, says: str
) -> None:
    name, handler = registry
    handler.labels, handler.signs_in = labels, signs_in
    unread = image.refuse_other_source(name, "train", PROJECT)
    assert says in unread
    assert "planted" not in unread


def test_a_login_that_is_not_dockers_is_not_sent(
    registry: tuple[str, type[Registry]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, _ = registry
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password planted\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert "answers 403 Forbidden" in image.refuse_other_source(name, "train", PROJECT)


@pytest.mark.parametrize("text", ["{", "[]", '{"auths": []}', '{"auths": {"127.0.0.1": 1}}', "[" * 100_000])
def test_logins_of_docker_that_cannot_be_read_count_as_none(
    text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(text)
    monkeypatch.setattr(image, "_DOCKER", tmp_path / "config.json")
    assert image._docker_login("127.0.0.1") == ""


def test_a_registry_that_is_away_is_said_in_a_few_words() -> None:
    assert image.refuse_other_source(IMAGE, "train", PROJECT) == "127.0.0.1:1 does not answer"


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("shop/steps:1@sha256:0", ("registry-1.docker.io", "shop/steps", "sha256:0")),
        ("steps@sha256:0", ("registry-1.docker.io", "library/steps", "sha256:0")),
        ("docker.io/shop/steps@sha256:0", ("registry-1.docker.io", "shop/steps", "sha256:0")),
        ("index.docker.io/steps:1@sha256:0", ("registry-1.docker.io", "library/steps", "sha256:0")),
        ("localhost/steps@sha256:0", ("localhost", "steps", "sha256:0")),
        ("eu.pkg.dev:443/a/b/steps:v1@sha256:0", ("eu.pkg.dev:443", "a/b/steps", "sha256:0")),
    ],
)
def test_names_of_images_are_read_as_docker_does(name: str, parts: tuple[str, str, str]) -> None:
    assert image._parts(name) == parts


def test_the_label_is_small_and_of_one_line_and_the_dockerfile_has_it() -> None:
    assert re.fullmatch(r"[A-Za-z0-9+/=]{1,20000}", written())
    assert f"LABEL {image.LABEL}=$SOURCE" in (PROJECT / "Dockerfile").read_text()
    assert set(json.loads(base64.b64decode(written()))) == {"source", "lock"}
    assert closure.label_difference("main", closure.of_image()) == ""
