"""CUDA graphs of a prefill and of the decoding steps after it: all kernels of a forward launched at once.

The number of visual tokens in each layer is known beforehand, so a whole prefill has static shapes. One graph serves
all prompts of one shape; prompts are padded at the left to a multiple of `bucket` tokens, so that there are few of
them. Keys and values are written into memory that stays where it is, with room for the tokens that follow, and
decoding steps are captured on the same memory. Not captured, but run as ever: training, adaptive methods (their counts
depend on the data), methods that choose again at each token, other attention kernels than sdpa, models that are spread
over devices, and steps beyond the room.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from transformers.cache_utils import DynamicCache, DynamicLayer

from hidrop.geometry import Geometry
from hidrop.runtime.cache import RaggedCache, Segment
from hidrop.runtime.tensor_tree import mapped, tensors_of, with_tensors
from hidrop.runtime.trace import Record

Run = Callable[..., Any]
# (inputs, cache) to (last logits, counts); it fills the cache that it is given.
Prefill = Callable[[Any, RaggedCache], tuple[torch.Tensor, Record]]
# (ids_B1, step_1, segments with their masks, cache) to logits.
Step = Callable[[torch.Tensor, torch.Tensor, list[tuple[Segment, torch.Tensor]], Any], torch.Tensor]


class Recorder(Protocol):
    """Turns a function of tensors into a replay of its operations on the memory of just these tensors."""

    def record(self, run: Run, inputs: Sequence[torch.Tensor]) -> Callable[[], Any]: ...


class CudaRecorder:
    """CUDA graphs, all in one pool of memory: they are replayed one at a time."""

    def __init__(self) -> None:
        """Raises RuntimeError without a CUDA device."""
        if not torch.cuda.is_available():
            raise RuntimeError("CUDA graphs need a CUDA device, and torch sees none: leave `graphs` out")
        self._pool = torch.cuda.graph_pool_handle()
        # torch gives a pool up with its last graph, and then refuses its handle: this graph stays as long as the pool.
        self._anchor = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._anchor, pool=self._pool):
            self._held = torch.zeros(1, device="cuda")

    def record(self, run: Run, inputs: Sequence[torch.Tensor]) -> Callable[[], Any]:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # libraries that set themselves up on their first call must have done so
            for _ in range(2):
                run(*inputs)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            made = run(*inputs)

        def replay() -> Any:
            graph.replay()
            return made

        return replay


class Store:
    """Memory for the keys and values of one prefill's shape, (B, G, tokens + room, head) in each layer.

    `turn` counts the prefills that were written into it: a cache of an earlier one has lost its keys.
    """

    def __init__(self, lengths: Sequence[int], batch: int, geometry: Geometry, room: int, like: torch.Tensor) -> None:
        self.lengths, self.room, self.turn = tuple(lengths), room, 0
        shapes = [(batch, geometry.kv_heads, length + room, geometry.head_dim) for length in lengths]
        self.memory = [(like.new_zeros(shape), like.new_zeros(shape)) for shape in shapes]

    def show(self, cache: RaggedCache, steps: int) -> None:
        """Let `cache` hold what the prefill and `steps` decoded tokens have written, without a copy."""
        for layer, (keys, values), length in zip(cache.layers, self.memory, self.lengths, strict=True):
            layer.keys, layer.values = keys[:, :, : length + steps], values[:, :, : length + steps]
            layer.dtype, layer.device, layer.is_initialized = keys.dtype, keys.device, True


class _Written(DynamicLayer):
    """A cache layer that puts a prefill's keys and values into memory that stays where it is."""

    def __init__(self, memory: tuple[torch.Tensor, torch.Tensor]) -> None:
        super().__init__()
        self._memory = memory

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        self.keys, self.values = (memory[:, :, : key_states.shape[-2]] for memory in self._memory)
        self.keys.copy_(key_states)
        self.values.copy_(value_states)
        self.is_initialized = True
        return key_states, value_states


class _Appended(DynamicLayer):
    """A cache layer that puts one token at a place that only the device knows, and gives all of its memory."""

    def __init__(self, memory: tuple[torch.Tensor, torch.Tensor], place_1: torch.Tensor) -> None:
        super().__init__()
        self._memory, self._place_1 = memory, place_1

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        keys, values = self._memory
        keys.index_copy_(2, self._place_1, key_states)
        values.index_copy_(2, self._place_1, value_states)
        return keys, values


@dataclass
class Captured:
    """A prefill's graph with the memory that it reads and writes, and the graph of the step after it."""

    inputs: Any  # a structure whose tensors are overwritten before each replay
    store: Store
    record: Record
    # To logits, counts of each layer, the segments' tensors, and those of all cuts in one.
    replay: Callable[
        [], tuple[torch.Tensor, torch.Tensor, list[tuple[torch.Tensor | None, torch.Tensor]], torch.Tensor | None]
    ]
    segments: list[Segment]  # their tensors stay where they are, too: the steps read them
    ids_B1: torch.Tensor
    step_1: torch.Tensor
    replay_step: Callable[[], torch.Tensor] | None = None


@dataclass
class Fixed:
    """What ties a cache to the memory that its keys are in: whose, of which prefill, and the steps since."""

    captured: Captured
    turn: int
    steps: int = 0

    def check(self) -> None:
        """Raises RuntimeError for a cache that was overwritten."""
        if self.turn != self.captured.store.turn:
            raise RuntimeError(
                "this cache was overwritten by a later prefill: with graphs one prompt of a shape is held at a time"
            )


def _widths(tensors: Any) -> list[int]:
    return [tensor.shape[1] for tensor in tensors_of(tensors)]


class Graphs:
    """The graphs of one model, the longest unused ones dropped beyond `limit`: each has its own keys and values."""

    def __init__(self, recorder: Recorder | None = None, *, bucket: int = 32, room: int = 32, limit: int = 8) -> None:
        self.bucket, self.room, self.limit = bucket, room, limit
        self._recorder = recorder or CudaRecorder()
        self._kept: OrderedDict[Hashable, Captured] = OrderedDict()

    def padded(self, x_BS: torch.Tensor) -> torch.Tensor:
        """Ids or flags with zeros at the left, up to a multiple of the bucket."""
        return torch.nn.functional.pad(x_BS, (-x_BS.shape[1] % self.bucket, 0))

    def prefill(
        self,
        key: Hashable,
        inputs: Any,
        run: Prefill,
        lengths: Sequence[int],
        config: Any,
        geometry: Geometry,
        like: torch.Tensor,
    ) -> tuple[torch.Tensor, Record, RaggedCache]:
        """(last logits, counts, cache) of `run(inputs, cache)`, by the graph of this key and these shapes.

        lengths: keys in each layer. config: the language model's. like: a tensor of the keys' type and device.
        """
        tensors = tensors_of(inputs)
        whole = (key, *((tensor.shape, tensor.dtype) for tensor in tensors))
        captured = self._kept.get(whole)
        if captured is None:
            store = Store(lengths, tensors[0].shape[0], geometry, self.room, like)
            captured = self._capture(inputs, run, store, config)
            self._kept[whole] = captured
            while len(self._kept) > self.limit:
                self._kept.popitem(last=False)
        self._kept.move_to_end(whole)
        for static, tensor in zip(tensors_of(captured.inputs), tensors, strict=True):
            static.copy_(tensor)
        captured.store.turn += 1
        logits, counts_LB, segments, cuts = captured.replay()
        for segment, (valid, following) in zip(captured.segments, segments, strict=True):
            segment.next_B.copy_(following)
            if segment.valid_BN is not None and valid is not None:
                segment.valid_BN.copy_(valid)
        cache = RaggedCache(config)
        captured.store.show(cache, 0)
        cache.segments = mapped(torch.clone, captured.segments)
        cache.fixed = Fixed(captured, captured.store.turn)
        counted = replace(captured.record, tokens_B=list(counts_LB.clone()))
        if cuts is not None:
            counted.cuts = with_tensors(counted.cuts, iter(cuts.clone().split(_widths(counted.cuts), dim=1)))
        return logits.clone(), counted, cache

    def _capture(self, inputs: Any, run: Prefill, store: Store, config: Any) -> Captured:
        static = mapped(torch.clone, inputs)
        tensors = tensors_of(static)
        kept: list[tuple[Record, list[Segment]]] = []

        def whole(*given: torch.Tensor) -> Any:
            rest = iter(given)
            again = with_tensors(static, rest)
            cache = RaggedCache(config)
            cache.layers = [_Written((next(rest), next(rest))) for _ in store.lengths]
            logits, record = run(again, cache)
            kept.append((record, cache.segments))
            state = [(segment.valid_BN, segment.next_B) for segment in cache.segments]
            cuts = tensors_of(record.cuts)
            return logits, torch.stack(record.tokens_B), state, torch.cat(cuts, dim=1) if cuts else None

        replay = self._recorder.record(whole, [*tensors, *tensors_of(store.memory)])
        record, segments = kept[-1]
        ids_B1 = torch.zeros(len(tensors[0]), 1, dtype=torch.long, device=tensors[0].device)
        # What the recorder ran on has no data yet, or none that stays: new memory for what the steps read.
        places = mapped(torch.zeros_like, segments)
        return Captured(
            static, store, replace(record, tokens_B=[]), replay, places, ids_B1, torch.zeros_like(ids_B1[0])
        )

    def step(self, cache: RaggedCache, ids_B1: torch.Tensor, run: Step) -> torch.Tensor | None:
        """The logits (B, 1, vocab) of one decoded token; None where it has to be run in the usual way.

        Raises RuntimeError for a cache that was overwritten.
        """
        fixed: Fixed | None = cache.fixed
        if fixed is None:
            return None
        fixed.check()
        captured = fixed.captured
        if fixed.steps >= captured.store.room:
            return None
        if captured.replay_step is None:
            captured.replay_step = self._capture_step(captured, run)
        captured.ids_B1.copy_(ids_B1)
        captured.step_1.fill_(fixed.steps)
        logits = captured.replay_step()
        for segment in cache.segments:
            length = captured.store.lengths[segment.first - 1] + fixed.steps
            segment.append(None, length, len(ids_B1), 1)
        fixed.steps += 1
        captured.store.show(cache, fixed.steps)
        cache.input_length += 1
        return logits.clone()

    def _capture_step(self, captured: Captured, run: Step) -> Callable[[], torch.Tensor]:
        store = captured.store

        def whole(ids_B1: torch.Tensor, step_1: torch.Tensor, *given: torch.Tensor) -> torch.Tensor:
            rest = iter(given)
            segments = with_tensors(captured.segments, rest)
            cache = DynamicCache()
            cache.layers = [_Appended((next(rest), next(rest)), step_1 + length) for length in store.lengths]
            recent = (torch.arange(self.room, device=step_1.device) <= step_1).expand(len(ids_B1), self.room)
            masked = []
            for segment in segments:
                valid = segment.valid_BN
                if valid is None:
                    valid = recent.new_ones(len(ids_B1), store.lengths[segment.first - 1])
                masked.append((segment, torch.cat([valid, recent], dim=1)[:, None, None]))
            return run(ids_B1, step_1, masked, cache)

        inputs = [captured.ids_B1, captured.step_1, *tensors_of(captured.segments), *tensors_of(store.memory)]
        return self._recorder.record(whole, inputs)
