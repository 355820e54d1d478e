"""Artifacts in a folder: on the local disk, or on one that all machines mount."""

from __future__ import annotations

import errno
import os
import tempfile
import threading
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from gkd_core.run_dir import publish_file
from jobs.artifacts.base import PUBLISHED, Artifacts, Blob, blocks, check, measure, unchanged, written
from jobs.errors import ArtifactsRefused, ContentGone, WrongContent
from jobs.sync.cancellation import NEVER, cancellable

_INCOMING, _REMOVING, _OWNER = ".incoming-", ".removing-", ".owner"
_NO_LINKS = (errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.ENOSYS, errno.EOPNOTSUPP)
"""Error codes of hard links that are not possible: another disk, or a file system or rules without hard
links."""


class FolderArtifacts(Artifacts):
    """A folder of files named by their SHA-256.

    Args:
        root: The folder; it is created with the first file.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.place = str(root)
        self._found_whole: dict[str, tuple[int, int, int]] = {}

    def put(self, path: Path, expected_sha256: str | None = None) -> Blob:
        """Implement `Artifacts.put`."""
        with path.open("rb") as source:
            self.root.mkdir(parents=True, exist_ok=True)
            descriptor, name = tempfile.mkstemp(prefix=_INCOMING, dir=self.root)
            temporary = Path(name)
            try:
                with os.fdopen(descriptor, "wb") as target:
                    blob = _copy(source, target)
                check(path.name, expected_sha256, blob)
                self._store(temporary, blob)
            finally:
                temporary.unlink(missing_ok=True)
        return blob

    def take(self, path: Path) -> Blob:
        """Implement `Artifacts.take`, on one disk by a hard link."""
        with path.open("rb") as source:
            blob = measure(blocks(source))
            os.fsync(source.fileno())
        self.root.mkdir(parents=True, exist_ok=True)
        temporary = self.root / f"{_INCOMING}{uuid.uuid4().hex}"
        try:
            temporary.hardlink_to(path)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            return self.put(path, blob.sha256)
        try:
            os.utime(temporary)  # measuring it may have taken long
            self._store(temporary, blob)
        finally:
            temporary.unlink(missing_ok=True)
        return blob

    def path(self, sha256: str) -> Path:
        """Return the path of a stored file; it does not exist for a hash that was never put."""
        return self.root / sha256[:2] / sha256

    def size(self, sha256: str) -> int:
        """Implement `Artifacts.size`."""
        try:
            return self.path(sha256).stat().st_size
        except FileNotFoundError as error:
            raise ContentGone(sha256) from error

    def read(self, sha256: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """Implement `Artifacts.read`."""
        try:
            source = self.path(sha256).open("rb")
        except FileNotFoundError as error:
            raise ContentGone(sha256) from error
        with source:
            self._must_be_unchanged(sha256, source)
            source.seek(start)
            part = blocks(source, None if stop is None else stop - start)
            yield from unchanged(sha256, part) if start == 0 and stop is None else part

    def fetch(self, sha256: str, folder: Path, cancelled: threading.Event = NEVER) -> Path:
        """Implement `Artifacts.fetch` without a copy: the stored file is local."""
        path = self.path(sha256)
        try:
            with path.open("rb") as source:
                check(PUBLISHED, sha256, measure(cancellable(cancelled, blocks(source))))
        except FileNotFoundError as error:
            raise ContentGone(sha256) from error
        return path

    def ping(self) -> None:
        """Implement `Artifacts.ping`. A folder that does not exist yet will be created."""
        if self.root.exists() and not os.access(self.root, os.R_OK | os.X_OK):
            hint = "Give it to the user that GKD runs as, or set GKD_ARTIFACTS_URL."
            raise ArtifactsRefused("the folder of the published files may not be read", hint)

    # ---- garbage collection --------------------------------------------------------------------------------

    def belongs_to(self, owner: str) -> bool:
        """Implement `Artifacts.belongs_to`."""
        self.root.mkdir(parents=True, exist_ok=True)
        mark = self.root / _OWNER
        with suppress(FileExistsError), mark.open("x") as file:
            file.write(owner)
        return mark.read_text() == owner

    def older_than(self, seconds: float) -> frozenset[str]:
        """Implement `Artifacts.older_than`."""
        now = self._now()
        return frozenset(path.name for path in self.root.glob("??/*") if _age(path, now) > seconds)

    def remove(self, sha256: str, older_than: float) -> None:
        """Implement `Artifacts.remove`.

        The file is renamed first: a `put` from then on does not find it and stores a copy of its own, and a
        `put` just before shows in the file's age.
        """
        aside = self.root / f"{_REMOVING}{sha256}.{uuid.uuid4().hex}"
        with suppress(FileNotFoundError):  # another process was faster
            self.path(sha256).rename(aside)
            if _age(aside, self._now()) > older_than:
                aside.unlink()
            else:
                self._put_back(aside)

    def clear_remains(self, older_than: float) -> None:
        """Implement `Artifacts.clear_remains`: restore renamed files, delete incomplete copies."""
        for aside in self.root.glob(f"{_REMOVING}*"):
            self._put_back(aside)
        now = self._now()
        for half in self.root.glob(f"{_INCOMING}*"):
            if _age(half, now) > older_than:
                half.unlink(missing_ok=True)

    def _put_back(self, aside: Path) -> None:
        with suppress(FileNotFoundError):  # the process that renamed it is alive and has dealt with it
            os.utime(aside)  # it may replace one that was put since then, and must not look older
            aside.replace(self.path(aside.name.removeprefix(_REMOVING).partition(".")[0]))

    def _must_be_unchanged(self, sha256: str, source: BinaryIO) -> None:
        """Check the hash of a file on its first read, and again if size, time or inode have changed.

        Raises:
            WrongContent: the content has another hash.
        """
        about = os.fstat(source.fileno())
        seen = (about.st_size, about.st_mtime_ns, about.st_ino)
        if self._found_whole.get(sha256) != seen:
            check(PUBLISHED, sha256, measure(blocks(source)))
            self._found_whole[sha256] = seen

    def _store(self, temporary: Path, blob: Blob) -> None:
        final = self.path(blob.sha256)
        try:
            with final.open("rb") as there:
                check(PUBLISHED, blob.sha256, measure(blocks(there)))
            os.utime(final)
        except (
            OSError,
            WrongContent,
        ):  # missing, damaged, or not ours to change: a new one replaces it
            final.parent.mkdir(exist_ok=True)
            temporary.chmod(0o644)  # created for its owner only; API and worker may be different users
            publish_file(temporary, final)

    def _now(self) -> float:
        """Return the time by the clock that dates the files: a file server's may differ from the local one."""
        with tempfile.TemporaryFile(dir=self.root) as file:
            return os.fstat(file.fileno()).st_mtime


def _age(path: Path, now: float) -> float:
    """Return the seconds since a file was last put; 0 if it is gone."""
    try:
        return now - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _copy(source: BinaryIO, target: BinaryIO) -> Blob:
    """Copy a file and flush it to the disk itself, not only to its cache."""
    blob = measure(written(blocks(source), target))
    target.flush()
    os.fsync(target.fileno())
    return blob
