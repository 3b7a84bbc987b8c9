"""The official tasks as lmms-eval's own Task objects, pointed at our data and protocol.

The registered configuration is kept (question texts, decoding, metrics); replaced are where the data comes from,
MMBench's aggregation (the static one, which needs no network), and, under the llava protocol, the question texts and
decoding. Images stay undecoded until a sample is asked, so that one broken file cannot stop a run.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import importlib
import io
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from evals.tasks.data import HUB, Files, TaskSpec, locate
from evals.tasks.protocol import protocol
from evals.tasks.scoring import group


@functools.cache  # some forty YAML files for each cell of a matrix
def _official(name: str) -> dict[str, Any]:
    import lmms_eval
    from lmms_eval.tasks import TaskManager

    # Only this task's folder: indexing all of lmms-eval's two thousand tasks takes seconds.
    folder = Path(lmms_eval.__path__[0]) / "tasks" / name.split("_")[0]
    manager = TaskManager(include_defaults=False, include_path=[str(folder)])
    return {**manager._get_config(name), "task": name}


def official(name: str) -> dict[str, Any]:
    """The configuration that lmms-eval registers for a task, its functions resolved. The caller may change it."""
    return copy.deepcopy(_official(name))


def build(spec: TaskSpec) -> Any:
    """lmms-eval's task for `spec`. Only a spec whose data is "hub" touches the network."""
    from lmms_eval.api.task import ConfigurableTask

    config, files = official(spec.name), None if spec.data == HUB else locate(spec)
    config["doc_to_visual"] = _visual(config["doc_to_visual"], _images(spec, files))
    config["process_docs"] = _prepare(spec)
    config["metric_list"] = [_static(m) for m in config["metric_list"] if m["metric"] != "submission"]
    if files is None:
        config["dataset_kwargs"] = {}  # the official one asks for a login
    else:
        paths = [str(path.resolve()) for path in files.questions]
        config |= {"dataset_path": "parquet", "dataset_name": None}
        config["dataset_kwargs"] = {"data_files": {spec.source.split: paths}}
    if generation := protocol(spec.protocol).generation(spec.name):
        config["generation_kwargs"] = generation
        config["doc_to_text"] = _question(spec)
        config["lmms_eval_specific_kwargs"] = config["model_specific_generation_kwargs"] = None
        if spec.name == "mmbench_en_dev":
            config["metric_list"] = []  # takes seconds, and this protocol's value is not lmms-eval's anyway
    return ConfigurableTask(config=config)


def rows_within(task: Any, spec: TaskSpec, limit: int | None) -> int:
    """How many of the first documents a limit lets through: whole circular groups for MMBench, at least one.

    Raises ValueError for a limit below 1.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit: {limit} is not a positive number of samples")
    docs = task.eval_docs_no_media
    total = len(docs) if limit is None else min(limit, len(docs))
    if spec.name != "mmbench_en_dev" or total == len(docs):
        return total
    of = [group({"index": index}) for index in docs["index"]]
    ends = [place + 1 for place in range(len(of)) if place + 1 == len(of) or of[place + 1] != of[place]]
    return max((end for end in ends if end <= total), default=ends[0])


def _question(spec: TaskSpec) -> Callable[[Mapping[str, Any]], str | None]:
    def text(doc: Mapping[str, Any]) -> str | None:
        return protocol(spec.protocol).question(spec.name, doc)

    return text


def _prepare(spec: TaskSpec) -> Callable[[Any], Any]:
    """Leave images undecoded; put the rotations of an MMBench question next to each other (for limits)."""

    def prepare(dataset: Any) -> Any:
        from datasets import Image

        if "image" in dataset.column_names:
            dataset = dataset.cast_column("image", Image(decode=False))
        if spec.name == "mmbench_en_dev":
            first: dict[int, int] = {}
            groups = [group({"index": index}) for index in dataset["index"]]
            for place, question in enumerate(groups):
                first.setdefault(question, place)
            dataset = dataset.select(sorted(range(len(groups)), key=lambda place: (first[groups[place]], place)))
        return dataset

    return prepare


def _images(spec: TaskSpec, files: Files | None) -> Callable[[Mapping[str, Any]], Any]:
    """A function from a document to its undecoded image; GQA keeps them apart, found by imageId."""
    import datasets

    source = spec.source
    if source.images is None or (files is not None and not files.images):
        return lambda doc: doc["image"]
    if files is None:
        images = datasets.load_dataset(source.repository, source.images.split("/")[0], split=source.split)
    else:
        paths = [str(path.resolve()) for path in files.images]
        images = datasets.load_dataset("parquet", data_files={"images": paths}, split="images")
    images = images.cast_column("image", datasets.Image(decode=False))
    place = {name: row for row, name in enumerate(images["id"])}
    return lambda doc: images[place[doc["imageId"]]]["image"]


def _visual(official: Callable[[Mapping[str, Any]], Any], image: Callable[[Mapping[str, Any]], Any]) -> Any:
    """The task's own doc_to_visual, fed with an image decoded at the last moment. Raises PIL's errors."""

    def visual(doc: Mapping[str, Any]) -> Any:
        return official({**doc, "image": decode(image(doc))})

    return visual


def decode(image: Any) -> Any:
    """A PIL image from what a datasets.Image column holds undecoded (bytes or a path), or the PIL image itself."""
    from PIL import Image

    if not isinstance(image, Mapping):
        return image
    return Image.open(io.BytesIO(image["bytes"]) if image.get("bytes") else image["path"])


def _static(metric: dict[str, Any]) -> dict[str, Any]:
    """MMBench's score by the static aggregation (no OpenAI call), without its printing; other metrics as they are."""
    if metric["metric"] != "gpt_eval_score":
        return metric
    utils = importlib.import_module("lmms_eval.tasks.mmbench.en_utils")

    def aggregate(results: list[dict[str, Any]], args: Any) -> float:
        with contextlib.redirect_stdout(io.StringIO()):
            return float(utils.mmbench_aggregate_dev_results_static(results, args))

    return {**metric, "aggregation": aggregate}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No log lines and progress bars of lmms-eval and datasets in the block; a caller shows progress itself."""
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
    """Stands in for a progress bar: iterates, and swallows updates."""

    def __init__(self, items: Any) -> None:
        self._items = items

    def __iter__(self) -> Iterator[Any]:
        return iter(self._items)

    def update(self, steps: int = 1) -> None: ...

    def close(self) -> None: ...
