"""How many pixels an image may have, as a user states it for a model whose images keep their shape."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hidrop.errors import UserError

# fixed: every image gets about the same number of tokens.
Resolution = Literal["fixed"]
# Of one image. The largest limits of checkpoints are a quarter of it.
MOST_PIXELS = 2**26


@dataclass(frozen=True)
class PixelLimits:
    """Smaller images are enlarged to `least` pixels, larger ones shrunk to `most`. None: the checkpoint's own limit.

    With `tokens` both limits are those of an image with so many visual tokens. Sides are rounded to whole tokens, so
    that an image has about as many: a row or a column more or less.
    """

    least: int | None = None
    most: int | None = None
    tokens: int | None = None

    @classmethod
    def stated(
        cls,
        min_pixels: int | None,
        max_pixels: int | None,
        resolution: Resolution | None = None,
        reference_tokens: int | None = None,
    ) -> PixelLimits:
        """Raises UserError for limits that contradict each other or that no image can have."""
        if resolution not in (None, "fixed"):
            raise UserError(f"resolution: unknown value '{resolution}'. Known: fixed")
        if resolution is not None:
            for name, value in (("min_pixels", min_pixels), ("max_pixels", max_pixels)):
                if value is not None:
                    raise UserError(f"{name}: leave it out with resolution: fixed, which sets both limits")
            if reference_tokens is None:
                raise UserError("resolution: fixed needs reference_tokens: the visual tokens that every image gets")
            return cls(tokens=reference_tokens)
        for name, value in (("min_pixels", min_pixels), ("max_pixels", max_pixels)):
            if value is not None and (type(value) is not int or not 0 < value <= MOST_PIXELS):
                raise UserError(f"{name}: {value!r} is not a number of pixels from 1 to {MOST_PIXELS}")
        if min_pixels is not None and max_pixels is not None and min_pixels > max_pixels:
            raise UserError(f"min_pixels: {min_pixels} is above max_pixels ({max_pixels})")
        return cls(min_pixels, max_pixels)

    @property
    def field(self) -> str | None:
        """The field that states something; None: nothing is stated."""
        stated = {"min_pixels": self.least, "max_pixels": self.most, "resolution": self.tokens}
        return next((name for name, value in stated.items() if value is not None), None)

    def within(self, least: int, most: int, token: int) -> tuple[int, int]:
        """The limits of an image whose limits are `least` and `most`, where nothing else is stated.

        `token`: pixels of one visual token. A limit that is not stated gives way to the other one.
        """
        if self.tokens is not None:
            return self.tokens * token, self.tokens * token
        most = self.most or max(most, self.least or 0)
        return self.least or min(least, most), most


NO_LIMITS = PixelLimits()
