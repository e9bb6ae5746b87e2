"""Refuses settings that hold a secret: everybody who may read Jobs could read the secret in the Job's manifest."""

import re
from typing import Any

import click

from purchase_predict.secrets import names_a_secret, shown_uri, without_secrets

#: A reference in the value of a variable: `$(NAME)` of Kubernetes. A reference holds no secret itself.
_VARIABLE = re.compile(r"\$\([A-Za-z_][\w.\-]*\)")
#: A reference in any other text. References of a shell (`${NAME}`, `$NAME`, `$(cat file)`) and of a template language
#: (`{{ .password }}`) also count here.
_REFERENCE = re.compile(r"\$(?:\([^)]*\)|\{[^}]*\}|\w+)|\{\{.*?\}\}")
_HIDDEN = "***"
#: A text that holds no secret, but that `without_secrets` or `shown_uri` would mask: a login (`user:***@`), or the
#: scheme before a reference in a header (`Bearer `). It is looked for after `_HIDDEN` has replaced each reference.
_REFERRED = re.compile(r"(?:[^\s/@:]+:)?(?<![^\s/:])\*{3}@|\b(?:Basic|Bearer|Digest|Token)\s+(?=\*{3})", re.IGNORECASE)
#: The name of a variable that holds the path of a file or folder (AWS_WEB_IDENTITY_TOKEN_FILE, PGPASSFILE).
_PATH_NAME = re.compile(r"(?:^|_)(?:PG)?(?:PASS)?(?:FILE|PATH|DIR)$", re.IGNORECASE)
#: The start of a path.
_PATH = re.compile(r"~?/|\.{1,2}/")
_QUOTES = re.compile(r"""[\\"']""")


def refuse_secret(name: str, value: str, place: str) -> None:
    """Raises if a variable, header or parameter seems to hold a secret, judging by its name or the form of its value.

    Args:
        name: the name of the variable, header or parameter.
        value: its value.
        place: where it is set, for the message.

    Raises:
        click.ClickException: the variable seems to hold a secret.
    """
    names_a_path = _PATH_NAME.search(name) and _PATH.match(value)  # the path of a file with a secret is no secret
    if value and ((names_a_secret(name) and not names_a_path) or _holds_secret(value, _VARIABLE)):
        raise _refusal(name, place)


def refuse_secrets(part: Any, place: str) -> None:
    """Raises if any text in a part of a template (variable, header, command, annotation, ...) seems to hold a secret.

    Args:
        part: a mapping, a list or a single value.
        place: the part's name in the message. There, an entry of a mapping is called `<place>.<name>`, and an entry of
            a list `<place>[<number>]`.

    Raises:
        click.ClickException: a text seems to hold a secret.
    """
    if isinstance(part, dict):
        if "name" in part and "value" in part:  # a variable or a header
            refuse_secret(str(part["name"]), str(part["value"] or ""), place)
            part = {name: value for name, value in part.items() if name != "value"}
        for name, value in part.items():
            refuse_secrets(value, f"{place}.{name}")
    elif isinstance(part, list):
        for number, value in enumerate(part):
            refuse_secrets(value, f"{place}[{number}]")
    elif isinstance(part, str) and _holds_secret(part, _REFERENCE):
        raise _refusal("its text", place)


def _holds_secret(value: str, reference: re.Pattern[str]) -> bool:
    """Whether `without_secrets` or `shown_uri` would mask something in a text, apart from its references."""
    referring = reference.sub(_HIDDEN, value)
    rest = _QUOTES.sub("", referring) if referring != value else value
    rest = _REFERRED.sub("", rest)
    return without_secrets(rest) != rest or ("://" in rest and shown_uri(rest) != rest)


def _refusal(name: str, place: str) -> click.ClickException:
    return click.ClickException(
        f"{place}: {name} looks like a secret, which everybody with read access to Jobs could see: move the value to a "
        "Secret of the cluster, and refer to that Secret (env_from_secrets; in a template also valueFrom)"
    )
