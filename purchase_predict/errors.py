"""Messages in one line: other libraries' errors, lists of names, and text that a terminal may show."""

from collections.abc import Sequence


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or the name of its class if the text is empty."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def some_of(names: Sequence[str], shown: int) -> str:
    """The first names of a list, and how many follow."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def printable(text: str) -> str:
    """`text` in one line, with each character that could steer a terminal as its escape sequence (`\\x1b`)."""
    line = " ".join(text.split())
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in line
    )
