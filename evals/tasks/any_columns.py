"""Documents of tasks whose columns nobody has declared: their images stay undecoded until they are shown.

lmms-eval's functions get what they know: `process_docs` the whole data set, `doc_to_visual` a document with decoded
images, and all others a document without them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from evals.tasks.official_config import home_of_data
from hidrop.images import ImageError
from hidrop.videos import VideoError

if TYPE_CHECKING:
    from evals.tasks.base import Doc

Decode = Callable[[Any], Any]  # an undecoded image to a decoded one


def prepared(process_docs: Callable[[Any], Any] | None) -> Callable[[Any], Any]:
    """lmms-eval's preparation of a data set, on images that are not decoded.

    A preparation that needs an image's pixels or size fails on these, and gets decoded ones: every image is read then.
    """

    def prepare(dataset: Any) -> Any:
        if process_docs is None:
            return undecoded(dataset)
        try:
            return undecoded(process_docs(undecoded(dataset)))
        except (AttributeError, KeyError, TypeError):
            if not image_columns(dataset.features):
                raise
            return undecoded(process_docs(dataset))

    return prepare


def undecoded(dataset: Any) -> Any:
    """A data set whose images, single ones or in lists, are not decoded when a row is read.

    Columns of files as they are (`is_image`), which a preparation may have made of images, become images again.
    """
    from datasets import Image, List

    for name in [*image_columns(dataset.features), *_file_columns(dataset.features)]:
        kind = dataset.features[name]
        dataset = dataset.cast_column(
            name, List(Image(decode=False)) if hasattr(kind, "feature") else Image(decode=False)
        )
    return dataset


def _file_columns(features: Mapping[str, Any]) -> list[str]:
    """The columns that hold files as bytes and path without being declared as images, or lists of such."""
    each = {name: getattr(kind, "feature", kind) for name, kind in features.items()}
    return [name for name, kind in each.items() if isinstance(kind, dict) and set(kind) == {"bytes", "path"}]


def image_columns(features: Mapping[str, Any]) -> list[str]:
    """The columns that hold an image, or a list of images."""
    from datasets import Image

    return [name for name, kind in features.items() if isinstance(getattr(kind, "feature", kind), Image)]


def without_images(docs: Any) -> Any:
    """Documents without their columns of images."""
    found = image_columns(docs.features)
    return docs.remove_columns(found) if found else docs


def decoded(doc: Doc, decode: Decode) -> dict[str, Any]:
    """A document with its images decoded. An image that is not there stays None; so does each in a list."""
    return {name: _decoded(value, decode) for name, value in doc.items()}


def is_image(value: Any) -> bool:
    """Whether a value is an undecoded image."""
    return isinstance(value, Mapping) and set(value) == {"bytes", "path"}


def is_absent(image: Any) -> bool:
    """Whether an undecoded entry of a column of images is empty: None, or neither bytes nor a path."""
    return image is None or (isinstance(image, Mapping) and image.get("bytes") is None and image.get("path") is None)


def images_in(doc: Doc) -> list[Mapping[str, Any]]:
    """The undecoded images of a document, in the order of its columns."""
    found: list[Mapping[str, Any]] = []
    for value in doc.values():
        each = value if isinstance(value, list) else [value]
        found += [one for one in each if is_image(one) and not is_absent(one)]
    return found


def _decoded(value: Any, decode: Decode) -> Any:
    if isinstance(value, list):
        return [_decoded(one, decode) for one in value]
    if not is_image(value):
        return value
    return None if is_absent(value) else decode(value)


def shown(doc_to_visual: Any, decode: Decode, home: str | None) -> Any:
    """A task's doc_to_visual on decoded documents. Where it would end the process, it fails for one sample.

    home: see `home_of_data`; None for a task without videos.
    """
    if doc_to_visual is None:
        return None
    if isinstance(doc_to_visual, str):
        column = doc_to_visual
        return lambda doc: [one for one in (decoded(doc, decode)[column],) if one is not None]

    def visual(doc: Doc, *more: Any) -> Any:
        try:
            with home_of_data(home):
                return doc_to_visual(decoded(doc, decode), *more)
        except (ImageError, VideoError):
            raise
        except SystemExit as error:  # of tasks whose video is not there
            raise VideoError(f"lmms-eval's doc_to_visual ended: {error}") from None

    if len(inspect.signature(doc_to_visual).parameters) == 2:
        return lambda doc, kwargs: visual(doc, kwargs)
    return lambda doc: visual(doc)
