"""Small charts in HTML: they load nothing, as a chart library would, and need no browser to be tested.

Each returns HTML for ``st.html``, from numbers and from the page's own words, never from a visitor's.
"""

from __future__ import annotations

import base64
import html
import statistics
from collections.abc import Mapping, Sequence

GRAY, ACCENT, THRESHOLD = "#7a8a99", "#0f7b8a", "#d9722e"
ROC_START = 0.6  # where sensitivity and specificity begin in the picture

Point = tuple[float, float]  # sensitivity, specificity


def draw_probability(
    probability: float, threshold: float, uncertain: tuple[float, float], text: str
) -> str:
    """A bar from 0 to 1 with the probability, the threshold and the uncertain band."""
    low, high = uncertain
    return _picture(
        text,
        34,
        _box(low, high - low, 0, 34, GRAY, 0.3)
        + _box(0.0, 1.0, 10, 14, GRAY, 0.25)
        + _box(0.0, probability, 10, 14, ACCENT)
        + f'<div style="position:absolute;left:calc({threshold:.2%} - 1.5px);width:3px;height:100%;'
        f'background:{THRESHOLD}"></div>',
    ) + _axis(["0", "0.5", "1"], "probability, the threshold, and the uncertain band (gray)")


def draw_stages(stages_ms: Mapping[str, float], colors: Sequence[str], text: str) -> str:
    """One bar of stages, one after the other, with their names below."""
    total = max(sum(stages_ms.values()), 1e-9)
    parts, start = "", 0.0
    for milliseconds, color in zip(stages_ms.values(), colors, strict=False):
        parts += _box(start, milliseconds / total, 0, 14, color)
        start += milliseconds / total
    return _picture(text, 14, parts) + _legend(stages_ms, colors)


def draw_runs(rows: Mapping[str, Sequence[float]], text: str) -> str:
    """A bar for each name up to the median, with a mark for each run, on a common axis from 0, ms."""
    longest = max(max(values) for values in rows.values())
    drawn = ""
    for name, values in rows.items():
        median = statistics.median(values)
        marks = _box(0.0, 0.99 * median / longest, 0, 22, ACCENT, 0.45) + "".join(
            f'<div style="position:absolute;left:{0.99 * value / longest:.2%};width:2px;height:100%;'
            f'background:{ACCENT};opacity:.6"></div>'
            for value in values
        )
        drawn += (
            f'<div style="display:flex;gap:.5rem;margin-bottom:6px;font-size:.8rem"><span '
            f'style="width:4rem">{html.escape(name)}</span><div style="position:relative;flex:1;'
            f'height:22px;background:{GRAY}33">{marks}</div><span style="width:4rem">{median:.1f} ms'
            "</span></div>"
        )
    medians = "; ".join(f"{name}, median {statistics.median(rows[name]):.1f} ms" for name in rows)
    picture = f'<div role="img" aria-label="{html.escape(f"{text}: {medians}")}">{drawn}</div>'
    return f'{picture}<div style="padding:0 4.5rem">{_axis(["0", f"{longest:.1f} ms"], "")}</div>'


def draw_roc(curves: Mapping[str, Sequence[Point]], chosen: Mapping[str, Point], text: str) -> str:
    """ROC curves where sensitivity and specificity are above ``ROC_START``, and a point on each."""

    def place(point: Point) -> Point:
        sensitivity, specificity = (max(value, ROC_START) for value in point)
        span = 1.0 - ROC_START
        return 200 * (1.0 - specificity) / span, 100 * (1.0 - sensitivity) / span

    drawn, colors = "", (ACCENT, GRAY)
    for i in range(5):
        drawn += f'<path d="M0 {25 * i}H200M{50 * i} 0V100" stroke="{GRAY}" stroke-width=".3"/>'
    for (name, points), color in zip(curves.items(), colors, strict=False):
        line = " ".join("{:.2f},{:.2f}".format(*place(point)) for point in points)
        drawn += f'<polyline points="{line}" fill="none" stroke="{color}" stroke-width="1.2"/>'
        x, y = place(chosen[name])
        drawn += f'<circle cx="{x:.2f}" cy="{y:.2f}" r="2.6" fill="{color}"/>'
    ticks = [f"{1.0 - 0.1 * i:.1f}" for i in range(5)]
    side = "".join(f"<span>{tick}</span>" for tick in ticks)
    return (
        f'<div style="display:flex;gap:.4rem;font-size:.8rem"><div style="display:flex;'
        f'flex-direction:column;justify-content:space-between">{side}</div><img '
        f'alt="{html.escape(text)}" src="{to_svg_url(drawn)}" style="flex:1;min-width:0">'
        f'</div><div style="padding-left:1.6rem">'
        f"{_axis(ticks, 'specificity, from left to right; sensitivity, upwards')}"
        f"{_legend(curves, colors)}</div>"
    )


def to_svg_url(drawn: str) -> str:
    """Shapes of SVG as an address that contains them: ``st.html`` removes SVG elements."""
    picture = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-3 -3 206 106">{drawn}</svg>'
    return "data:image/svg+xml;base64," + base64.b64encode(picture.encode()).decode("ascii")


def _box(start: float, width: float, top: int, height: int, color: str, opacity: float = 1.0) -> str:
    return (
        f'<div style="position:absolute;left:{start:.2%};width:{width:.2%};top:{top}px;height:{height}px;'
        f'background:{color};opacity:{opacity}"></div>'
    )


def _picture(text: str, height: int, parts: str) -> str:
    style = f"position:relative;height:{height}px"
    return f'<div role="img" aria-label="{html.escape(text)}" style="{style}">{parts}</div>'


def _axis(ticks: Sequence[str], title: str) -> str:
    labels = "".join(f"<span>{tick}</span>" for tick in ticks)
    return (
        '<div style="font-size:.8rem"><div style="display:flex;justify-content:space-between">'
        f"{labels}</div><div>{title}</div></div>"
    )


def _legend(names: Sequence[str] | Mapping[str, object], colors: Sequence[str]) -> str:
    entries = "".join(
        f'<span><span style="display:inline-block;width:.7em;height:.7em;background:{color}"></span> '
        f"{html.escape(name)}</span>"
        for name, color in zip(names, colors, strict=False)
    )
    return f'<div style="display:flex;flex-wrap:wrap;gap:0 .8rem;font-size:.8rem">{entries}</div>'
