"""Other libraries' errors in one line."""


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or the name of its class if the text is empty."""
    return (str(error).splitlines() or [type(error).__name__])[0]
