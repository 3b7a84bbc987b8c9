"""The plan of a matrix for images of stated sizes, or for a task's own images, where images differ in their tokens."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from evals.matrix import plan_table
from evals.matrix.resolve import MatrixRow
from evals.matrix.schema import Matrix
from evals.tasks.protocol import protocol
from hidrop.errors import UserError
from hidrop.plan import TokenPlan

if TYPE_CHECKING:
    from hidrop.models.checking import Whole

# Visual tokens of an image, and their rows and columns where these decide something (see `Protocol.counting`).
Counted = tuple[int, tuple[int, int] | None]
SIZE = re.compile(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})")


@dataclass(frozen=True)
class Images:
    """Heights and widths of images, under the name that the user gave: `1024x768` (width x height), or a task."""

    name: str
    sizes: tuple[tuple[int, int], ...]


def read(text: str, matrix: Matrix) -> list[Images]:
    """The images of `--image`: sizes and names of the matrix's tasks, separated by commas. Raises UserError."""
    return [_one(part.strip(), matrix) for part in text.split(",")]


def _one(name: str, matrix: Matrix) -> Images:
    if match := SIZE.fullmatch(name):
        return Images(name, ((int(match[2]), int(match[1])),))
    if name not in matrix.tasks:
        raise UserError(
            f"--image {name}: neither WIDTHxHEIGHT in pixels, such as 1024x768, nor a task of this matrix "
            f"({', '.join(matrix.tasks)})"
        )
    from evals.tasks.image_sizes import image_sizes

    spec = matrix.task_spec(name)
    return Images(name, tuple(image_sizes(spec, limit=matrix.limit)))


def entries(rows: Sequence[MatrixRow], matrix: Matrix, asked: Sequence[Images]) -> list[dict[str, Any]]:
    """The entries of `plan_table` for each row and each of the images: means over a task's images.

    Tokens are those of the matrix's protocol and of the model's limits of pixels. The entries also name the images and
    their mean number of visual tokens. Raises UserError for a checkpoint whose image processor cannot be read (it
    decides how many tokens an image has), and for images that it does not take.
    """
    found = []
    for model in dict.fromkeys(row.model for row in rows):
        parts = _parts(model, matrix)
        limits = matrix.models[model].pixel_limits
        for images in asked:
            asks = matrix.task_spec(images.name).protocol if images.name in matrix.tasks else matrix.protocol
            count = protocol(asks).counting(parts.backbone, parts.image_processor, limits)
            counts = Counter(_counted(count, images, model))
            own = [row for row in rows if row.model == model]
            found += [_entry(row, matrix, images.name, counts) for row in own]
    return found


def _parts(model: str, matrix: Matrix) -> Whole:
    from hidrop.models import check

    spec = matrix.models[model]
    try:
        return check(spec.source, spec.pixel_limits)
    except UserError as error:
        raise UserError(f"--image: models.{model}: its image processor decides an image's tokens: {error}") from None


def _counted(count: Callable[[int, int], Counted], images: Images, model: str) -> list[Counted]:
    """Of each image. Those of a task that cannot be asked are left out, as they fail in a run."""
    found, reason = list[Counted](), None
    for size in images.sizes:
        try:
            found.append(count(*size))
        except ValueError as error:
            reason = error
    if not found:
        raise UserError(f"--image {images.name}: models.{model}: {reason}")
    return found


def _entry(row: MatrixRow, matrix: Matrix, name: str, counts: Mapping[Counted, int]) -> dict[str, Any]:
    """The mean over images with these tokens (each with how many there are)."""
    each = [
        (plan_table.entry(row, matrix, _plan(row, tokens, grid)), tokens, images)
        for (tokens, grid), images in counts.items()
    ]
    total = sum(counts.values())
    found = dict(each[0][0])
    for field in ("share", "average_tokens", "kept", "flops", "paper_macs", "kv_bytes"):
        values = [entry[field] for entry, _, _ in each]
        if None not in values:
            found[field] = sum(entry[field] * images for entry, _, images in each) / total
    found["image"], found["images"] = name, total
    found["visual_tokens"] = sum(tokens * images for _, tokens, images in each) / total
    found["entering"] = found["entering"] if len(each) == 1 else None
    return found


def _plan(row: MatrixRow, tokens: int, grid: tuple[int, int] | None) -> TokenPlan:
    """The plan for an image. A method that gives the processor a smaller one depends on its rows and columns."""
    geometry = row.plan.geometry
    if grid is None or not row.reducer.shrinks:
        return row.reducer.plan(geometry, tokens)
    rows, columns = row.reducer.smaller(*grid, geometry)
    return TokenPlan(geometry.with_visual_tokens(tokens), (rows * columns,) * geometry.layers, rows * columns)
