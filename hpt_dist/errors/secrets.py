"""Addresses and texts without the secrets in them: passwords, tokens, keys.

Secrets stay in the environment, which the processes of trials inherit. What is shown or stored goes
through here: addresses by `public_address`, and errors, logs and output by `without_secrets`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from urllib.parse import quote, unquote

_MARK = "***"
# A shorter value would be a part of ordinary words; in an address it is found by its place.
_SHORTEST = 6
# Text is full of words and numbers, and without them unreadable: a password that looks like one
# (`password`, `123456`) is found by its place alone.
_WORD_OR_NUMBER = re.compile(r"(?:[A-Z]?[a-z]+|[A-Z]+|[\d.,:-]+)")
_LONGEST_WORD = 11

_WORDS = (
    r"password|passwd|passphrase|pwd|secret|token|signature|credential|bearer|cookie|jwt|"
    r"(?:api|access|secret|private|auth)_?key"
)
# The user and password of an address. A password with a slash, which is no valid address, is found
# behind a colon that no port follows.
_USER = r"(?:{one}*@|[^\s/?#@:\[]*:(?!\d*(?:[/?#\s'\"]|$)){any}*@)"
_USER_OF_ADDRESS = re.compile(r"^([\w+.-]+://)" + _USER.format(one="[^/?#]", any="."), re.DOTALL)
# A path made of an address has one slash.
_USER_IN_TEXT = re.compile(
    r"(://|\b(?:https?|ftp|s3):/)" + _USER.format(one=r'[^\s/?#"<>]', any=r'[^\s"<>]')
)
_FIELD = re.compile(
    rf"([?&;#](?:[\w.~-]*(?:{_WORDS}|key|auth|session)[\w.~-]*|sig|pass|pw)=)([^&;#\s\"'<>]+)",
    re.IGNORECASE,
)
# What clients log of a request, and the options of a database's client.
_HEADER = re.compile(r"(\b(?:Basic|Bearer) )[\w.~+/=-]{8,}")
_OPTION = re.compile(
    r"(\b\w*(?:password|passwd|secret|access_token|api_key|access_key)=)([^&;,#\s\"'<>]+)",
    re.IGNORECASE,
)
# An address whose scheme was forgotten; programs take such a one for a proxy.
_BARE_USER = re.compile(r"^(?://)?[^\s/:@]+:(?=[^/\s@])\S*@(?=[\w.-]+(?::\d+)?(?:/|$))")
_SCHEME = re.compile(r"^(?:[\w+.-]+:)?//")
_VARIABLE = re.compile(
    rf"(?:{_WORDS}|_key|_?pass|_pat|_auth|connection_string)(?:_id)?(?:_|$)", re.IGNORECASE
)
# These hold the name of a file or a folder, or an address.
_NO_SECRET = re.compile(r"(?:^(?:OLD)?PWD|_(?:FILE|PATH|DIR|URI|URL|SOCK))$", re.IGNORECASE)


def is_secret(name: str) -> bool:
    """Return whether a variable's name says that its value is a secret."""
    return bool(_VARIABLE.search(name)) and not _NO_SECRET.search(name)


def public_address(address: str) -> str:
    """Return an address without user, password and the secrets of its query.

    Args:
        address: such as `https://user:password@host/path?token=x`; a path is returned as it is.
    """
    if "://" not in address:  # a path, or an address without its scheme
        return _BARE_USER.sub("", address)
    if address.startswith("sqlite:"):
        return address
    return _FIELD.sub(rf"\1{_MARK}", _USER_OF_ADDRESS.sub(r"\1", address))


def without_secrets(text: str, environment: Mapping[str, str] | None = None) -> str:
    """Return a text without the secrets of the addresses in it and of the environment.

    Args:
        text: of an error, a log or anything that is printed.
        environment: the variables whose values are secret if their names say so, or if they are
            the passwords of addresses; the process's by default.
    """
    if not text:
        return text
    variables = os.environ if environment is None else environment
    for value in _known(tuple(variables.items())):
        text = text.replace(value, _MARK)
    text = _FIELD.sub(rf"\1{_MARK}", _USER_IN_TEXT.sub(r"\1", text))
    return _OPTION.sub(rf"\1{_MARK}", _HEADER.sub(rf"\1{_MARK}", text))


@lru_cache(maxsize=8)  # a table has thousands of texts
def _known(variables: tuple[tuple[str, str], ...]) -> tuple[str, ...]:
    """Return the values that are secret in all forms that programs write, long ones first."""
    return tuple(sorted(set(_secrets_of(variables)), key=len, reverse=True))


def _secrets_of(variables: Iterable[tuple[str, str]]) -> Iterator[str]:
    for name, value in variables:
        secret = [value.strip()] if is_secret(name) else []
        if "://" in value:
            secret += [field[2] for field in _FIELD.finditer(value)]
        if user := _USER_OF_ADDRESS.match(value) or _BARE_USER.match(value):
            name_, colon, password = _SCHEME.sub("", user[0])[:-1].partition(":")
            secret.append(password if colon else name_)
        for one in secret:
            if not (len(one) <= _LONGEST_WORD and _WORD_OR_NUMBER.fullmatch(one)):
                yield from (form for form in _forms(one) if len(form) >= _SHORTEST)


def _forms(secret: str) -> tuple[str, ...]:
    """Return a secret as it is, decoded, encoded for an address, and quoted in JSON and Python."""
    encoded = quote(secret), quote(secret, safe="")
    quoted = json.dumps(secret), json.dumps(secret, ensure_ascii=False), repr(secret), ascii(secret)
    return secret, unquote(secret), *encoded, *(form[1:-1] for form in quoted)
