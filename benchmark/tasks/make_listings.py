"""Makes the listings that ship with the package from the original files: names, checksums, free labels, no images.

Run once as ``python -m benchmark.tasks.make_listings FOLDER``, FOLDER holding mnist/ and utkface/; a test compares
what is committed with the files.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from benchmark.errors import InvalidValue
from benchmark.tasks import mnist, utkface
from benchmark.tasks.containers import Container
from benchmark.tasks.listings import write_listing

UNSEEN = "5_0_1_20170117193745507.jpg.chip.jpg"
"""Of UTKFace's 23,708 files the one that no copy at hand holds: its name is pinned, its content is not."""


def mnist_columns(folder: Path) -> dict[str, Any]:
    """Return ids and labels of MNIST."""
    import pyarrow as pa

    parts = {name: mnist.read_part(folder, name)[1] for name in mnist.PARTS}
    ids = [f"{name}-{k:05d}" for name, labels in parts.items() for k in range(len(labels))]
    return {"id": pa.array(ids), "y": pa.array(np.concatenate(list(parts.values())))}


def utkface_columns(archive: Path) -> dict[str, Any]:
    """Return names and digests of UTKFace, the unseen file among them without a digest."""
    import pyarrow as pa

    container = Container(archive)
    digests = {
        PurePosixPath(name).name: hashlib.sha256(content).digest()
        for name, content in container.stream(container.names())
    }
    names = sorted({*digests, UNSEEN})
    found = [digests.get(name) for name in names]
    return {"name": pa.array(names), "sha256": pa.array(found, type=pa.binary(32))}


def main(arguments: list[str]) -> int:
    """Write both listings."""
    if len(arguments) != 1:
        raise InvalidValue("give the folder that holds mnist/ and utkface/")
    root = Path(arguments[0])
    write_listing(mnist.LISTING, mnist_columns(root / "mnist"))
    write_listing(utkface.LISTING, utkface_columns(root / "utkface" / "UTKFace.tar.gz"))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
