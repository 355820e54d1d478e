"""Published files, kept by what they hold: the SHA-256 is the name, so a file never changes and is there once.

Names, sizes and metrics stand in the store; this is only where the bytes lie.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path
from typing import BinaryIO, NamedTuple

from gkd_core.run_dir import publish_file
from jobs.errors import WrongContent

__all__ = ["Artifacts", "Blob", "WrongContent"]

_CHUNK_BYTES = 1 << 20


class Blob(NamedTuple):
    """A file that is kept."""

    sha256: str
    size: int
    """Bytes."""


class Artifacts:
    """A folder of files named by their SHA-256. Every API and worker sees the same one.

    Args:
        root: The folder; it is made when the first file comes.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def put(self, path: Path, expected_sha256: str | None = None) -> Blob:
        """Copy a file in. Harmless twice; whoever reads meanwhile sees the whole file or none.

        Args:
            path: The file; it may be replaced or deleted afterwards.
            expected_sha256: What it must hold; None takes whatever is there.

        Raises:
            WrongContent: it holds something else; nothing was kept.
            FileNotFoundError: there is no such file.
        """
        with path.open("rb") as source:
            self.root.mkdir(parents=True, exist_ok=True)
            descriptor, name = tempfile.mkstemp(prefix=".incoming-", dir=self.root)
            temporary = Path(name)
            try:
                with os.fdopen(descriptor, "wb") as target:
                    blob = _copy(source, target)
                if expected_sha256 not in (None, blob.sha256):
                    raise WrongContent(path.name, str(expected_sha256), blob.sha256)
                self._keep(temporary, blob)
            finally:
                temporary.unlink(missing_ok=True)
        return blob

    def path(self, sha256: str) -> Path:
        """Where a kept file lies; nothing lies there for a hash that was never put."""
        return self.root / sha256[:2] / sha256

    def _keep(self, temporary: Path, blob: Blob) -> None:
        final = self.path(blob.sha256)
        if final.exists():
            return
        final.parent.mkdir(exist_ok=True)
        temporary.chmod(0o644)  # made for its owner alone; API and worker may be different users
        publish_file(temporary, final)


def _copy(source: BinaryIO, target: BinaryIO) -> Blob:
    """Copy to the disk itself, not only to its cache."""
    digest, size = hashlib.sha256(), 0
    while chunk := source.read(_CHUNK_BYTES):
        digest.update(chunk)
        size += target.write(chunk)
    target.flush()
    os.fsync(target.fileno())
    return Blob(digest.hexdigest(), size)
