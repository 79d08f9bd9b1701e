"""A store whose downloads are counted, also those of other processes, which import little."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hpt_dist.store import ObjectInfo, Store


@dataclass(frozen=True)
class Counting:
    """A store that notes each download in a file, so that those of all processes are counted."""

    store: Store
    notes: Path

    @property
    def uri(self) -> str:
        return self.store.uri

    def stat(self, path: str) -> ObjectInfo | None:
        return self.store.stat(path)

    def stream(self, info: ObjectInfo) -> Iterator[bytes]:
        with self.notes.open("a") as notes:
            notes.write(f"{info.path}\n")
        yield from self.store.stream(info)
