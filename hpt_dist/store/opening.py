"""Open the store of a URI."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from hpt_dist.errors import RequestError
from hpt_dist.errors.secrets import public_address
from hpt_dist.store.base import Store, checked
from hpt_dist.store.folder import FolderStore
from hpt_dist.store.paths import local_path

_HAS_SCHEME = re.compile(r"[A-Za-z][\w+.-]*:/")


def open_store(uri: str) -> Store:
    """Open `s3://bucket/prefix`, `file:///folder` or a folder's path; this creates nothing.

    S3 is reached by the standard AWS settings: AWS_ENDPOINT_URL_S3, AWS_PROFILE, AWS_CA_BUNDLE,
    AWS_MAX_ATTEMPTS and so on.

    Raises:
        RequestError: if the URI is none of these, or holds a password or a key.
    """
    if public_address(uri) != uri:
        raise RequestError(
            "the URI of a store holds a password or a key, which would be written down",
            where=uri,
            allowed="s3://bucket/prefix",
            fix="take it out; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
        )
    try:
        parts = urlsplit(uri)
        if "\0" in uri:
            raise ValueError("it holds a null byte")  # noqa: TRY301 - one way to say it
    except ValueError as error:
        raise RequestError(f"this is not the URI of a store: {error}", where=repr(uri)) from error
    if parts.scheme == "s3" and parts.netloc:
        from hpt_dist.store.s3 import S3Store  # boto3 takes a tenth of a second to import

        # urlsplit would cut a prefix off at ? or #.
        prefix = uri.partition("://")[2].removeprefix(parts.netloc).strip("/")
        return S3Store(parts.netloc, checked(prefix, uri) if prefix else "")
    if parts.scheme == "file" and not parts.netloc and parts.path:
        return FolderStore(Path(unquote(parts.path)))
    if uri and not _HAS_SCHEME.match(uri):
        return FolderStore(local_path(uri).absolute())
    raise RequestError(
        "this is not the URI of a store",
        where=uri or "store",
        allowed="s3://bucket/prefix, file:///folder, or the path of a folder",
    )
