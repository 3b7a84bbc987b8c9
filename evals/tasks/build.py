"""A task as lmms-eval's own task object, with our data and protocol.

lmms-eval's configuration is kept (question texts, decoding, metrics). Three things are replaced: where the data comes
from, the metrics that a task changes (`Task.metrics`), and under the llava protocol the question texts and decoding.
Images are decoded when their sample is asked, so that a broken file cannot stop a run.
"""

from __future__ import annotations

import contextlib
import functools
import glob
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evals.tasks import any_columns
from evals.tasks.aggregation import guesses_seeded
from evals.tasks.base import IMAGE, Task
from evals.tasks.data import HUB, Files, TaskSpec, data_digest, locate, root_of
from evals.tasks.official_config import official
from evals.tasks.protocol import protocol
from evals.tasks.video_files import file_of
from hidrop.errors import shortened
from hidrop.images import ImageError, open_image, read_inside

if TYPE_CHECKING:
    from PIL import Image

# The splits that lmms-eval's configuration may name. Only the one that is asked is loaded.
BUILDING = -2  # in the place of a document's number, for what happens before any of them
SPLITS = ("training_split", "validation_split", "test_split", "fewshot_split")


def build(spec: TaskSpec, model_name: str | None = None) -> Any:
    """lmms-eval's task for `spec`, whose files are there (`evals.tasks.checks.missing`). Uses no network.

    Its attribute `left_out` has the `key_columns` of the documents that are not asked (`Task.order`).

    model_name: lmms-eval's model class, where a task has a question text of its own for it.
    """
    from lmms_eval.api.task import ConfigurableTask

    files, turned = locate(spec), protocol(spec.protocol).turns_images
    left_out: list[dict[str, Any]] = []
    any_kind = spec.task.any_columns
    config = _any_columns(spec, files, turned) if any_kind else _declared(spec, files, turned, left_out)
    config |= {"dataset_path": "parquet", "dataset_name": _name(spec)}
    config["dataset_kwargs"] = {"data_files": {spec.source.split: patterns(files.questions)}}
    with guesses_seeded(spec.name, BUILDING):  # some preparations shuffle documents or choices
        task = ConfigurableTask(config=config, model_name=model_name)
    task.left_out = left_out
    return task


def _any_columns(spec: TaskSpec, files: Files, turned: bool) -> dict[str, Any]:
    """The configuration of a task whose columns are not declared: only the place of the data is ours."""
    home = home_of(spec)
    config = official(spec.task, home)
    split = {name: None for name in SPLITS if config.get(name) != spec.source.split}
    config |= {**split, "fewshot_config": None, "process_docs": any_columns.prepared(config.get("process_docs"))}
    show = functools.partial(decode, files=files, turned=turned)
    config["doc_to_visual"] = any_columns.shown(config.get("doc_to_visual"), show, home)
    if config.get("process_results_use_image"):
        config["process_results"] = any_columns.scored(config.get("process_results"), show)
    return config


def home_of(spec: TaskSpec) -> str | None:
    """The folder in which lmms-eval's functions look for a task's videos: that of the data."""
    return str(root_of(spec).absolute()) if spec.task.filmed and spec.data != HUB else None


def _declared(spec: TaskSpec, files: Files, turned: bool, left_out: list[dict[str, Any]]) -> dict[str, Any]:
    """The configuration of a task with a class of its own. left_out: see `_prepare`."""
    config = official(spec.task)
    if (videos := spec.source.videos) is not None:
        config["doc_to_visual"] = lambda doc: [file_of(videos, files, doc)]
    else:
        config["doc_to_visual"] = _visual(config["doc_to_visual"], spec, files, turned)
    config["process_docs"] = _prepare(spec, left_out)
    config["metric_list"] = spec.task.metrics(config["metric_list"], spec.protocol)
    if generation := protocol(spec.protocol).generation(spec.task):
        config["generation_kwargs"] = generation
        config["doc_to_text"] = spec.task.question
        config["lmms_eval_specific_kwargs"] = config["model_specific_generation_kwargs"] = None
    return config


def rows_within(task: Any, spec: TaskSpec, limit: int | None) -> int:
    """The number of documents within a limit, rounded down to whole groups (`Task.group`), but at least one group.

    Raises ValueError for a limit below 1.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit: {limit} is not a positive number of samples")
    docs = task.eval_docs_no_media
    total = len(docs) if limit is None else min(limit, len(docs))
    if spec.task.group_column is None or total == len(docs):
        return total
    of = _groups(spec.task, docs)
    ends = [place + 1 for place in range(len(of)) if place + 1 == len(of) or of[place + 1] != of[place]]
    return max((end for end in ends if end <= total), default=ends[0])


def _groups(task: Task, docs: Any) -> list[Any]:
    """The group of each document, read from one column, because whole documents are slow to read."""
    column = task.group_column
    assert column is not None
    return [task.group({column: value}) for value in docs[column]]


def _prepare(spec: TaskSpec, left_out: list[dict[str, Any]]) -> Callable[[Any], Any]:
    """Leave images undecoded, give columns the names that the task reads, and bring documents into their order.

    Those without an order (`Task.order`) are left out; `left_out` gets their `key_columns`. The documents of a group
    come next to each other, so that a limit can cut there.
    """
    task, renamed = spec.task, dict(spec.source.renamed)

    def prepare(dataset: Any) -> Any:
        if IMAGE in dataset.column_names:
            dataset = _undecoded(dataset)
        if renamed:
            dataset = dataset.rename_columns(renamed)
        column = task.order_column
        if column is not None and column in dataset.column_names:
            orders = [task.order({column: value}) for value in dataset[column]]
            places = [(order, place) for place, order in enumerate(orders) if order is not None]
            keys = dataset.select_columns([name for name in task.key_columns if name in dataset.column_names])
            left_out[:] = keys.select([place for place, order in enumerate(orders) if order is None])
            dataset = dataset.select([place for _, place in sorted(places)])
        if task.group_column is not None:
            first: dict[Any, int] = {}
            groups = _groups(task, dataset)
            for place, group in enumerate(groups):
                first.setdefault(group, place)
            dataset = dataset.select(sorted(range(len(groups)), key=lambda place: (first[groups[place]], place)))
        return dataset

    return prepare


def _undecoded(dataset: Any) -> Any:
    """A data set whose images, or lists of images, are not decoded when a row is read."""
    from datasets import Image, LargeList, List

    listed = isinstance(dataset.features[IMAGE], List | LargeList)
    return dataset.cast_column(IMAGE, List(Image(decode=False)) if listed else Image(decode=False))


def patterns(paths: Sequence[Path]) -> list[str]:
    """Paths for datasets.load_dataset, which takes them for patterns: a folder's name may have a bracket in it."""
    return [glob.escape(str(path.absolute())) for path in paths]


def images_of(spec: TaskSpec, files: Files) -> Callable[[Mapping[str, Any]], Any]:
    """A function from a document to its undecoded image, or to a list of them where the column holds lists."""
    import datasets

    joined = spec.source.images
    if joined is None or not files.images:
        return lambda doc: doc[IMAGE]
    found = {"images": patterns(files.images)}
    images = datasets.load_dataset("parquet", name=_name(spec), data_files=found, split="images")
    images = _undecoded(images)
    place = {name: row for row, name in enumerate(images[joined.id])}
    return lambda doc: images[place[doc[joined.key]]][IMAGE]


def _name(spec: TaskSpec) -> str:
    """The name under which datasets keeps converted data: by content, because it compares only the files' times."""
    return f"sha256-{data_digest(spec)[:16]}"


def _visual(official: Callable[[Mapping[str, Any]], Any], spec: TaskSpec, files: Files, turned: bool) -> Any:
    """The task's own doc_to_visual, given an image that is decoded at the last moment. Raises ImageError.

    It is given None for a document without an image, where the task asks such (`Task.text_only`).
    """
    image = images_of(spec, files)

    def visual(doc: Mapping[str, Any]) -> Any:
        undecoded = image(doc)
        if spec.task.text_only and any_columns.is_absent(undecoded):
            return official({**doc, IMAGE: None})
        shown = [decode(one, files, turned=turned) for one in listed(undecoded)]
        return official({**doc, IMAGE: shown if spec.source.listed else shown[0]})

    return visual


def listed(image: Any) -> list[Any]:
    """The images in an entry of the column: a list of images, or one image."""
    return image if isinstance(image, list) else [image]


def decode(image: Any, files: Files | None = None, *, turned: bool = False) -> Image.Image:
    """An RGB image from an undecoded entry of a datasets.Image column: bytes, or a path inside the data's folder.

    turned: turn it as its EXIF orientation says (`Protocol.turns_images`), as datasets does. Raises ImageError for
    anything else, and for an image that cannot be read whole.
    """
    return open_image(content_of(image, files), turned=turned)


def content_of(image: Any, files: Files | None = None) -> bytes:
    """The file of an undecoded image. Raises ImageError like `decode`."""
    content, path = (image.get("bytes"), image.get("path")) if isinstance(image, Mapping) else (None, None)
    if content is not None:
        return content
    if path is None:
        raise ImageError(
            "no image" if isinstance(image, Mapping | None) else f"a {type(image).__name__} is not an image"
        )
    if files is None:
        raise ImageError(f"{shortened(path)}: a path, but this data set has no folder")
    return read_inside(files.root, path, files.start)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence lmms-eval's and datasets' log lines and progress bars; the caller shows progress itself."""
    import datasets
    import lmms_eval.api.task
    import lmms_eval.evaluator
    from loguru import logger

    def bare(items: Any = None, **_: Any) -> Any:
        return _NoBar(items)

    modules: tuple[Any, ...] = (lmms_eval.api.task, lmms_eval.evaluator)
    bars, shown = [module.tqdm for module in modules], not datasets.are_progress_bars_disabled()
    logger.disable("lmms_eval")
    datasets.disable_progress_bars()
    for module in modules:
        module.tqdm = bare
    try:
        yield
    finally:
        for module, bar in zip(modules, bars, strict=True):
            module.tqdm = bar
        if shown:
            datasets.enable_progress_bars()
        logger.enable("lmms_eval")


class _NoBar:
    """Replaces a progress bar: it iterates and ignores updates."""

    def __init__(self, items: Any) -> None:
        self._items = items

    def __iter__(self) -> Iterator[Any]:
        return iter(self._items)

    def update(self, steps: int = 1) -> None: ...

    def close(self) -> None: ...
