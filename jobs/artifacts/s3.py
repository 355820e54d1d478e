"""Artifacts on S3, or on any server with the same protocol.

Endpoint, region and credentials are found as in every AWS tool: `AWS_ENDPOINT_URL_S3`, `AWS_DEFAULT_REGION`,
`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, a profile, or the machine's role.

An object cannot be renamed, and its deletion cannot depend on its age. So each file is stored under
`SHA-256/GENERATION`, and no object is ever written twice: to renew a file is to copy it to a new generation,
which a deletion of the old one does not affect.
"""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple
from urllib.parse import urlsplit

from botocore.exceptions import BotoCoreError, NoCredentialsError, PartialCredentialsError
from s3fs import S3FileSystem

from gkd_core.run_dir import publish_file
from jobs.artifacts.base import BLOCK_BYTES, Artifacts, Blob, blocks, check, measure, unchanged, written
from jobs.errors import ArtifactsRefused, ArtifactsUnavailable, ContentGone, JobsError
from jobs.sync.cancellation import NEVER, cancellable

PART_BYTES = 32 << 20
"""Size of an upload part, which is held in memory. S3 accepts 10,000 parts, each but the last of 5 MiB or
more."""
_READ_BYTES = 8 * BLOCK_BYTES
"""Bytes per request of a download: a request costs tens of milliseconds, and each download holds this much
in memory."""
_YOUNG_SECONDS = 600.0
"""A younger generation need not be renewed: it is far from being removed, and its row is written in seconds."""
_LONGEST_SEND_SECONDS = 86_400.0
"""Age at which an unfinished multipart upload counts as abandoned; it dates from its beginning, and 20 GiB
on a slow line take hours."""
_PATIENCE = {
    "connect_timeout": 5,
    "read_timeout": 30,
    "retries": {"mode": "standard", "total_max_attempts": 2},
}
"""Timeouts and retries. Short: callers retry, and monitor their engine meanwhile."""
_OWNER, _OWNER_BYTES = ".owner", 100
_BUSY = (408, 409, 429)
"""HTTP status codes of transient refusals."""


class _Generation(NamedTuple):
    """One object with the content of a file."""

    key: str
    size: int
    age: float
    """Seconds, by the server's clock."""


class S3Artifacts(Artifacts):
    """Objects under a prefix of a bucket.

    Args:
        url: `s3://BUCKET` or `s3://BUCKET/PREFIX`.
        part_bytes: Bytes of an upload part.
    """

    def __init__(self, url: str, *, part_bytes: int = PART_BYTES) -> None:
        self.place = url
        parts = urlsplit(url)
        self._bucket = parts.netloc
        self._prefix = f"{path}/" if (path := parts.path.strip("/")) else ""
        self._part_bytes = part_bytes
        self._fs = S3FileSystem(
            config_kwargs=_PATIENCE, use_listings_cache=False, skip_instance_cache=True, anon=False
        )
        self._fs.retries = 2

    def put(self, path: Path, expected_sha256: str | None = None) -> Blob:
        """Implement `Artifacts.put`."""
        with path.open("rb") as source:
            blob = measure(blocks(source))
            check(path.name, expected_sha256, blob)
            if not self._renew(blob.sha256):
                source.seek(0)
                self._send(self._new_key(blob.sha256), source, blob)
                if blob.size > self._part_bytes:  # S3 dates a multipart upload by its beginning
                    self._renew(blob.sha256)
        return blob

    def size(self, sha256: str) -> int:
        """Implement `Artifacts.size`."""
        return self._newest(sha256).size

    def read(self, sha256: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """Implement `Artifacts.read`."""
        whole = start == 0 and stop is None
        part = self._read(sha256, start, stop)
        return unchanged(sha256, part) if whole else part

    def _read(self, sha256: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        newest = self._newest(sha256)
        stop = newest.size if stop is None else min(stop, newest.size)
        while start < stop:
            try:
                block = self._get(newest.key, start, min(start + _READ_BYTES, stop))
            except FileNotFoundError:  # a newer generation replaced it
                newest = self._newest(sha256)
                continue
            start += len(block)
            yield block

    def fetch(self, sha256: str, folder: Path, cancelled: threading.Event = NEVER) -> Path:
        """Implement `Artifacts.fetch`."""
        final = folder / sha256
        if _has_hash(final, sha256, cancelled):
            return final
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f".{sha256}.{uuid.uuid4().hex}.part"
        try:
            with partial.open("xb") as target:
                wanted = cancellable(cancelled, self._read(sha256))
                check(f"a copy of {sha256}", sha256, measure(written(wanted, target)))
                target.flush()
                os.fsync(target.fileno())
            publish_file(partial, final)
        finally:
            partial.unlink(missing_ok=True)
        return final

    def ping(self) -> None:
        """Implement `Artifacts.ping`."""
        self._call("list_objects_v2", Prefix=self._prefix, MaxKeys=1)

    # ---- garbage collection --------------------------------------------------------------------------------

    def belongs_to(self, owner: str) -> bool:
        """Implement `Artifacts.belongs_to`."""
        key = self._prefix + _OWNER
        with suppress(FileNotFoundError):
            return self._get(key, 0, _OWNER_BYTES).decode() == owner
        with suppress(FileExistsError):  # another process was faster
            self._call("put_object", Key=key, Body=owner.encode(), IfNoneMatch="*")
        return self._get(key, 0, _OWNER_BYTES).decode() == owner

    def older_than(self, seconds: float) -> frozenset[str]:
        """Implement `Artifacts.older_than`."""
        youngest: dict[str, float] = {}
        for generation in self._list(self._prefix):
            sha256, _, name = generation.key.removeprefix(self._prefix).partition("/")
            if name:
                youngest[sha256] = min(generation.age, youngest.get(sha256, generation.age))
        return frozenset(sha256 for sha256, age in youngest.items() if age > seconds)

    def remove(self, sha256: str, older_than: float) -> None:
        """Implement `Artifacts.remove`.

        A concurrent `put` finds the file old, and makes a generation of its own.
        """
        for generation in self._generations(sha256):
            if generation.age > older_than:
                self._call("delete_object", Key=generation.key)

    def clear_remains(self, older_than: float) -> None:
        """Implement `Artifacts.clear_remains`: unfinished multipart uploads are invisible, but cost storage."""
        answer = self._call("list_multipart_uploads", Prefix=self._prefix)
        now = _date(answer)
        for upload in answer.get("Uploads", ()):
            if now - upload["Initiated"].timestamp() > max(older_than, _LONGEST_SEND_SECONDS):
                self._abort(upload["Key"], upload["UploadId"])

    # ---- generations -------------------------------------------------------------------------------------

    def _renew(self, sha256: str) -> bool:
        """Renew the age of a stored file without sending it again. Return False if there is none."""
        known = self._generations(sha256)
        if not known or known[0].age < _YOUNG_SECONDS:
            return bool(known)
        try:
            self._copy(known[0].key, self._new_key(sha256))
        except FileNotFoundError:  # removed just now
            return False
        for generation in known:  # safe: the new generation exists, and will for long
            self._call("delete_object", Key=generation.key)
        return True

    def _generations(self, sha256: str) -> list[_Generation]:
        """Return the generations of a file, youngest first."""
        return sorted(self._list(f"{self._prefix}{sha256}/"), key=lambda generation: generation.age)

    def _newest(self, sha256: str) -> _Generation:
        try:
            return self._generations(sha256)[0]
        except IndexError:
            raise ContentGone(sha256) from None

    def _new_key(self, sha256: str) -> str:
        return f"{self._prefix}{sha256}/{uuid.uuid4().hex}"

    def _list(self, prefix: str) -> Iterator[_Generation]:
        """Yield every object below a prefix, page by page."""
        page: dict[str, str] = {}
        while True:
            answer = self._call("list_objects_v2", Prefix=prefix, **page)
            now = _date(answer)
            for each in answer.get("Contents", ()):
                yield _Generation(each["Key"], each["Size"], now - each["LastModified"].timestamp())
            if not answer.get("IsTruncated"):
                return
            page = {"ContinuationToken": answer["NextContinuationToken"]}

    # ---- sending -----------------------------------------------------------------------------------------

    def _send(self, key: str, source: BinaryIO, blob: Blob) -> None:
        """Upload a file as one object, atomically. S3 verifies a checksum that is sent with each part.

        Raises:
            WrongContent: the file was changed since it was measured.
        """
        if blob.size <= self._part_bytes:
            content = source.read()
            check(key, blob.sha256, measure([content]))
            self._call("put_object", Key=key, Body=content)
        else:
            self._send_in_parts(key, source, blob)
        self._must_be_whole(key, blob)

    def _send_in_parts(self, key: str, source: BinaryIO, blob: Blob) -> None:
        upload = self._call("create_multipart_upload", Key=key)["UploadId"]
        parts: list[dict[str, Any]] = []
        try:
            check(key, blob.sha256, measure(self._sent(key, upload, source, parts)))
            self._call(
                "complete_multipart_upload", Key=key, UploadId=upload, MultipartUpload={"Parts": parts}
            )
        except BaseException:
            with suppress(JobsError, FileNotFoundError):  # otherwise it is removed with all other remains
                self._abort(key, upload)
            raise

    def _sent(self, key: str, upload: str, source: BinaryIO, parts: list[dict[str, Any]]) -> Iterator[bytes]:
        while part := source.read(self._part_bytes):
            number = len(parts) + 1
            answer = self._call("upload_part", Key=key, UploadId=upload, PartNumber=number, Body=part)
            parts.append({"PartNumber": number, "ETag": answer["ETag"]})
            yield part

    def _must_be_whole(self, key: str, blob: Blob) -> None:
        kept = [generation.size for generation in self._list(key)]
        if kept != [blob.size]:
            self._call("delete_object", Key=key)
            seen = f"{kept[0]} bytes" if kept else "nothing"
            raise ArtifactsUnavailable(self.place, OSError(f"it kept {seen} of {blob.size} bytes"))

    def _abort(self, key: str, upload: str) -> None:
        with suppress(FileNotFoundError):  # another process was faster
            self._call("abort_multipart_upload", Key=key, UploadId=upload)

    # ---- requests ----------------------------------------------------------------------------------------

    def _call(self, method: str, **arguments: Any) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = self._fs.call_s3(method, Bucket=self._bucket, **arguments)
        except (OSError, BotoCoreError) as error:
            raise self._translate(error) from error
        return answer

    def _get(self, key: str, start: int, stop: int) -> bytes:
        try:
            content: bytes = self._fs.cat_file(f"{self._bucket}/{key}", start=start, end=stop)
        except (OSError, BotoCoreError) as error:
            raise self._translate(error) from error
        return content

    def _copy(self, key: str, other: str) -> None:
        try:
            self._fs.cp_file(f"{self._bucket}/{key}", f"{self._bucket}/{other}")
        except (OSError, BotoCoreError) as error:
            raise self._translate(error) from error

    def _translate(self, error: Exception) -> Exception:
        """Translate an error of the library; FileNotFoundError and FileExistsError are about an object."""
        if isinstance(error, NoCredentialsError | PartialCredentialsError):
            return ArtifactsRefused("there are no credentials for S3", _CREDENTIALS)
        code, status, words = _error_details(error)
        if code == "NoSuchBucket":
            hint = "Make it, or mend GKD_ARTIFACTS_URL, or AWS_ENDPOINT_URL_S3 if it lies on another server."
            return ArtifactsRefused(f"S3 knows no bucket {self._bucket!r}", hint)
        if isinstance(error, FileNotFoundError | FileExistsError):
            return error
        if isinstance(error, PermissionError):
            return ArtifactsRefused(f"S3 lets nobody in with these credentials ({code})", _CREDENTIALS)
        if 300 <= status < 500 and status not in _BUSY:
            hint = f"It says: {words} Look at GKD_ARTIFACTS_URL and AWS_DEFAULT_REGION."
            return ArtifactsRefused(f"S3 refuses ({code})", hint)
        return ArtifactsUnavailable(self.place, error)


_CREDENTIALS = (
    "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; their owner must list, read, write and delete there."
)


def _has_hash(copy: Path, sha256: str, cancelled: threading.Event) -> bool:
    """Return whether there is a copy with the right hash; a damaged one will be replaced."""
    try:
        with copy.open("rb") as source:
            return measure(cancellable(cancelled, blocks(source))).sha256 == sha256
    except FileNotFoundError:
        return False


def _error_details(error: Exception) -> tuple[str, int, str]:
    """Return the server's error code, HTTP status (0: no response) and message."""
    response = getattr(error.__cause__, "response", None) or {}
    said = response.get("Error", {})
    status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    return str(said.get("Code", "")), status, str(said.get("Message", ""))


def _date(answer: dict[str, Any]) -> float:
    """Return when the server answered, in Unix seconds by the clock that dates the objects."""
    date = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
    return parsedate_to_datetime(date).timestamp() if date else time.time()
