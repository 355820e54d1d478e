"""Divides the pictures of one split into two: a training split and a validation split.

Which pictures are set aside depends on their names and a seed alone: not on their order in the file, on where the data
set lies, or on how many of them can be decoded. So every reading of the data set gives the same split.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from gkd_core.data.findings import Findings
from gkd_core.data.records import WrittenSplit
from gkd_core.errors import Problem


def divide(
    whole: WrittenSplit, share: float, seed: int, findings: Findings
) -> tuple[WrittenSplit, WrittenSplit, Problem]:
    """Return the training split, the validation split, and a remark that says so.

    Args:
        whole: the only split.
        share: of its pictures to set aside, above 0 and below 1; at least one, and never all.
        seed: of the random choice.
        findings: of the whole split, for its name.

    Raises:
        DataError: there is one picture only.
    """
    names = {image.path: _name(image.path, whole.folder) for image in whole.images}
    drawn = sorted(set(names.values()), key=lambda name: hashlib.sha256(b"%d\0%s" % (seed, name)).digest())
    if len(drawn) < 2:
        raise findings.error("one picture cannot be divided into train and val", "Add pictures.")
    aside = set(drawn[: min(max(1, round(share * len(drawn))), len(drawn) - 1)])
    train, val = (
        whole._replace(images=[image for image in whole.images if (names[image.path] in aside) == wanted])
        for wanted in (False, True)
    )
    return train, val, _remark(len(val.images), len(whole.images), share, seed, findings)


def _name(path: Path, folder: Path) -> bytes:
    """Return the picture's path below the folder, the same on every system."""
    return os.path.relpath(path, folder).replace(os.sep, "/").encode(errors="surrogatepass")


def _remark(count: int, total: int, share: float, seed: int, findings: Findings) -> Problem:
    message = (
        f"val is {count} of the {total} pictures of {findings.source}, set aside by `val_share` "
        f"{share:g} (seed {seed})"
    )
    hint = "Pictures that look alike, such as frames of one video, may be in both; a split of your own avoids that."
    return Problem(loc=("data", "val_share"), message=message, hint=hint)
