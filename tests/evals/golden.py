"""Fabricated rows of a task, answers of three methods to them, and what these are worth by hand: see eleven.py."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Row = dict[str, Any]

VANILLA, FASTV, BLIND = "vanilla", "fastv", "text_only"  # the methods, by their labels


@dataclass(frozen=True)
class Golden:
    """What a method's answers are worth.

    percent: of vanilla's value. scores: of each document, in the order in which they are asked. extra: further metrics.
    """

    value: float
    percent: float
    scores: tuple[float, ...]
    extra: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Fabricated:
    """A task's rows, the answers to them by method, and their worth by method under each protocol.

    order: the rows in the order in which they are asked.
    """

    rows: tuple[Row, ...]
    answers: Mapping[str, tuple[str, ...]]
    lmms_eval: Mapping[str, Golden]
    llava: Mapping[str, Golden] = field(default_factory=dict)  # left out where it is lmms_eval's
    order: tuple[int, ...] = ()

    @property
    def asked(self) -> tuple[int, ...]:
        return self.order or tuple(range(len(self.rows)))

    def golden(self, protocol: str, label: str) -> Golden:
        return (self.llava if protocol == "llava" and self.llava else self.lmms_eval)[label]


def picture(mode: str = "RGB", size: tuple[int, int] = (40, 32), kind: str = "PNG", turned: bool = False) -> Row:
    """An image of one colour, as a parquet file holds it. turned: its EXIF data say so."""
    from PIL import Image

    image, buffer, exif = Image.new("RGB", size, (200, 90, 40)), io.BytesIO(), Image.Exif()
    if turned:
        exif[0x0112] = 6
    image.convert(mode).save(buffer, kind, exif=exif)
    return {"bytes": buffer.getvalue(), "path": None}


PLAIN, CLEAR, GREY = picture(), picture("RGBA"), picture("L")
PALETTE, PRINTED, TURNED = picture("P"), picture("CMYK", kind="JPEG"), picture(kind="JPEG", turned=True)
TINY, WIDE, HIGH = picture(size=(1, 1)), picture(size=(300, 4)), picture("LA", size=(3, 90))


def said(vanilla: tuple[str, ...], fastv: tuple[str, ...], blind: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    return {VANILLA: vanilla, FASTV: fastv, BLIND: blind}


def worth(vanilla: Golden, fastv: Golden, blind: Golden) -> dict[str, Golden]:
    return {VANILLA: vanilla, FASTV: fastv, BLIND: blind}
