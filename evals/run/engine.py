"""The parts of a run that need a model or data. Importing this module loads neither torch nor lmms-eval.

The runner uses an Engine only, so its rules (which cells are skipped, what a failure does) are tested without a model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from evals.matrix import capture
from evals.matrix.profile_settings import ProfileSettings
from evals.matrix.schema import Cell
from evals.store.records import AnswerRecord
from hidrop.devices import usable_cores
from hidrop.reducer import Reducer

if TYPE_CHECKING:
    from evals.tasks.evaluation import TaskResult

# Raise this if a change of the code changes answers: cells that were finished before it then run again.
NUMERIC_VERSION = 3

# Called with the records of a batch as soon as it is answered. `Journal.append` checks them.
Recorder = Callable[[list[dict[str, Any]]], None]


@dataclass(frozen=True)
class Engine:
    """Functions that load, answer, score and time. `default()` returns the real ones."""

    load: Callable[[Cell, str], Any]  # (cell, device) -> Loaded
    weights_digest: Callable[[str], str]
    answer_ends: Callable[[str], tuple[int, ...]]  # by the model's source; empty: the tokenizer's end token
    data_digest: Callable[[Cell], str]
    # (loaded, method, cell, recorder of each batch's new records, answers of an earlier run by doc_id, whether this
    # process answers a batch)
    language_model: Callable[[Any, Reducer, Cell, Recorder, Mapping[int, AnswerRecord], Callable[[int], bool]], Any]
    ask: Callable[[Any, Cell], None]  # answers without scoring
    evaluate: Callable[[Any, Cell], TaskResult]
    profile: Callable[[Any, Mapping[str, Reducer], ProfileSettings], Mapping[str, Any]]
    release: Callable[[], None]
    # The model class of lmms-eval that a cell's protocol imitates; None: it imitates none.
    imitated: Callable[[Cell], str | None] = lambda cell: None
    # Which frames of a video the cell's model is shown (`Sampling`); None for a task of images.
    film: Callable[[Cell], dict[str, Any] | None] = lambda cell: None
    # The batch size of each task of one model's cells, by the memory that is free: (loaded, cells, processes that share
    # it) -> sizes by task.
    batch_sizes: Callable[[Any, Sequence[Cell], int], Mapping[str, int]] = lambda loaded, cells, processes: {}


def default(workers: int | None = None) -> Engine:
    """`workers`: threads that prefetch images; by default one less than the usable cores, at most 4."""
    threads = min(4, usable_cores() - 1) if workers is None else workers
    answering = partial(language_model, workers=threads)
    answers = (answering, ask, evaluate, profile, release)
    return Engine(load, weights_digest, answer_ends, data_digest, *answers, imitated, film, batch_sizes)


def load(cell: Cell, device: str) -> Any:
    from evals.profiling.allocator import keep_memory
    from hidrop.backbones import count_by
    from hidrop.models import load as load_model

    if device == "cpu":
        keep_memory()
    loaded = load_model(
        cell.spec.source,
        dtype=cell.dtype,
        device=device,
        attention=cell.attention,
        quantization=cell.quantization,
        device_map=cell.spec.device_map,
        reference_tokens=cell.spec.reference_tokens,
        counts=cell.spec.counts,
        min_pixels=cell.spec.min_pixels,
        max_pixels=cell.spec.max_pixels,
        resolution=cell.spec.resolution,
    )
    # `resolve` has refused numbers of tokens without an image that they are of. So all that is left are shares, and
    # they were made numbers of the nominal image.
    if loaded.geometry.dynamic:
        count_by(loaded.model, **loaded.geometry.counting)
    if cell.compiled:
        from hidrop.runtime.compiled_layers import fuse

        fuse(loaded.backbone.decoder)
    if cell.graphs is not False and capture.cell_obstacle(cell, loaded.geometry, device) is None:
        from evals.model.graphs import graphs_on

        loaded = replace(loaded, graphs=graphs_on(device))
    return loaded


def weights_digest(source: str) -> str:
    """sha256 over a checkpoint's weights and the small files (configs, tokenizer, processors) that belong to it."""
    from hidrop.models import checkpoint_files, digest

    return digest(checkpoint_files(source))


def answer_ends(source: str) -> tuple[int, ...]:
    """The ids of the tokens that end an answer. Empty: the tokenizer's own end token."""
    from hidrop.models import answer_ends as ends
    from hidrop.models.sources import find

    return ends(find(source))


def imitated(cell: Cell) -> str | None:
    from evals.tasks.protocol import imitated_class
    from hidrop.models import family

    return imitated_class(cell.protocol, family(cell.spec.source))


def film(cell: Cell) -> dict[str, Any] | None:
    if not cell.task_spec.task.filmed:
        return None
    from evals.tasks.protocol import protocol
    from hidrop.models import family

    backbone, spec = family(cell.spec.source).of_config(None), cell.task_spec
    shown = asdict(protocol(cell.protocol).sampling(backbone, cell.spec.frames, cell.spec.fps))
    if spec.task.any_columns:
        from evals.tasks.shown_videos import shown_digest

        shown["files"] = shown_digest(spec)
    return shown


def batch_sizes(loaded: Any, cells: Sequence[Cell], processes: int) -> Mapping[str, int]:
    from evals.run import batch_sizes as sizes

    return sizes.batch_sizes(loaded, cells, processes)


def data_digest(cell: Cell) -> str:
    from evals.tasks import data_digest as digest
    from evals.tasks import prepare

    prepare(cell.task_spec)
    return digest(cell.task_spec)


def language_model(
    loaded: Any,
    reducer: Reducer,
    cell: Cell,
    record: Recorder,
    done: Mapping[int, AnswerRecord],
    mine: Callable[[int], bool],
    workers: int = 0,
) -> Any:
    from evals.model.lmms_model import HidropLlava

    assert isinstance(cell.batch_size, int), "the runner has put a number in the place of `auto`"
    return HidropLlava.from_loaded(
        loaded,
        reducer,
        protocol=cell.protocol,
        batch_size=cell.batch_size,
        record=record,
        done={(cell.task, doc_id): cast("dict[str, Any]", answer) for doc_id, answer in done.items()},
        mine=mine,
        workers=workers,
        frames=cell.spec.frames,
        fps=cell.spec.fps,
        graphs=loaded.graphs,
    )


def ask(lm: Any, cell: Cell) -> None:
    from evals.tasks import ask as ask_task

    ask_task(lm, cell.task_spec, limit=cell.limit)


def evaluate(lm: Any, cell: Cell) -> TaskResult:
    from evals.tasks import evaluate as evaluate_task

    return evaluate_task(lm, cell.task_spec, limit=cell.limit)


def files_again(cell: Cell, answers: Mapping[int, AnswerRecord], asked_as: str | None) -> dict[str, bytes]:
    """The files for a task's server or judge, from the answers of a finished cell. Needs its data, but no model."""
    from evals.tasks.evaluation import files_from_journal

    return files_from_journal(cell.task_spec, cast("dict[int, dict[str, Any]]", answers), asked_as)


def profile(loaded: Any, reducers: Mapping[str, Reducer], settings: ProfileSettings) -> Mapping[str, Any]:
    from evals.profiling import profile as measure

    return measure(loaded, reducers, settings.points)


def release() -> None:
    """Free a model's memory before the next model is loaded."""
    import gc
    import sys

    if (torch := sys.modules.get("torch")) is None:  # nothing was loaded
        return
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
