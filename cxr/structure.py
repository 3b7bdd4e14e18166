"""Cheap limits on how an encoded picture is built, checked before a decoder sees it."""

from __future__ import annotations

from cxr.errors import InvalidImageError

MAX_SCANS = 100  # of a JPEG; each is a pass over all pixels
JPEG_SCAN = b"\xff\xda"


def check_scans(data: bytes, parts: int = 0) -> None:
    """Raise ``InvalidImageError`` for a JPEG of so many scans that a small one would decode for hours."""
    scans = data.count(JPEG_SCAN)
    if scans > MAX_SCANS + parts:  # a strip or tile of a TIFF has scans of its own
        raise InvalidImageError(f"a JPEG of {scans} scans, where a progressive one has about ten")
