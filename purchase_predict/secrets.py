"""URIs and messages as they may be printed or stored: without users, passwords and tokens."""

import re

#: A scheme, and the one or two slashes behind it; connection strings of databases may have none.
_SCHEME = r"[A-Za-z][A-Za-z0-9+.\-]*:/{0,2}"
#: A URI in a text, up to a space or a quote. A password may hold a quote, so what stands before an `@` belongs to it.
_URI = re.compile(rf"""{_SCHEME}(?:\S*@)?[^\s'"<>]*""")
#: What the name of a secret holds.
_SECRET_NAME = r"(?:pass|pwd|secret|token|(?:api|access|account|private)[_\-]?key|sig|credential|auth)"
#: The value of a parameter whose name says that it is a secret. In an address any kind of key is one.
_SECRET = re.compile(rf"""([?&;#\s]|^)((?:[\w.\-]*{_SECRET_NAME}[\w.\-]*|[\w.\-]*key)=)[^&;\s'"]*""", re.IGNORECASE)
#: A query at the end of a URI.
_QUERY = re.compile(r"\?[A-Za-z_][\w.\-]*=[^?]*$", re.DOTALL)
#: User and password of an address within a query.
_LOGIN = re.compile(r"(?<=://)[^/?#&]*@")
#: A connection string without `://`: scheme, user, and password.
_OPAQUE = re.compile(r"^([A-Za-z][A-Za-z0-9+.\-]*:/?)(?!/)[^/\s]*:.*@", re.DOTALL)
#: Between the parts of a chained address.
_CHAIN = re.compile(r"::(?=[A-Za-z][A-Za-z0-9+.\-]*://)")
_HIDDEN = "***"
#: Schemes of Azure's storage, whose addresses name the container in the place of a user.
_WITH_CONTAINER = ("abfs", "wasb")


def shown_uri(uri: str) -> str:
    """A URI as it may be printed or stored: without user and password, and without the values of secret parameters.

    Where it is not plain what belongs to the password, such as one with a `/` in it, too much is left out rather than
    too little. Each part of a chained address (`simplecache::s3://...`) is a URI of its own.
    """
    return "::".join(_shown(part) for part in _CHAIN.split(uri))


def _shown(uri: str) -> str:
    uri = _OPAQUE.sub(r"\1", uri)
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return _SECRET.sub(_hide, uri)
    query = _QUERY.search(rest)
    place, parameters = (rest[: query.start()], query[0]) if query else (rest, "")
    authority = re.split(r"[/?#]", place, maxsplit=1)[0]
    if ":" in authority and "@" in place:
        place = place.rpartition("@")[2]  # the password may hold any character
    elif "@" in authority and not scheme.lower().startswith(_WITH_CONTAINER):
        place = authority.rpartition("@")[2] + place[len(authority) :]
    return f"{scheme}{separator}{_SECRET.sub(_hide, place + _LOGIN.sub('', parameters))}"


def _hide(match: re.Match[str]) -> str:
    return f"{match[1]}{match[2]}{_HIDDEN}"


def without_secrets(text: str) -> str:
    """A text, such as an error of another library, with every URI in it as `shown_uri` has it."""
    return _URI.sub(lambda match: shown_uri(match[0]), text)


def names_a_secret(name: str) -> bool:
    """Whether a variable's or parameter's name says that its value is a secret; a path of a file with one is none."""
    if name == "NOTIFY_URL":  # whoever knows the address can post there
        return True
    return bool(re.search(_SECRET_NAME, name, re.IGNORECASE)) and name != "GOOGLE_APPLICATION_CREDENTIALS"
