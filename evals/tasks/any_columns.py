"""Documents of tasks whose columns nobody has declared: their images stay undecoded until they are shown.

lmms-eval's functions get what they know: `process_docs` the whole data set, `doc_to_visual` a document with decoded
images, and all others a document without them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
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
        bare = undecoded(dataset)
        try:
            return undecoded(process_docs(bare))
        except (AttributeError, KeyError, TypeError):
            # datasets would read a path from anywhere, also from the network.
            named = any(image["bytes"] is None for doc in bare for image in images_in(doc))
            if not image_columns(dataset.features) or named:
                raise
            return undecoded(process_docs(dataset))

    return prepare


def undecoded(dataset: Any) -> Any:
    """A data set whose images, wherever they are in a column, are not decoded when a row is read.

    Columns of files as they are (`is_image`), which a preparation may have made of images, become images again.
    """
    from datasets import Features

    features = {name: _bare(kind) for name, kind in dataset.features.items()}
    return dataset if features == dict(dataset.features) else dataset.cast(Features(features))


def _bare(kind: Any) -> Any:
    """The type of a column with its images undecoded."""
    from datasets import Image, LargeList, List

    if isinstance(kind, Image) or (isinstance(kind, dict) and set(kind) == {"bytes", "path"}):
        return Image(decode=False)
    if isinstance(kind, List | LargeList):
        return type(kind)(_bare(kind.feature))
    return {name: _bare(one) for name, one in kind.items()} if isinstance(kind, dict) else kind


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
    return [image for value in doc.values() for image in _images(value)]


def _images(value: Any) -> Iterator[Mapping[str, Any]]:
    if is_image(value):
        yield from [] if is_absent(value) else [value]
    elif isinstance(value, list | Mapping):
        for one in value.values() if isinstance(value, Mapping) else value:
            yield from _images(one)


def _decoded(value: Any, decode: Decode) -> Any:
    if is_image(value):
        return None if is_absent(value) else decode(value)
    if isinstance(value, Mapping):
        return {name: _decoded(one, decode) for name, one in value.items()}
    return [_decoded(one, decode) for one in value] if isinstance(value, list) else value


def scored(process_results: Any, decode: Decode) -> Any:
    """A task's process_results on decoded documents, where it reads images."""
    if not callable(process_results):
        return process_results
    return lambda doc, results, **more: process_results(decoded(doc, decode), results, **more)


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
