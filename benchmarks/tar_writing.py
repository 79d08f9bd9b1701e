"""Writing tars against webdataset's `TarWriter`, in memory: `python -m benchmarks.tar_writing`.

`shard_writer` says what follows from it. Headers, data and offsets are compared too; importing
`TarWriter` is measured in a process of its own.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile

from webdataset import TarWriter

from benchmarks.measure import in_words, rates
from hpt_dist.datasets import tar

IMAGES = 2000
SIZES_BYTES = (2_000, 20_000, 100_000)
ROUNDS = 5
_IMPORT = """
import pathlib, resource, time
import hpt_dist.datasets.shard_writer
pages = lambda: int(pathlib.Path("/proc/self/statm").read_text().split()[1])
began_s, began = time.process_time(), pages()
import webdataset.writer
megabytes = (pages() - began) * resource.getpagesize() / 1e6
print(f"importing TarWriter: {time.process_time() - began_s:.1f} s of CPU, {megabytes:.0f} MB")
"""

Images = list[tuple[str, bytes]]


def ours(images: Images) -> bytes:
    """Write images and labels as `shard_writer` does."""
    written = io.BytesIO()
    for key, data in images:
        tar.add(written, f"{key}.jpg", data)
        tar.add(written, f"{key}.cls", b"3")
    written.write(tar.END)
    return written.getvalue()


def theirs(images: Images) -> bytes:
    """Write the same by `TarWriter`, a member at a time: it would sort those of a sample."""
    written = io.BytesIO()
    with TarWriter(written, user="", group="", mode=0o644, mtime=0, encoder=False) as writer:
        for key, data in images:
            writer.write({"__key__": key, "jpg": data})
            writer.write({"__key__": key, "cls": b"3"})
    return written.getvalue()


def main() -> None:
    """Print images/s of both for images of several sizes, and what importing theirs costs."""
    for size_bytes in SIZES_BYTES:
        images = [(f"k{number:06}", os.urandom(size_bytes)) for number in range(IMAGES)]
        mine, other = ours(images), theirs(images)
        padded = len(mine) + -len(mine) % tarfile.RECORDSIZE
        same = "equal" if other == mine.ljust(padded, b"\0") else "DIFFERENT"
        works = {"ours": lambda i=images: len(ours(i)) and IMAGES}
        works |= {"TarWriter": lambda i=images: len(theirs(i)) and IMAGES}
        speeds = rates(works, ROUNDS)
        print(f"{size_bytes:,} bytes: {in_words(speeds)}; bytes up to the padding: {same}")
    subprocess.run([sys.executable, "-c", _IMPORT], check=True)


if __name__ == "__main__":
    main()
