"""Thumbnails that are buttons."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import streamlit as st

FOLDER = Path(__file__).resolve().parent

_gallery = st.components.v2.component(
    "gallery",
    html='<div class="gallery" role="group"></div>',
    css=(FOLDER / "gallery.css").read_text(),
    js=(FOLDER / "gallery.js").read_text(),
)


@dataclasses.dataclass(frozen=True)
class Tile:
    """One thumbnail.

    Attributes:
        key: what ``pick`` is called with.
        title: the first line below the image.
        note: the second line.
        image: a data URL, or None.
        chosen: whether it is marked.
    """

    key: str
    title: str
    note: str
    image: str | None
    chosen: bool


def show(
    key: str,
    title: str,
    tiles: Sequence[Tile],
    side_px: int,
    pick: Callable[[str], None],
    height_px: int | None = None,
) -> None:
    """Show thumbnails, and call ``pick`` with the key of the one that is clicked, before the next run.

    Args:
        key: of the widget.
        title: what the thumbnails are, for screen readers.
        tiles: the thumbnails, in their order.
        side_px: side of a thumbnail.
        pick: the callback.
        height_px: of one row, which has this height from the start and can be scrolled; otherwise there
            are as many rows as are needed.
    """
    known = {tile.key for tile in tiles}

    def take() -> None:
        picked = st.session_state[key].get("picked")
        if picked in known:  # the browser may send anything
            pick(picked)

    data = {
        "title": title,
        "side_px": side_px,
        "in_row": height_px is not None,
        "tiles": [dataclasses.asdict(tile) for tile in tiles],
    }
    _gallery(key=key, data=data, on_picked_change=take, height=height_px or "content")
