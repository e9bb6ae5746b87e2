"""The file `backend_config`: image, namespace, and the resources of each step (docs/deployment.md).

JSON or YAML. Values at the top apply to every step. Values under `steps.<step>` override them for that step, except
that the variables in `env` and `env_from_secrets` are merged by name.
"""

import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, fields
from datetime import date
from pathlib import Path
from typing import Any, get_origin

import click
import yaml

from purchase_predict.errors import first_line
from purchase_predict.kubernetes.plain_secrets import refuse_secret, refuse_secrets
from purchase_predict.parameters import STEPS, written
from purchase_predict.secrets import shown_uri

_IMAGE = r"[^@\s]+@sha256:[0-9a-f]{64}"
#: The allowed names of the container's environment variables.
_VARIABLE = r"[A-Za-z_][A-Za-z0-9_]*"
#: Names that are allowed at the top of the file only.
_TOP_ONLY = ("context", "steps")
#: Names that are allowed under `steps`: MLproject's entry points. They are listed here, because the file MLproject is
#: not installed with the package.
ENTRY_POINTS = ("main", *STEPS, "approve", "rollback", "status", "predict", "serve")
#: The fields that Kubernetes allows in a container's `resources`.
_RESOURCES = ("requests", "limits", "claims")
#: The types of the values, each with its name in error messages.
_TYPES = {str: "text", int: "a whole number", dict: "a mapping", list: "a list"}


@dataclass(frozen=True)
class StepConfig:
    """The settings of one step's Job.

    Attributes:
        image: the image built by the Dockerfile, as `<name>@sha256:<digest>`.
        namespace: the Job's namespace.
        service_account: the pod's service account; empty: the namespace's default.
        tracking_uri: the tracking server's address in the cluster; empty: the one that main uses.
        deadline: seconds from the Job's start until the cluster ends the Job, whether or not main still waits.
        patience: seconds for which a problem that does not pass by itself (image, Secret, quota) may keep the Job from
            starting; then the Job is deleted.
        keep: seconds for which the cluster keeps the Job after its end.
        resources: requests and limits of the container.
        node_selector: labels of the nodes that may run the pod.
        tolerations: Kubernetes tolerations of the pod.
        env: further environment variables of the container, by name.
        env_from_secrets: environment variables whose values come from Secrets, by the variable's name. Each has two
            entries: `secret` (the name of the Secret) and `key` (the key in the Secret).
        template: a partial Job manifest that the other settings are merged into. Its activeDeadlineSeconds and
            ttlSecondsAfterFinished override `deadline` and `keep`.
    """

    image: str
    namespace: str = "default"
    service_account: str = ""
    tracking_uri: str = ""
    deadline: int = 24 * 3600
    patience: int = 60
    keep: int = 24 * 3600
    resources: dict[str, Any] = field(default_factory=dict)
    node_selector: dict[str, str] = field(default_factory=dict)
    tolerations: list[dict[str, Any]] = field(default_factory=list)
    env: dict[str, str] = field(default_factory=dict)
    env_from_secrets: dict[str, dict[str, str]] = field(default_factory=dict)
    template: dict[str, Any] = field(default_factory=dict)

    @property
    def pod(self) -> dict[str, Any]:
        """The pod's spec in the template."""
        return dict(self.template.get("spec", {}).get("template", {}).get("spec", {}))


@dataclass(frozen=True)
class Config:
    """The content of a file `backend_config`.

    Attributes:
        place: the file's name in messages.
        context: a context of the kubeconfig. If it is empty, the current context is used; a pod without a kubeconfig
            then uses its service account.
        folder: the folder that relative paths in the content start from.
        values: the content.
    """

    place: str
    context: str
    folder: Path
    values: Mapping[str, Any]

    @classmethod
    def read(cls, file: str) -> "Config":
        """Reads a file.

        Raises:
            click.ClickException: the name is empty, the file cannot be read or is neither JSON nor YAML, or its
                content is wrong (see `of`).
        """
        if not file:
            raise click.ClickException(
                "backend_config is empty: a step on Kubernetes needs a file that names at least the image; "
                "docs/deployment.md has an example"
            )
        return cls.of(_mapping(Path(file)), f"backend_config {file}", Path(file).parent)

    @classmethod
    def of(cls, values: Mapping[str, Any], place: str, folder: Path) -> "Config":
        """Checks the names of the settings, also under `steps`. The values of a step are checked later, by `of_step`.

        Raises:
            click.ClickException: a setting or a step is unknown, or `context`, `steps` or an entry of `steps` is of
                the wrong type.
        """
        _refuse_unknown(values, (*_KINDS, *_TOP_ONLY), place)
        for name, kind in (("context", str), ("steps", dict)):
            _typed(values.get(name, kind()), kind, f"{place}: {name}")
        steps = values.get("steps", {})
        _refuse_unknown(steps, ENTRY_POINTS, f"{place}: steps")
        for step in steps:
            of_step = f"{place}: steps.{step}"
            _refuse_unknown(_part(steps, step, of_step), _KINDS, of_step)
        return cls(place, values.get("context", ""), folder, values)

    def of_step(self, entry_point: str) -> StepConfig:
        """The settings of a step.

        Raises:
            click.ClickException: a value is of the wrong form or holds a secret, or the template file cannot be read.
        """
        place = f"{self.place}: steps.{entry_point}"
        own = _part(self.values.get("steps", {}), entry_point, place)
        merged = {name: value for name, value in self.values.items() if name in _KINDS} | own
        for name in ("env", "env_from_secrets"):  # a step's variables are added to those at the top
            merged[name] = _part(self.values, name, f"{self.place}: {name}") | _part(own, name, f"{place}.{name}")
        if isinstance(merged.get("template"), str):
            merged["template"] = _mapping(self.folder / merged["template"])
        _refuse_beyond_json({name: value for name, value in merged.items() if name != "env"}, place)
        if isinstance(merged.get("template"), dict):
            merged["template"] = _without_nulls(merged["template"])
        for name, kind in _KINDS.items():
            if name in merged:
                _typed(merged[name], kind, f"{place}.{name}")
        _check(merged, place)
        _check_template(merged.get("template", {}), place)
        merged["env"] = {name: written(value) for name, value in merged["env"].items()}
        return StepConfig(**merged)


#: The type of each setting of a step.
_KINDS: dict[str, Any] = {one.name: get_origin(one.type) or one.type for one in fields(StepConfig)}


def _check(values: Mapping[str, Any], place: str) -> None:
    image = values.get("image", "")
    if not re.fullmatch(_IMAGE, image):
        raise click.ClickException(
            f"{place}: image={image or '(none)'}: must name the image by its digest, as "
            "<registry>/<name>@sha256:<64 hex digits>, because a tag may point to another image later"
        )
    for name in ("deadline", "patience", "keep"):
        if values.get(name, 1) < 1:
            raise click.ClickException(f"{place}.{name}={values[name]}: must be 1 second or more")
    _check_resources(values.get("resources", {}), f"{place}.resources")
    for name in (*values["env"], *values["env_from_secrets"]):
        if not isinstance(name, str) or not re.fullmatch(_VARIABLE, name):
            raise click.ClickException(f"{place}: {name} is not a valid name of an environment variable")
    for name, value in values["env"].items():
        if not isinstance(value, str | int | float | date | None):
            raise click.ClickException(f"{place}.env.{name}: must be text, a number, a date, true, false or null")
        refuse_secret(name, str(value), f"{place}.env")
    if (uri := values.get("tracking_uri", "")) != shown_uri(uri):
        raise click.ClickException(
            f"{place}.tracking_uri holds a password; put user and password into a Secret of the cluster, and pass them "
            "to the Job with env_from_secrets, as MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        )
    for name, source in values["env_from_secrets"].items():
        known = isinstance(source, dict) and set(source) == {"secret", "key"}
        if not known or not all(isinstance(text, str) for text in source.values()):
            raise click.ClickException(
                f"{place}.env_from_secrets.{name}: must have two entries, secret (the name of the Secret) and key (the "
                "key in that Secret), both as text"
            )


def _refuse_beyond_json(values: Mapping[str, Any], place: str) -> None:
    """Raises if a value cannot be written as JSON, such as YAML's dates, or a list that contains itself."""
    for name, value in values.items():
        try:
            json.dumps(value, allow_nan=False)
        except (ValueError, TypeError, RecursionError) as error:
            raise click.ClickException(
                f"{place}.{name}: holds a value that JSON does not have (put dates into quotes): {first_line(error)}"
            ) from error


def _check_template(template: Mapping[str, Any], place: str) -> None:
    """Raises if the template holds a secret, or if a part that this project reads has the wrong type."""
    pod: Any = template
    for name in ("spec", "template", "spec"):
        pod = pod.get(name, {})
        if not isinstance(pod, dict):
            raise click.ClickException(f"{place}: template: {name} must be a mapping")
    for kind in ("containers", "initContainers"):
        _list_of_mappings(pod, kind, place)
        for container in pod.get(kind, []):
            _list_of_mappings(container, "env", place)
            _check_resources(container.get("resources", {}), f"{place}: template: resources")
    refuse_secrets(template, f"{place}: template")


def _check_resources(resources: Any, place: str) -> None:
    _refuse_unknown(_typed(resources, dict, place), _RESOURCES, place)
    for kind in ("requests", "limits"):
        _part(resources, kind, f"{place}.{kind}")


def _list_of_mappings(part: Mapping[str, Any], name: str, place: str) -> None:
    found = part.get(name, [])
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise click.ClickException(f"{place}: template: {name} must be a list of mappings")


def _without_nulls(part: Any) -> Any:
    """A part of a template without the entries whose value is null. Kubernetes treats such entries as left out."""
    if isinstance(part, dict):
        return {name: _without_nulls(value) for name, value in part.items() if value is not None}
    return [_without_nulls(value) for value in part] if isinstance(part, list) else part


def _mapping(file: Path) -> dict[str, Any]:
    try:
        read = _parsed(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise click.ClickException(f"backend_config {file}: cannot be read: {first_line(error)}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date that does not exist
        raise click.ClickException(f"backend_config {file} is neither JSON nor YAML: {first_line(error)}") from error
    found: dict[str, Any] = _typed(read, dict, f"backend_config {file}")
    return found


def _parsed(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        if not text.lstrip().startswith("{"):
            raise
        return json.loads(text)  # JSON is YAML, too, unless it is indented with tabs


def _typed(value: Any, kind: type, place: str) -> Any:
    if not isinstance(value, kind) or isinstance(value, bool):
        # A list or a mapping is not shown, because it may hold a secret that `plain_secrets` does not recognize.
        found = _TYPES[type(value)] if isinstance(value, (list, dict)) else repr(value)
        raise click.ClickException(f"{place}: must be {_TYPES[kind]}, not {found}")
    return value


def _part(whole: Mapping[Any, Any], name: str, place: str) -> dict[Any, Any]:
    """The mapping under `name` in `whole`; empty if it is missing or null. `place` names it in messages."""
    part = whole.get(name)
    found: dict[Any, Any] = {} if part is None else _typed(part, dict, place)
    return found


def _refuse_unknown(names: Iterable[object], allowed: Collection[str], place: str) -> None:
    if unknown := sorted({str(name) for name in names} - set(allowed)):
        raise click.ClickException(f"{place}: {', '.join(unknown)} is unknown; allowed: {', '.join(allowed)}")
