"""Published files, kept by what they hold: the SHA-256 is the name, so a file never changes and is there once.

Names, sizes and metrics stand in the store; this is only where the bytes lie. Files that the store no longer names
are removed (`worker/tidying.py`). Several processes on several machines may do all of this at once.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import uuid
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple

from gkd_core.run_dir import publish_file
from jobs.errors import WrongContent

__all__ = ["Artifacts", "Blob", "WrongContent"]

_CHUNK_BYTES = 1 << 20
_INCOMING, _REMOVING, _OWNER = ".incoming-", ".removing-", ".owner"


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

        A file that was there already counts as new: it stays for as long as one that came just now.

        Args:
            path: The file; it may be replaced or deleted afterwards.
            expected_sha256: What it must hold; None takes whatever is there.

        Raises:
            WrongContent: it holds something else; nothing was kept.
            FileNotFoundError: there is no such file.
        """
        with path.open("rb") as source:
            self.root.mkdir(parents=True, exist_ok=True)
            descriptor, name = tempfile.mkstemp(prefix=_INCOMING, dir=self.root)
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

    # ---- what nobody needs any more ----------------------------------------------------------------------

    def belongs_to(self, owner: str) -> bool:
        """Whether this folder is that of a database; the first one that asks gets it.

        Who removes what is not named must know all names, so a folder that two databases use is left alone.

        Args:
            owner: What tells the database from others.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        mark = self.root / _OWNER
        with suppress(FileExistsError), mark.open("x") as file:
            file.write(owner)
        return mark.read_text() == owner

    def older_than(self, seconds: float) -> frozenset[str]:
        """Hashes of the files that were last put longer ago than this."""
        now = self._now()
        return frozenset(path.name for path in self.root.glob("??/*") if _age(path, now) > seconds)

    def remove(self, sha256: str, older_than: float) -> None:
        """Remove a file, unless it was put again within so many seconds. Harmless twice.

        It is moved aside first: whoever puts it from then on finds it gone and keeps a copy of its own, and what
        was put a moment before shows by its age.
        """
        aside = self.root / f"{_REMOVING}{sha256}.{uuid.uuid4().hex}"
        with suppress(FileNotFoundError):  # somebody else was faster
            self.path(sha256).rename(aside)
            if _age(aside, self._now()) > older_than:
                aside.unlink()
            else:
                self._put_back(aside)

    def clear_remains(self, older_than: float) -> None:
        """Undo what processes left half done when they were killed: put back what was moved aside, drop half copies."""
        for aside in self.root.glob(f"{_REMOVING}*"):
            self._put_back(aside)
        now = self._now()
        for half in self.root.glob(f"{_INCOMING}*"):
            if _age(half, now) > older_than:
                half.unlink(missing_ok=True)

    def _put_back(self, aside: Path) -> None:
        with suppress(FileNotFoundError):  # whoever moved it aside is still there and has dealt with it
            os.utime(aside)  # it may replace one that was put since then, and must not look older
            aside.replace(self.path(aside.name.removeprefix(_REMOVING).partition(".")[0]))

    def _keep(self, temporary: Path, blob: Blob) -> None:
        final = self.path(blob.sha256)
        try:
            os.utime(final)
        except OSError:  # it is not there, or not ours to change: then a new one takes its place
            final.parent.mkdir(exist_ok=True)
            temporary.chmod(0o644)  # made for its owner alone; API and worker may be different users
            publish_file(temporary, final)

    def _now(self) -> float:
        """The time by the clock that dates the files: a file server's may differ from ours."""
        with tempfile.TemporaryFile(dir=self.root) as file:
            return os.fstat(file.fileno()).st_mtime


def _age(path: Path, now: float) -> float:
    """Seconds since a file was last put; 0 when it is gone."""
    try:
        return now - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _copy(source: BinaryIO, target: BinaryIO) -> Blob:
    """Copy to the disk itself, not only to its cache."""
    digest, size = hashlib.sha256(), 0
    while chunk := source.read(_CHUNK_BYTES):
        digest.update(chunk)
        size += target.write(chunk)
    target.flush()
    os.fsync(target.fileno())
    return Blob(digest.hexdigest(), size)
