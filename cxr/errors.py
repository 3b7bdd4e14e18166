"""Limits on the files that are accepted, and the errors that name them."""

from __future__ import annotations

MAX_BYTES = 64 * 2**20
MAX_PIXELS = 50_000_000
MIN_SIDE = 128
MAX_ASPECT = 4.0

ACCEPTED = (
    f"a chest film as DICOM radiograph, JPEG, PNG, BMP, TIFF or WebP of {MIN_SIDE} px or more a side, "
    f"up to {MAX_PIXELS // 1_000_000} megapixels and {MAX_BYTES // 2**20} MB"
)


class InvalidImageError(ValueError):
    """The image cannot be scored; the message says what was received and what is accepted.

    Attributes:
        received: what was received.
        is_temporary: whether the machine is the reason, and not the file.
    """

    def __init__(self, received: str, is_temporary: bool = False) -> None:
        super().__init__(f"Received {received}; accepted is {ACCEPTED}.")
        self.received = received
        self.is_temporary = is_temporary


class InvalidModelError(ValueError):
    """The model or its card cannot be used; the message says what was received and what is accepted."""
