"""The batch size of `batch_size: auto`: the largest that memory holds, up to MOST.

It is estimated once for each model and task, when the model is loaded, and the same for all methods: for prompts
without reduction, with the largest image and the longest answer. It is a power of two, so that two machines of one kind
find the same number. A cell's identity holds the number, as if the matrix stated it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING

from evals.matrix.schema import AUTO, Cell
from evals.profiling.free_memory import free_in_main_memory, free_on_cuda
from evals.tasks.data import TaskSpec
from hidrop.geometry import Geometry

if TYPE_CHECKING:
    from evals.tasks.protocol import Protocol
    from hidrop.models import Loaded

MOST = 32
# The part of the free memory that is planned for. The rest is for the vision tower, methods' scores and fragments.
SHARE = 0.8
# Text of a prompt, in tokens. Questions have 20 to 100; lists of OCR words and lectures some hundred.
TEXT_TOKENS = 512
# Heights and widths in pixels. An image of two of them has about as many tokens as an image can have, whatever the rule
# of a family: tiles in the best grid, or pixels up to a limit.
SIDES = (60, 80, 128, 200, 336, 480, 672, 1000, 1344, 2000, 2688, 4096, 6000)
# By a cell's key: the sizes of its journals in the results folder, the one that it keeps first.
Recorded = Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class Prompt:
    """The largest prompt of a task, in tokens: visual ones, text, and those of the answer."""

    visual: int
    text: int
    new: int

    def within(self, positions: int) -> Prompt:
        """The same in a model with so many positions."""
        visual = min(self.visual, positions)
        text = min(self.text, positions - visual)
        return Prompt(visual, text, min(self.new, positions - visual - text))


def sample_bytes(geometry: Geometry, prompt: Prompt, element: int, *, eager: bool = False, graphs: int = 0) -> int:
    """Bytes that one more sample of a batch needs, at most at any moment. `element`: of one number of the model.

    They are its keys and values in all layers; in the layer that runs the residual stream, its float32 copy in the
    norm, queries, keys, values and the attention's output, or the MLP's three products; the mask; the logits in
    float32, three times (softmax and its argument). `eager` attention holds all weights twice, and in float32 as well.
    Each of the CUDA `graphs` that are kept has keys and values of its own.
    """
    g, tokens = geometry, prompt.visual + prompt.text
    kv = (1 + graphs) * g.layers * g.layer_kv_bytes(tokens + prompt.new, element)
    heads = (2 * g.heads + 2 * g.kv_heads) * g.head_dim
    wide = tokens * (element * (4 * g.hidden + max(heads, 3 * g.intermediate)) + 8 * g.hidden)
    mask = tokens * tokens * (element + 1)
    weights = g.heads * tokens * tokens * (2 * element + 4) if eager else 0
    return kv + wide + mask + weights + 3 * 4 * g.vocab


def largest(sample: int, free: int) -> int:
    """The largest power of two up to MOST of samples of `sample` bytes for which there is room; at least 1."""
    size = MOST
    while size > 1 and size * sample > SHARE * free:
        size //= 2
    return size


def batch_sizes(loaded: Loaded, cells: Iterable[Cell], processes: int = 1) -> dict[str, int]:
    """The size for each task of one model's cells, by what is free now. `processes`: that share this main memory."""
    free = free_bytes(loaded, processes)
    tasks = {cell.task: cell for cell in cells}
    return {task: 1 if free is None else _size(loaded, cell, free) for task, cell in tasks.items()}


def _size(loaded: Loaded, cell: Cell, free: int) -> int:
    # A film is as long as a batch of images, and some checkpoints' answers depend on who else is in a batch.
    if cell.task_spec.task.filmed or counts_padding(loaded, cell.protocol):
        return 1
    try:
        prompt = largest_prompt(loaded, cell.task_spec, cell.limit).within(loaded.geometry.max_positions)
    except Exception:  # data or a task that cannot be read: the cell fails with the same error, and the others run
        return 1
    element = loaded.model.get_input_embeddings().weight.element_size()
    graphs, eager = loaded.graphs.limit if loaded.graphs else 0, cell.attention == "eager"
    return largest(sample_bytes(loaded.geometry, prompt, element, eager=eager, graphs=graphs), free)


def counts_padding(loaded: Loaded, protocol_name: str) -> bool:
    """Whether a batch's padding changes answers by more than the last bits: the checkpoint's repetition penalty counts
    it under the protocol `lmms-eval`.
    """
    from evals.tasks.protocol import protocol

    asking = protocol(protocol_name).asking(loaded.backbone)
    penalty = getattr(loaded.model.generation_config, "repetition_penalty", None)
    return asking is not None and asking.own_settings and penalty not in (None, 1.0)


def largest_prompt(loaded: Loaded, spec: TaskSpec, limit: int | None) -> Prompt:
    """The largest prompt that a task of images can have, and its longest answer."""
    from evals.tasks.evaluation import most_images
    from evals.tasks.protocol import protocol

    asks, geometry = protocol(spec.protocol), loaded.geometry
    visual = geometry.visual_tokens
    if geometry.dynamic:
        visual = max(_image_tokens(loaded, asks))
    images = most_images(spec, limit=limit) if spec.task.any_columns else 1
    asking = asks.asking(loaded.backbone)
    longest = spec.task.max_new_tokens or 0
    return Prompt(images * visual, TEXT_TOKENS, max(longest, asking.longest if asking else asks.max_new_tokens))


def _image_tokens(loaded: Loaded, asks: Protocol) -> Iterator[int]:
    """Visual tokens of images of many shapes."""
    count = asks.counting(loaded.backbone, loaded.image_processor, loaded.pixel_limits)
    for size in product(SIDES, SIDES):
        with suppress(ValueError):  # of an image that is too long for its width, which cannot be asked
            yield count(*size)[0]


def free_bytes(loaded: Loaded, processes: int = 1) -> int | None:
    """Bytes that are free for batches, on the fullest of the model's devices. None where the system does not say."""
    placed = {str(parameter.device) for parameter in loaded.model.parameters()}
    devices = [device for device in placed if device.startswith("cuda")]
    if devices:
        return min(free_on_cuda(device) for device in devices)
    free = free_in_main_memory()
    return None if free is None else free // processes


# ---- numbers in the place of `auto` ----------------------------------------------------------------------------------


def without_number(cells: Iterable[Cell]) -> list[Cell]:
    """The cells that leave their batch size to the memory."""
    return [cell for cell in cells if cell.batch_size == AUTO]


def of_tasks(cells: Iterable[Cell], recorded: Recorded) -> dict[str, int]:
    """By task, the size that most of its recorded cells have; of sizes with as many cells the larger one."""
    counts: dict[str, Counter[int]] = {}
    for cell in cells:
        if cell.key in recorded:
            counts.setdefault(cell.task, Counter())[recorded[cell.key][0]] += 1
    return {task: max((cells, size) for size, cells in count.items())[1] for task, count in counts.items()}


def agreed(found: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """The sizes that fit everywhere, by task, from what each process found."""
    smallest: dict[str, int] = {}
    for sizes in found:
        for task, size in sizes.items():
            smallest[task] = min(size, smallest.get(task, size))
    return smallest


def with_numbers(cells: Iterable[Cell], recorded: Recorded, sizes: Mapping[str, int]) -> list[Cell]:
    """The cells, each with the size of its journal or else of its task. Without either it does not run: MOST."""

    def size(cell: Cell) -> int:
        return recorded[cell.key][0] if cell.key in recorded else sizes.get(cell.task, MOST)

    return [replace(cell, batch_size=size(cell)) if cell.batch_size == AUTO else cell for cell in cells]


def with_every_number(cells: Iterable[Cell], recorded: Recorded) -> list[Cell]:
    """The cells with a number, and those without one once for each size that they have a journal of."""
    found = []
    for cell in cells:
        sizes = recorded.get(cell.key, []) if cell.batch_size == AUTO else [cell.batch_size]
        found += [replace(cell, batch_size=size) for size in sizes]
    return found
