"""Scenes: coloured handwritten digits and signs on textured, cluttered backgrounds, drawn from a seed.

A scene is 80 x 80 px, a 3 x 3 grid of cells. A cell is empty or holds one digit. A sign covers two neighbouring cells
of a row and shows a written number or a printed word. Everything is a pure function of (split, seed).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hidrop.mini.glyphs import WORDS, Mask, Split, digit_mask, glyph_ids, word_mask

SIDE = 80
GRID = 3
CELL = SIDE / GRID
# One word for each place, as on a map: row by row, north at the top.
PLACES = ("northwest", "north", "northeast", "west", "center", "east", "southwest", "south", "southeast")
COLORS: dict[str, tuple[int, int, int]] = {
    "red": (225, 45, 45),
    "green": (50, 190, 60),
    "blue": (70, 110, 245),
    "yellow": (240, 215, 50),
    "purple": (190, 70, 215),
    "white": (245, 245, 245),
}
# A neighbour is the adjacent cell in that direction.
DIRECTIONS: dict[str, tuple[int, int]] = {"left": (0, -1), "right": (0, 1), "above": (-1, 0), "below": (1, 0)}


@dataclass(frozen=True)
class Digit:
    """One coloured digit: its value, colour name and cell (0-8, row by row)."""

    value: int
    color: str
    cell: int

    @property
    def place(self) -> str:
        return PLACES[self.cell]

    @property
    def name(self) -> str:
        return f"{self.color} {self.value}"


@dataclass(frozen=True)
class Sign:
    """A plate over `cell` and the cell to its right; `text` is a number of 2-3 digits or a word."""

    text: str
    cell: int

    @property
    def is_number(self) -> bool:
        return self.text.isdigit()


@dataclass(frozen=True)
class Scene:
    """The content of an image. `key` identifies it. The pixels come from `render`."""

    split: Split
    seed: int
    digits: tuple[Digit, ...]
    signs: tuple[Sign, ...]

    @property
    def key(self) -> str:
        return f"{self.split}-{self.seed}"

    def at(self, cell: int) -> Digit | None:
        """The digit in `cell`, if there is one."""
        return next((d for d in self.digits if d.cell == cell), None)

    def beside(self, cell: int, direction: str) -> Digit | None:
        """The digit in the neighbouring cell of `cell` in `direction`, if there is one."""
        row, column = divmod(cell, GRID)
        down, right = DIRECTIONS[direction]
        row, column = row + down, column + right
        return self.at(row * GRID + column) if 0 <= row < GRID and 0 <= column < GRID else None


def make_scene(split: Split, seed: int, signs: int | None = None) -> Scene:
    """The content of scene `seed`: up to two signs of different kinds, or `signs` of any kind, and up to six digits."""
    rng = np.random.default_rng([seed, 17 if split == "train" else 23])
    order = rng.permutation(GRID)
    rows = order[: rng.choice(3, p=[0.25, 0.45, 0.30]) if signs is None else signs]
    plates: list[Sign] = []
    for row in rows:
        number = not plates[0].is_number if plates and signs is None else rng.random() < 0.5
        if number:
            length = int(rng.integers(2, 4))
            text = str(rng.integers(1, 10)) + "".join(str(d) for d in rng.integers(0, 10, length - 1))
        else:
            text = WORDS[rng.integers(len(WORDS))]
        plates.append(Sign(text, int(row) * GRID + int(rng.integers(2))))
    taken = {cell for sign in plates for cell in (sign.cell, sign.cell + 1)}
    free = [cell for cell in range(GRID * GRID) if cell not in taken]
    count = min(len(free), int(rng.integers(3, 7)))
    cells = sorted(rng.permutation(free)[:count])
    names = tuple(COLORS)
    digits = tuple(Digit(int(rng.integers(10)), names[rng.integers(len(names))], int(cell)) for cell in cells)
    return Scene(split, seed, digits, tuple(plates))


def render(scene: Scene) -> NDArray[np.uint8]:
    """The scene's pixels, (80, 80, 3) uint8. The same scene always gives the same bytes."""
    rng = np.random.default_rng([scene.seed, 5 if scene.split == "train" else 7])
    canvas = _background(rng)
    pools = glyph_ids(scene.split)
    for sign in scene.signs:
        _draw_sign(canvas, sign, pools, rng)
    for digit in scene.digits:
        color = np.clip(np.array(COLORS[digit.color]) + rng.integers(-18, 19, 3), 0, 255)
        row, column = divmod(digit.cell, GRID)
        width, height = (int(x) for x in rng.integers(17, 23, 2))
        mask = digit_mask(_pick(pools[digit.value], rng), width, height, int(rng.integers(-7, 8)))
        room_x, room_y = CELL - width, CELL - height
        x = int(column * CELL + rng.uniform(0.25, 0.75) * room_x)
        y = int(row * CELL + rng.uniform(0.25, 0.75) * room_y)
        _blend(canvas, np.clip(mask * 1.2, 0, 1), x, y, color)
    canvas += rng.normal(0, 4.0, canvas.shape).astype(np.float32)
    return np.clip(canvas, 0, 255).astype(np.uint8)


def _pick(pool: tuple[int, ...], rng: np.random.Generator) -> int:
    return pool[int(rng.integers(len(pool)))]


def _background(rng: np.random.Generator) -> NDArray[np.float32]:
    """A dark, muted texture (stripes, checks, blotches or a gradient) with scribbles of clutter on it."""
    base = rng.uniform(30, 85) + rng.uniform(-12, 12, 3)
    y, x = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32)
    angle, period = rng.uniform(0, math.pi), rng.uniform(5, 22)
    wave = (x * math.cos(angle) + y * math.sin(angle)) * (2 * math.pi / period)
    kind = int(rng.integers(4))
    if kind == 0:
        texture = np.sin(wave)
    elif kind == 1:
        texture = np.sign(np.sin(wave) * np.sin(2 * math.pi * (y * math.cos(angle) - x * math.sin(angle)) / period))
    elif kind == 2:
        texture = np.kron(rng.normal(0, 0.8, (10, 10)), np.ones((8, 8)))
    else:
        texture = (x * math.cos(angle) + y * math.sin(angle)) / SIDE * 2 - 1
    canvas = base + texture[..., None].astype(np.float32) * rng.uniform(6, 16)
    canvas = canvas.astype(np.float32)
    for _ in range(int(rng.integers(4, 9))):
        shade = base + rng.uniform(-35, 45) + rng.uniform(-15, 15, 3)
        x0, y0, steps = rng.uniform(0, SIDE), rng.uniform(0, SIDE), int(rng.integers(5, 22))
        heading, bend = rng.uniform(0, 2 * math.pi), rng.uniform(-0.25, 0.25)
        headings = heading + bend * np.arange(steps)
        xs = np.clip(x0 + np.cumsum(np.cos(headings)), 0, SIDE - 2).astype(int)
        ys = np.clip(y0 + np.cumsum(np.sin(headings)), 0, SIDE - 2).astype(int)
        canvas[ys, xs] = shade
        canvas[ys + 1, xs] = shade
    return canvas


def _draw_sign(
    canvas: NDArray[np.float32], sign: Sign, pools: tuple[tuple[int, ...], ...], rng: np.random.Generator
) -> None:
    row, column = divmod(sign.cell, GRID)
    x0, y0 = round(column * CELL) + 1, round(row * CELL) + int(rng.integers(2, 5))
    width, height = round(2 * CELL) - 2, 21
    plate = rng.uniform(175, 225) + rng.uniform(-14, 14, 3)
    canvas[y0 : y0 + height, x0 : x0 + width] = plate
    ink = rng.uniform(10, 60) + rng.uniform(-8, 8, 3)
    if not sign.is_number:
        size = int(rng.integers(13, 16))
        while (mask := word_mask(sign.text, size)).shape[1] > width - 2:
            size -= 1
        x = x0 + int(rng.integers(1, max(2, width - mask.shape[1])))
        _blend(canvas, mask, x, y0 + max(0, (height - mask.shape[0]) // 2 + int(rng.integers(-2, 3))), ink)
        return
    x = x0 + int(rng.integers(0, max(1, width - 17 * len(sign.text))))
    for character in sign.text:
        tall = int(rng.integers(16, 20))
        mask = digit_mask(_pick(pools[int(character)], rng), 16, tall, int(rng.integers(-6, 7)))
        _blend(canvas, np.clip(mask * 1.2, 0, 1), x, y0 + int(rng.integers(0, height - tall + 1)), ink)
        x += 17


def _blend(canvas: NDArray[np.float32], mask: Mask, x: int, y: int, color: NDArray[Any]) -> None:
    """Paint `color` through `mask` with its top left corner at (x, y), clipped to the canvas."""
    x, y = max(0, min(x, SIDE - mask.shape[1])), max(0, min(y, SIDE - mask.shape[0]))
    region = canvas[y : y + mask.shape[0], x : x + mask.shape[1]]
    region += (color - region) * mask[..., None]
