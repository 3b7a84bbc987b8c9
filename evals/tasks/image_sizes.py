"""The sizes of a task's images, read from the headers of their files."""

from __future__ import annotations

from evals.tasks.build import build, content_of, images_of, listed, quiet, rows_within
from evals.tasks.checks import missing
from evals.tasks.data import TaskSpec, locate, prepare
from evals.tasks.protocol import protocol
from hidrop.errors import UserError
from hidrop.images import ImageError, image_size


def image_sizes(spec: TaskSpec, *, limit: int | None = None) -> list[tuple[int, int]]:
    """Height and width of the images of each of the first documents; images that cannot be read are left out.

    Raises UserError when data is missing, or no image can be read.
    """
    if spec.source.videos:
        raise UserError(f"{spec.name}: a task of videos. Name a task of images, or a size such as 1024x768")
    turned, found = protocol(spec.protocol).turns_images, list[tuple[int, int]]()
    with quiet():
        prepare(spec)
        if problems := missing(spec, prepared=True):
            raise UserError("\n".join(problems))
        task, files = build(spec), locate(spec)
        docs, image = task.eval_docs, images_of(spec, files)
        for number in range(rows_within(task, spec, limit)):
            for one in listed(image(docs[number])):
                try:
                    found.append(image_size(content_of(one, files), turned=turned))
                except ImageError:
                    continue
    if not found:
        raise UserError(f"{spec.name}: not one of its images can be read")
    return found
