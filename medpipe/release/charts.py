"""Small charts as inline SVG: strings in, strings out, no script, and nothing said by colour alone.

Synthetic is a filled shape, real is a line or an open shape; what may not be published is hatched. Colours are the
page's CSS variables, so that one chart serves light, dark and paper.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any


def number(value: Any, digits: int = 3) -> str:
    """Write a number for a person: a few significant digits, thousands apart, a dash for none."""
    if not _finite(value):
        return "–"
    if isinstance(value, int) or float(value).is_integer():
        return f"{int(value):,}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.{digits}g}" if abs(value) >= 1e-4 else f"{value:.1e}"


def gauge(verdict: Mapping[str, Any], width: int = 250, height: int = 46) -> str:
    """Draw one verdict: the allowed side shaded up to the bound, the interval, the value (dot) and real data (diamond)."""
    value, bound, real = verdict["value"], verdict["bound"], verdict["baseline"]
    said = (
        f"{number(value)}, interval {number(verdict['low'])} to {number(verdict['high'])}, "
        f"{verdict['direction']} {number(bound)}, real data {number(real)}"
    )
    if not (_finite(value) and _finite(bound)):
        return f'<svg class="gauge" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(said)}"></svg>'
    core = [item for item in (value, bound, real) if _finite(item)]
    reach = max(max(core) - min(core), 0.15 * max(abs(item) for item in core), 1e-9)
    ends = [min(max(item, min(core) - reach), max(core) + reach) for item in (verdict["low"], verdict["high"]) if _finite(item)]
    low, high = min(core + ends), max(core + ends)
    pad = 0.12 * max(high - low, reach)
    x = _scale(low - pad, high + pad, 4, width - 4)
    y, at = 18, x(bound)
    start, end = (4.0, at) if verdict["direction"] == "at most" else (at, width - 4.0)
    state = "pass" if verdict["passed"] else "fail"
    parts = [
        f'<rect class="track" x="4" y="{y - 8}" width="{width - 8}" height="16" rx="3"/>',
        f'<rect class="allowed" x="{start:.1f}" y="{y - 8}" width="{max(0.0, end - start):.1f}" height="16" rx="3"/>',
        f'<line class="bound" x1="{at:.1f}" x2="{at:.1f}" y1="{y - 13}" y2="{y + 13}"/>',
        f'<text x="{min(max(at, 34), width - 34):.1f}" y="{height - 2}" text-anchor="middle">bound {number(bound)}</text>',
    ]
    if len(ends) == 2:
        parts.append(f'<line class="interval" x1="{x(ends[0]):.1f}" x2="{x(ends[1]):.1f}" y1="{y}" y2="{y}"/>')
    parts.append(f'<circle class="value {state}" cx="{x(value):.1f}" cy="{y}" r="5"/>')
    if _finite(real):  # over the dot and hollow: where the two meet, both are seen
        at = x(real)
        parts.append(f'<path class="real" d="M{at:.1f} {y - 8} L{at + 8:.1f} {y} L{at:.1f} {y + 8} L{at - 8:.1f} {y} Z"/>')
    return f'<svg class="gauge" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(said)}">{"".join(parts)}</svg>'


def distribution(name: str, entry: Mapping[str, Any], small_cell: int, width: int = 340, height: int = 190) -> str:
    """Draw synthetic (filled) against real (line) shares per bin or value; suppressed real cells are hatched."""
    real, synthetic, edges = list(entry["real"]), list(entry["synthetic"]), list(entry["edges"])
    bins = len(synthetic)
    totals = [sum(item for item in side if _finite(item)) or 1 for side in (real, synthetic)]
    cell = min(1.0, small_cell / max(totals[0], small_cell))
    shares = [[item / total if _finite(item) else None for item in side] for side, total in zip((real, synthetic), totals, strict=True)]
    top = max([share for side in shares for share in side if share is not None] + [cell if None in shares[0] else 0.0, 1e-9])
    left, right, ceiling, floor = 36, width - 6, 10, height - 34
    y = _scale(0, top, floor, ceiling)
    step = (right - left) / max(bins, 1)
    numeric = len(edges) == bins + 1
    gap = 0.5 if numeric else step * 0.12
    parts = [_axis(left, right, floor)]
    for share in (top / 2, top):
        parts.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{y(share):.1f}" y2="{y(share):.1f}"/>')
        parts.append(f'<text x="{left - 4}" y="{y(share) + 4:.1f}" text-anchor="end">{100 * share:.2g} %</text>')
    for i, share in enumerate(shares[1]):
        if share:
            parts.append(_bar("synthetic", left + i * step + gap, step - 2 * gap, y(share), floor))
    parts += [_bar("hidden", left + i * step + gap, step - 2 * gap, y(cell), floor) for i, share in enumerate(shares[0]) if share is None]
    parts.append(_steps(shares[0], left, step, gap, y, numeric))
    if numeric:
        places = sorted({0, bins // 2, bins})
        anchors = {0: "start", bins: "end"}
        parts += [_label(left + i * step, height - 18, number(edges[i]), anchors.get(i, "middle")) for i in places]
    else:
        parts += [_label(left + (i + 0.5) * step, height - 18, _short(str(edge), step), "middle") for i, edge in enumerate(edges[:bins])]
    said = f"{name}: shares in each of {bins} {'bins' if numeric else 'values'}, synthetic and real; the figures are in the table below"
    return f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(said)}">{"".join(parts)}</svg>'


def curve(images: Sequence[float], series: Mapping[str, Sequence[float]], width: int = 680, height: int = 230) -> str:
    """Draw losses over images trained, on a logarithmic scale where they span more than tenfold."""
    points = {name: [(x, y) for x, y in zip(images, values, strict=True) if _finite(x) and _finite(y)] for name, values in series.items()}
    values = [y for line in points.values() for _, y in line]
    if not values:
        return ""
    logarithmic = min(values) > 0 and max(values) > 10 * min(values)
    shown = math.log10 if logarithmic else float
    left, right, ceiling, floor = 48, width - 10, 12, height - 34
    low, high = shown(min(values)), shown(max(values))
    last = max(x for line in points.values() for x, _ in line)
    x_of = _scale(0, max(last, 1), left, right)
    y_of = _scale(low - 0.05 * (high - low or 1), high + 0.05 * (high - low or 1), floor, ceiling)
    parts = [_axis(left, right, floor)]
    for part in (0.0, 0.5, 1.0):
        level = low + part * (high - low)
        said = number(10**level if logarithmic else level)
        parts.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{y_of(level):.1f}" y2="{y_of(level):.1f}"/>')
        parts.append(_label(left - 5, y_of(level) + 4, said, "end"))
        parts.append(_label(x_of(part * last), height - 18, number(round(part * last)), "middle" if part < 1 else "end"))
    for name, line in points.items():
        thin = line[:: max(1, len(line) // 400)]
        path = " ".join(f"{x_of(x):.1f},{y_of(shown(y)):.1f}" for x, y in thin)
        parts.append(f'<polyline class="curve {escape(name)}" points="{path}"/>')
    said = "Training curve: " + ", ".join(f"{name} ends at {number(line[-1][1])}" for name, line in points.items() if line)
    return f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(said)}">{"".join(parts)}</svg>'


def lines(x: Sequence[float], series: Mapping[str, Sequence[float]], x_name: str, y_name: str, width: int = 680, height: int = 240) -> str:
    """Draw one line per series over `x` on a logarithmic scale, each told apart by its mark and named at its end."""
    found = {
        name: [(a, b) for a, b in zip(x, values, strict=True) if _finite(a) and _finite(b) and a > 0] for name, values in series.items()
    }
    points = [point for line in found.values() for point in line]
    if not points:
        return ""
    lowest, highest = (choose(b for _, b in points) for choose in (min, max))
    pad = 0.08 * (highest - lowest or abs(highest) or 1)
    left, right, ceiling, floor = 48, width - 120, 12, height - 34
    x_of = _scale(math.log(min(a for a, _ in points)), math.log(max(a for a, _ in points)), left + 8, right - 8)
    y_of = _scale(lowest - pad, highest + pad, floor, ceiling)
    parts = [_axis(left, right, floor), _label(left - 5, ceiling, y_name, "end"), _label((left + right) / 2, height - 2, x_name, "middle")]
    for level in (lowest, highest):
        parts.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{y_of(level):.1f}" y2="{y_of(level):.1f}"/>')
        parts.append(_label(left - 5, y_of(level) + 4, number(level), "end"))
    parts += [_label(x_of(math.log(a)), height - 18, number(a), "middle") for a in sorted({a for a, _ in points})]
    ends = sorted((y_of(line[-1][1]), name) for name, line in found.items() if line)
    places = {name: max(end, ends[0][0] + 14 * place) for place, (end, name) in enumerate(ends)}
    for place, (name, line) in enumerate(found.items()):
        at = [(x_of(math.log(a)), y_of(b)) for a, b in line]
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in at)
        parts.append(f'<polyline class="curve series-{place % 3}" points="{path}"/>')
        parts += [_mark(place, a, b) for a, b in at]
        parts += [_mark(place, right + 8, places[name] - 3), _label(right + 18, places[name] + 1, name, "start")] if line else []
    said = f"{y_name} over {x_name}: " + ", ".join(f"{name} ends at {number(line[-1][1])}" for name, line in found.items() if line)
    return f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(said)}">{"".join(parts)}</svg>'


def _mark(place: int, x: float, y: float) -> str:
    """Draw the mark of the series at `place`: a hollow diamond (real), a dot, a square."""
    match place % 3:
        case 0:
            return f'<path class="real" d="M{x:.1f} {y - 5:.1f} L{x + 5:.1f} {y:.1f} L{x:.1f} {y + 5:.1f} L{x - 5:.1f} {y:.1f} Z"/>'
        case 1:
            return f'<circle class="value pass" cx="{x:.1f}" cy="{y:.1f}" r="4"/>'
        case _:
            return f'<rect class="synthetic" x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8"/>'


def _steps(shares: Sequence[float | None], left: float, step: float, gap: float, y: Any, joined: bool) -> str:
    """Draw real shares as one stepped line (bins) or as a cap per value; suppressed cells interrupt it."""
    path, down = [], True
    for i, share in enumerate(shares):
        if share is None:
            down = True
            continue
        start, end = left + i * step + (0 if joined else gap), left + (i + 1) * step - (0 if joined else gap)
        path.append(f"{'M' if down or not joined else 'L'}{start:.1f} {y(share):.1f} L{end:.1f} {y(share):.1f}")
        down = False
    return f'<path class="outline" d="{" ".join(path)}"/>'


def _scale(low: float, high: float, start: float, end: float) -> Any:
    span = (high - low) or 1.0
    return lambda value: start + (value - low) / span * (end - start)


def _bar(kind: str, x: float, width: float, top: float, floor: float) -> str:
    return f'<rect class="{kind}" x="{x:.1f}" y="{top:.1f}" width="{max(width, 0.5):.1f}" height="{max(floor - top, 0):.1f}"/>'


def _axis(left: float, right: float, floor: float) -> str:
    return f'<line class="axis" x1="{left}" x2="{right}" y1="{floor}" y2="{floor}"/>'


def _label(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _short(text: str, room: float) -> str:
    """Cut a value's name to what fits under its bar; the table below has it whole."""
    letters = max(3, int(room / 6.2))
    return text if len(text) <= letters else text[: letters - 1] + "…"


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
