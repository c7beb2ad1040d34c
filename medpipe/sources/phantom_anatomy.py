"""A chest seen by X-rays from the front: how much the beam meets at each point of the image, from a few hundred curves.

Coordinates: y runs down from 0 to 1 over the image's height, x from the body's midline in the same unit; the patient's
right lies at negative x, as a radiograph is read. Thicknesses are relative: 1 is about a trunk of water. All arrays are
float32 (H, W). A chord sqrt(1 - d²) is the path of a ray through a round thing. Curves over one variable are tabled:
a look-up is many times faster than a power or a sine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from medpipe.sources.phantom_truth import Body, ImagePlan, Lesion

Field = NDArray[np.float32]
F = np.float32
SIDE = 272
"""Side of the square frame in which a body is drawn upright, before it is turned and placed on the detector."""
SPAN = 1.12
"""Extent of that frame in image heights: some more than the detector sees."""
STEPS = 1024
ACROSS = np.linspace(0, 2, STEPS)
Y = (((np.arange(SIDE) + 0.5) / SIDE - 0.5) * SPAN + 0.5).reshape(-1, 1)
X = (((np.arange(SIDE) + 0.5) / SIDE - 0.5) * SPAN).reshape(1, -1)
y = Y.astype(F)  # (H, 1)
x = X.astype(F)  # (1, W)
side = np.abs(x)
left = x > 0
"""The patient's left half."""


@dataclass(frozen=True)
class Chest:
    """The frame of one image, in which everything else is placed; all (H, W)."""

    across: Field
    """|x| against the rib cage's half-width at that height: 1 at the chest wall."""
    reach: NDArray[np.int32]
    """Place of `across` in ACROSS."""
    diaphragm: Field
    """How far below the diaphragm, in image heights (negative above it)."""
    depth: Field
    """Thickness of the trunk, front to back."""
    lung: Field
    """Air on the ray, 0 to 1."""

    def outwards(self, curve: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> Field:
        """Curve over `across`."""
        return curve(ACROSS).astype(F).take(self.reach)


def down(heights: list[float], values: list[float], soft: int = 1) -> Field:
    """Curve over y through the points given, its corners rounded over `soft` rows; (H, 1)."""
    curve = np.interp(Y[:, 0], heights, values)
    if soft > 1:
        window = np.hanning(soft + 2)[1:-1]
        curve = np.convolve(np.pad(curve, soft // 2, mode="edge"), window / window.sum(), mode="valid")[:SIDE]
    return curve.astype(F).reshape(-1, 1)


def smooth(value: Field, width: float) -> Field:
    """Step from 0 to 1 around 0 that is about `width` wide."""
    return np.asarray(np.clip(value * F(0.5 / width) + F(0.5), F(0), F(1)), F)


def chord(squared: Field) -> Field:
    """Path through a round thing at squared distance `squared` (1 at its rim)."""
    return np.asarray(np.sqrt(np.maximum(F(1) - squared, F(0))), F)


def ellipse(x: Field, y: Field, at: tuple[float, float], radii: tuple[float, float], turn: float = 0.0) -> Field:
    """Squared distance from the centre of an ellipse, 1 at its rim."""
    c, s = np.cos(turn), np.sin(turn)
    dx, dy = x - F(at[0]), y - F(at[1])
    return np.square(dx * F(c / radii[0]) + dy * F(s / radii[0])) + np.square(dy * F(c / radii[1]) - dx * F(s / radii[1]))


def cage(body: Body, y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Half-width of the rib cage at height y."""
    rise = np.clip((y - body.apex) / (0.70 - body.apex), 0, 1)
    return np.asarray(body.width * (1 - (1 - rise) ** 2.4) ** (1 / 2.2))


def chest(image: ImagePlan) -> Chest:
    """Lay out trunk, rib cage, diaphragm and lungs for one image."""
    body, pose = image.body, image.pose
    across = side * (1 / (cage(body, Y) + 1e-3)).astype(F)
    reach = np.minimum(across * F(STEPS / 2), F(STEPS - 1)).astype(np.int32)
    none = np.zeros((1, 1), F)
    at = Chest(across, reach, none, none, none)
    dome = at.outwards(
        lambda u: 0.30 * np.clip(u - 0.42, 0, 0.7) ** 2 + 1.3 * np.clip(u - 0.42, 0, 0.7) ** 5 + 0.16 * np.clip(0.42 - u, 0, 1) ** 2
    )
    dome += F(body.base - pose.breath) - F(0.024) * ~left
    flank = body.width * 1.07 + body.fat
    trunk = down(
        [-0.25, 0.0, 0.04, 0.08, 0.12, 0.20, 0.32, 0.44, 0.6, 1.25],
        [0.14, 0.115, 0.125, 0.18 + body.fat, 0.34 + body.fat, 0.58, 0.57, flank + 0.03, flank, flank + 0.02],
        soft=9,
    )
    away = np.minimum(side * (F(STEPS / 2) / trunk), F(STEPS - 1)).astype(np.int32)
    depth = (np.clip(1 - ACROSS**2.6, 0, 1) ** 0.5).astype(F).take(away) * down([-0.25, 0.02, 0.2, 0.5, 0.9], [0.62, 0.66, 0.86, 1.0, 1.08])
    lung = at.outwards(lambda u: np.clip(1 - u**2.2, 0, 1) ** 0.42)
    lung *= smooth(dome - y, 0.006)
    lung *= smooth(np.abs(x - F(pose.rotation)) - F(0.035), 0.02)
    return Chest(across, reach, y - dome, depth, lung)


def bones(image: ImagePlan, at: Chest, rng: np.random.Generator) -> Field:
    """Ribs behind and in front, clavicles, shoulder joints and blades, spine."""
    body, turn = image.body, image.pose.rotation
    slope = body.rib_slope / body.rib_spacing
    level = (y - F(body.apex - 0.030)) * F(1 / body.rib_spacing)
    # Behind: from the spine slightly up, then down towards the side. In front: steeply down towards the breastbone.
    behind = level + at.outwards(lambda u: 0.5 * np.sin(2.6 * u) - slope * u**3)
    front = level - at.outwards(lambda u: slope + 2.0 * np.clip(1 - u, 0, 1) ** 1.2)
    out = _tubes(behind, 0.19, 11, rng) * at.outwards(lambda u: (0.8 + 0.7 * u**6) * np.clip((1.02 - u) / 0.04 + 0.5, 0, 1))
    out *= smooth(side - F(0.05), 0.03)
    out += _tubes(front, 0.23, 8, rng) * at.outwards(
        lambda u: 0.5 * np.clip((1.02 - u) / 0.04 + 0.5, 0, 1) * np.clip((u - 0.46) / 0.2 + 0.5, 0, 1)
    )
    top = slice(_row(body.apex - 0.10), _row(body.apex + 0.22))
    out[top] += F(1.9) * _clavicles(body, turn, y[top], rng)
    joint = body.width + 0.075
    head = chord(ellipse(side, y[top], (joint, body.apex + 0.085), (0.05, 0.052)))
    shaft = smooth(F(0.026) - np.abs(side - F(joint + 0.015) - F(0.12) * (y - F(body.apex + 0.1))), 0.006) * smooth(
        y - F(body.apex + 0.1), 0.02
    )
    out[top] += F(0.9) * head
    out += F(0.7) * shaft
    near = 0.83 if image.pose.mobile else 0.99  # at the bedside the arms hang, and the shoulder blades lie over the lungs
    edge = side - F(body.width * near) - F(1.4) * np.square(y - F(body.apex + 0.20))
    out += F(0.42) * smooth(edge, 0.005) * down([0.10, 0.17, 0.38, 0.46], [0, 1, 0.8, 0]) * smooth(F(body.width + 0.06) - side, 0.03)
    middle = np.abs(x - down(list(Y[:, 0]), list(body.curve * np.sin(4.5 * Y[:, 0]) + 0.3 * turn)))
    disc = down(list(Y[:, 0]), list(0.6 + 0.5 * np.clip((np.abs((Y[:, 0] * 19 + rng.random()) % 1 - 0.5) - 0.10) / 0.1, 0, 1)))
    out += F(0.45) * smooth(F(0.040) - middle, 0.008) * disc * (F(0.8) + F(0.35) * smooth(middle - F(0.027), 0.006))
    return out * F(body.bone)


def _row(y: float) -> int:
    return int(np.clip(((y - 0.5) / SPAN + 0.5) * SIDE, 0, SIDE))


def _clavicles(body: Body, turn: float, y: Field, rng: np.random.Generator) -> Field:
    reach = np.clip((side - F(0.025)) * F(1 / 0.40), 0, 1)
    wave = np.sin(F(6.283) * reach) * F(0.022)
    out = np.zeros((len(y), SIDE), F)
    for half, sign in ((~left, -1.0), (left, 1.0)):
        tilt = F(rng.normal(0.060, 0.018) + sign * turn)
        start = F(body.apex + rng.normal(0.080, 0.010))
        off = (y - start + tilt * reach - wave) / (F(0.0165) - F(0.005) * reach + F(0.004) * reach * reach)
        ends = half * smooth(side - F(0.025 + sign * turn), 0.008) * smooth(F(body.width + 0.04) - side, 0.015)
        out += (chord(np.square(off)) - F(0.45) * chord(np.square(off * F(1.35)))) * ends
    return out


def _tubes(level: Field, half: float, count: int, rng: np.random.Generator) -> Field:
    """Hollow tubes around the half-integers of `level`, the first `count` of them, each a little different."""
    per = 96
    steps = np.arange((count + 2) * per) / per
    away = np.abs(steps % 1 - 0.5) / half
    weight = np.pad(np.clip(rng.normal(1.0, 0.10, count), 0.65, 1.35), 1).repeat(per)
    full, hollow = np.clip(1 - away**2, 0, 1) ** 0.5, np.clip(1 - (1.25 * away) ** 2, 0, 1) ** 0.5
    table = ((1.3 * full - 0.62 * hollow) * weight).astype(F)
    return np.asarray(table.take(np.clip(level * F(per), F(0), F(len(table) - 1)).astype(np.int32)), F)


def soft(image: ImagePlan, at: Chest, rng: np.random.Generator) -> Field:
    """Heart, great vessels, windpipe, breasts, gas: what is added to (or taken from) the trunk."""
    body, age = image.body, image.age
    mid = x - F(image.pose.rotation)
    # The heart grows with age, is magnified at the bedside (AP), and is pushed up by a high diaphragm.
    size = body.heart * (1 + 0.004 * (age - 50)) * (1.10 if image.pose.mobile else 1.0) * body.width / 0.385
    floor, top = body.base - image.pose.breath, body.apex
    knob, aorta = top + 0.185, 0.012 + 0.00055 * max(age - 30, 0)
    wide = 0.050 + 0.015 * rng.random()
    heights = [
        top - 0.1,
        top + 0.10,
        knob - 0.045,
        knob,
        knob + 0.05,
        knob + 0.10,
        floor - 0.24,
        floor - 0.14,
        floor - 0.05,
        floor + 0.02,
        floor + 0.12,
    ]
    to_left = [wide, wide, wide, wide + aorta, 0.046, 0.066, 0.085 * size, 0.150 * size, 0.200 * size, 0.205 * size, 0.12]
    to_right = [wide + 0.005, wide + 0.008, wide, 0.046, 0.048, 0.055, 0.068 * size, 0.088 * size, 0.086 * size, 0.07, 0.05]
    border_l, border_r = down(heights, to_left, soft=12), down(heights, to_right, soft=14)
    squared = np.square((mid - (border_l - border_r) * F(0.5)) * (F(2) / (border_l + border_r)))
    amount = down([top - 0.1, knob, floor - 0.2, floor, floor + 0.1], [0.26, 0.36, 0.52, 0.54, 0.3], soft=10)
    out = amount * np.minimum(chord(squared) * F(1.6), F(1) - F(0.12) * np.minimum(squared, F(1)))
    out = np.maximum(out, F(0.30) * smooth(at.diaphragm, 0.006))  # the belly is thicker than the chest
    thoracic = smooth(F(aorta * 0.5 + 0.014) - np.abs(mid - F(0.040)), 0.008)
    out += F(0.10) * thoracic * down([knob, knob + 0.04, floor, floor + 0.06], [0, 1, 1, 0])
    carina = top + 0.215
    pipe = chord(np.square(mid * F(1 / 0.019))) * down([carina - 0.01, carina + 0.02], [1, 0])
    fork = chord(np.square((np.abs(mid) - F(0.75) * (y - F(carina - 0.008))) * F(1 / 0.014)))
    out -= F(0.24) * np.maximum(pipe, fork * down([carina - 0.01, carina + 0.01, carina + 0.05, carina + 0.08], [0, 1, 1, 0]))
    if body.breast:
        r = 0.095 + 0.045 * body.breast
        for sign in (-1.0, 1.0):
            place = (sign * body.width * 0.58, floor - 0.075 + rng.normal(0, 0.010))
            out += F(0.30 * body.breast) * chord(ellipse(mid, y, place, (r, r * 0.95))) * down([place[1] - r, place[1] + 0.5 * r], [0.2, 1])
    for _ in range(int(rng.integers(0, 4))):  # gas in stomach and bowel
        place = (0.16 + rng.normal(0, 0.045), floor + 0.075 + abs(rng.normal(0, 0.03)))
        bubble = ellipse(mid, y, place, (0.02 + 0.03 * rng.random(), 0.015 + 0.016 * rng.random()), rng.normal(0, 0.4))
        out -= F(0.33) * chord(bubble) * smooth(at.diaphragm - F(0.012), 0.008)
    return np.asarray(out, F)


def vessels(image: ImagePlan, rng: np.random.Generator) -> Field:
    """Branching vessels from both hila, thinner outwards, and the hila themselves; 0 to about 1."""
    body, turn = image.body, image.pose.rotation
    canvas = Image.new("L", (SIDE, SIDE))
    draw = ImageDraw.Draw(canvas)
    roots, hilum = 7, body.apex + 0.27
    sign = np.repeat([-1.0, 1.0], roots)
    start = sign * 0.070 + turn + 1j * (hilum - 0.016 * (sign > 0) + rng.normal(0, 0.018, 2 * roots))  # x + iy
    angle = np.tile(np.linspace(-1.25, 1.5, roots), 2) + rng.normal(0, 0.12, 2 * roots)
    length = rng.uniform(0.055, 0.085, 2 * roots)
    for generation, (width, ink) in enumerate(((4, 220), (2, 200), (2, 125), (1, 140))):
        bent = angle + rng.normal(0, 0.20, len(start))
        middle = start + 0.5 * length * (sign * np.cos(angle) + 1j * np.sin(angle))
        end = middle + 0.5 * length * (sign * np.cos(bent) + 1j * np.sin(bent))
        line = np.stack([start, middle, end], -1)
        for points in (np.stack([line.real, line.imag - 0.5], -1) * (SIDE / SPAN) + SIDE / 2).reshape(-1, 6).tolist():
            draw.line(points, fill=ink, width=width)
        if generation < 3:
            angle = np.concatenate([bent - 0.36, bent + 0.34]) + rng.normal(0, 0.12, 2 * len(start))
            length = np.tile(length, 2) * rng.uniform(0.68, 0.9, 2 * len(start))
            start, sign = np.tile(end, 2), np.tile(sign, 2)
    branches = np.asarray(canvas.filter(ImageFilter.GaussianBlur(0.9)), F) * F(1 / 255)
    return branches + F(0.5) * chord(ellipse(np.abs(x - F(turn)), y, (0.068, hilum), (0.034, 0.06), 0.35))


def lesion(image: ImagePlan, at: Chest, rng: np.random.Generator) -> tuple[Field, NDArray[np.bool_]]:
    """How much of the air the finding replaces (0 to 1), and its mask; zeros for a normal image."""
    found = image.lesion
    if found is None:
        return np.zeros((SIDE, SIDE), F), np.zeros((SIDE, SIDE), np.bool_)
    if image.finding == "mass":
        return _mass(image, found, rng)
    out, mask = np.zeros((SIDE, SIDE), F), np.zeros((SIDE, SIDE), np.bool_)
    other = "R" if found.side == "L" else "L"
    bottom = image.body.base - image.pose.breath + 0.05
    for where, level in ((found.side, found.size), (other, found.other_side)):
        if level > 0:
            half = left if where == "L" else ~left
            surface = at.outwards(lambda u: 0.11 * (1 - np.clip(u, 0, 1) ** 2.5))  # it climbs the chest wall: the meniscus
            below = y - surface - F(bottom - level * (bottom - image.body.apex) - 0.03)
            out += smooth(below, 0.025) * half
            mask |= half & (below > 0) & (at.across < 1) & (side > 0.05) & (at.diaphragm < 0.02)
    return out * F(0.95), mask


def _mass(image: ImagePlan, found: Lesion, rng: np.random.Generator) -> tuple[Field, NDArray[np.bool_]]:
    cx, cy = mass_centre(image.body, found, image.pose.breath)
    radius = found.size / 2 / image.scanner.spacing_mm / image.scanner.rows / image.pose.zoom
    rows, columns = (
        slice(_row(cy - 1.5 * radius), _row(cy + 1.5 * radius)),
        slice(_row(cx + 0.5 - 1.5 * radius), _row(cx + 0.5 + 1.5 * radius)),
    )
    dx, dy = x[:, columns] - F(cx), y[rows] - F(cy)
    angle = np.arctan2(dy, dx)
    rim = np.full(angle.shape, radius, F)
    for k in (2, 3, 5, 8):
        rim += F(radius * np.clip(rng.normal(0, 0.2 / k), -0.3 / k, 0.3 / k)) * np.cos(F(k) * angle + F(rng.uniform(0, 6.3)))
    squared = np.asarray((np.square(dx) + np.square(dy)) / np.square(rim), F)
    out, mask = np.zeros((SIDE, SIDE), F), np.zeros((SIDE, SIDE), np.bool_)
    out[rows, columns] = np.minimum(F(1.15) * chord(squared * F(0.94)), F(1)) * F(rng.uniform(0.55, 0.8))
    mask[rows, columns] = squared < 1
    return out, mask


def mass_centre(body: Body, found: Lesion, breath: float) -> tuple[float, float]:
    """Return (x, y) of a mass in body coordinates."""
    y = body.apex + 0.05 + found.height * (body.base - breath - body.apex - 0.08)
    return (1 if found.side == "L" else -1) * found.lateral * float(cage(body, np.asarray([y]))[0]), y


def to_pixels(image: ImagePlan, x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return (row, column) of points of the body: the inverse of what `chest` does."""
    pose, scanner = image.pose, image.scanner
    c, s = np.cos(pose.turn) * pose.zoom, np.sin(pose.turn) * pose.zoom
    fx, fy = x * c - (y - 0.5) * s, x * s + (y - 0.5) * c
    return (fy + 0.5 + pose.y) * scanner.rows - 0.5, (fx + pose.x) * scanner.rows + scanner.columns / 2 - 0.5
