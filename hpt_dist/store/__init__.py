"""Objects by path below a URI: a local folder or S3, behind one protocol.

An object appears whole or not at all: readers see the old content or the new one, never a part,
and a writer killed in the middle leaves nothing that is listed.
"""

from hpt_dist.store.base import PIECE_BYTES, Content, ObjectInfo, Store, absent, changed, os_errors
from hpt_dist.store.folder import FolderStore
from hpt_dist.store.opening import open_store

__all__ = [
    "PIECE_BYTES",
    "Content",
    "FolderStore",
    "ObjectInfo",
    "Store",
    "absent",
    "changed",
    "open_store",
    "os_errors",
]
