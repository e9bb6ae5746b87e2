"""Messages in one line: other libraries' errors, lists of names, and text that is safe to show on a terminal."""

from collections.abc import Sequence

import click

from purchase_predict.secrets import without_secrets


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or the name of its class if the text is empty."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def message_of(error: BaseException) -> str:
    """The message of a user's mistake (a ClickException), or the first line of any other error."""
    return error.format_message() if isinstance(error, click.ClickException) else first_line(error)


def some_of(names: Sequence[str], shown: int, separator: str = ", ") -> str:
    """The first `shown` names of a list, and how many more there are."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return separator.join(names[:shown]) + more


def printable(text: str) -> str:
    """A text as users read it: one line, without passwords, and without characters that could steer a terminal.

    Such a character is replaced with its escape sequence (`\\x1b`).
    """
    return _visible(" ".join(without_secrets(text).split()))


def _visible(line: str) -> str:
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in line
    )


def print_line(text: str, err: bool = False) -> None:
    """Prints one line, made safe by `printable`, because names of files, columns and runs come from outside.

    Args:
        text: the line.
        err: whether to print to stderr instead of stdout.
    """
    click.echo(printable(text), err=err)


def print_block(text: str) -> None:
    """Prints several lines, such as an aligned table. They are made safe as in `printable`, but keep their spaces.

    Args:
        text: the lines. Names in them that come from outside the project must not contain line breaks.
    """
    click.echo("\n".join(map(_visible, without_secrets(text).split("\n"))))
