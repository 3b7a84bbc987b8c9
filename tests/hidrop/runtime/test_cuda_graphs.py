"""Graphs of prefills and decoding steps, on any machine: their operations are recorded from one prompt by torch.fx and
run again on others, so that whatever a graph would freeze (a number read from the data, a shape) shows as a mistake."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from hidrop.methods import build
from hidrop.runtime import reduce
from hidrop.runtime.cuda_graphs import Graphs
from hidrop.runtime.feature_cache import FeatureCache
from tests.baselines.test_every_method import METHODS, reducer_of
from tests.conftest import make_llava, make_llava_next, make_pixels, make_prompt, pad
from tests.hidrop.backbones.families import batch_of, model_of
from tests.hidrop.runtime.test_llava_next import inputs as next_inputs

ROWS = [row for row in METHODS if not (reducer_of(row).adaptive or reducer_of(row).rechosen)]
# Recording takes seconds: one of each method here, all of them on CUDA.
KINDS = [row for row in ROWS if row in dict.fromkeys(reducer_of(one).name for one in ROWS)]


class FxRecorder:
    """Records the operations themselves; nothing of Python runs in a replay."""

    def __init__(self) -> None:
        self.recorded = self.replayed = 0

    def record(self, run: Callable[..., Any], inputs: Sequence[torch.Tensor]) -> Callable[[], Any]:
        self.recorded += 1
        graph = make_fx(run)(*inputs)

        def replay() -> Any:
            self.replayed += 1
            return graph(*inputs)

        return replay


@pytest.fixture(scope="module")
def model() -> Any:
    return make_llava(kv_heads=2)


def batch(*sizes: tuple[int, int], seed: int = 0) -> dict[str, torch.Tensor]:
    """A left-padded batch of prompts with so many words before and after the image."""
    prompts = [make_prompt(before, after, seed=seed + i) for i, (before, after) in enumerate(sizes)]
    pixels = torch.cat([make_pixels(seed=seed + i) for i in range(len(sizes))])
    return {**pad(prompts), "pixel_values": pixels}


def answers(model: Any, reducer: Any, inputs: dict[str, torch.Tensor], graphs: Graphs | None, **more: Any) -> Any:
    with torch.no_grad(), reduce(model, reducer, graphs=graphs) as reduction:
        made = model.generate(
            **inputs, max_new_tokens=6, do_sample=False, return_dict_in_generate=True, output_logits=True, **more
        )
        return made.sequences, torch.stack(made.logits), (reduction.trace.rows, reduction.kept)


@pytest.mark.parametrize("row", [*KINDS, "hidrop-compacted", "hidrop-group", "sparsevlm-strong"])
def test_one_recording_answers_other_prompts_of_its_shape(row: str, model: Any) -> None:
    reducer, recorder = reducer_of(row), FxRecorder()
    graphs = Graphs(recorder, bucket=4, room=8)
    # All of them have 20 to 24 tokens of text in the longest row, so that one shape serves them.
    for number, sizes in enumerate([[(3, 18), (5, 9)], [(9, 14), (2, 2)], [(1, 20), (12, 12)]]):
        inputs = batch(*sizes, seed=10 * number)
        sequences, logits, seen = answers(model, reducer, inputs, graphs)
        plain = answers(model, reducer, inputs, None)
        assert torch.equal(sequences, plain[0])
        torch.testing.assert_close(logits, plain[1], atol=2e-5, rtol=2e-5)
        assert seen == plain[2]
    assert recorder.recorded == 2, "one prefill, one step"
    assert recorder.replayed == 3 * 6


def test_counts_of_another_reference_image_are_another_graph() -> None:
    """Of 12 tokens 2 stay, or 4, by what the count is of; all shapes of the input are the same."""
    qwen, inputs, recorder = model_of("qwen2_vl"), batch_of("qwen2_vl", [[(84, 112)]]), FxRecorder()
    graphs, method, entering = Graphs(recorder, bucket=64, room=8), build("fastv", dict(layer=1, keep=4)), []
    for reference in (24, 12):
        logits = []
        for kept in (graphs, None):
            with torch.no_grad(), reduce(qwen, method, graphs=kept, reference_tokens=reference) as reduction:
                logits.append(qwen(**inputs, logits_to_keep=1).logits)
        torch.testing.assert_close(logits[0], logits[1], atol=2e-5, rtol=2e-5)
        entering.append(reduction.trace.entering[1])
    assert entering == [2, 4]
    assert len(graphs._kept) == 2


def test_another_shape_is_another_graph(model: Any) -> None:
    recorder, reducer = FxRecorder(), reducer_of("hidrop")
    graphs = Graphs(recorder, bucket=8)
    for sizes in ([(3, 4)], [(3, 5)], [(3, 9)], [(3, 4), (3, 4)], [(2, 5)]):
        with torch.no_grad(), reduce(model, reducer, graphs=graphs):
            model(**batch(*sizes), logits_to_keep=1)
    # Up to 8 words without filling, up to 8 with it, up to 16 with it, two rows.
    assert recorder.recorded == 4


def test_a_prompt_that_fills_its_bucket_runs_unmasked_and_holds_what_the_plan_says(model: Any) -> None:
    reducer, inputs = reducer_of("hidrop"), batch((3, 5))
    with torch.no_grad():
        with reduce(model, reducer) as reduction:
            cache = model(**inputs, logits_to_keep=1).past_key_values
        with reduce(model, reducer, graphs=Graphs(FxRecorder(), bucket=1)) as reduction:
            other = model(**inputs, logits_to_keep=1).past_key_values
            assert reduction.trace.kv_bytes == other.nbytes
    assert (other.lengths, other.nbytes) == (cache.lengths, cache.nbytes)
    assert all(segment.valid_BN is None for segment in other.segments)
    for mine, theirs in zip(other.layers, cache.layers, strict=True):
        torch.testing.assert_close(mine.keys, theirs.keys, atol=1e-5, rtol=1e-5)


def test_tokens_beyond_the_room_are_decoded_as_ever(model: Any) -> None:
    reducer, inputs, recorder = reducer_of("fastv"), batch((3, 5), (2, 2)), FxRecorder()
    made = answers(model, reducer, inputs, Graphs(recorder, bucket=4, room=2))
    assert torch.equal(made[0], answers(model, reducer, inputs, None)[0])
    assert recorder.replayed == 1 + 2


def test_beams_take_the_cache_out_of_the_graph(model: Any) -> None:
    reducer, inputs = reducer_of("pdrop"), batch((3, 5), (2, 2))
    made = answers(model, reducer, inputs, Graphs(FxRecorder(), bucket=4), num_beams=3)
    assert torch.equal(made[0], answers(model, reducer, inputs, None, num_beams=3)[0])


def test_a_second_turn_goes_on_from_a_captured_cache(model: Any) -> None:
    reducer, first, more = reducer_of("hidrop"), batch((3, 5)), torch.tensor([[7, 8, 9]])
    logits = []
    for graphs in (None, Graphs(FxRecorder(), bucket=4)):
        with torch.no_grad(), reduce(model, reducer, graphs=graphs):
            cache = model(**first, logits_to_keep=1).past_key_values
            model(input_ids=torch.tensor([[5]]), past_key_values=cache, logits_to_keep=1)
            model(input_ids=more, past_key_values=cache, logits_to_keep=1)
            logits.append(model(input_ids=torch.tensor([[6]]), past_key_values=cache, logits_to_keep=1).logits)
    torch.testing.assert_close(logits[0], logits[1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("change", ["step", "chunk", "beams", "crop"])
def test_a_cache_whose_memory_was_taken_says_so(change: str, model: Any) -> None:
    one = torch.tensor([[5]])
    with torch.no_grad(), reduce(model, reducer_of("hidrop"), graphs=Graphs(FxRecorder(), bucket=4)):
        cache = model(**batch((3, 5)), logits_to_keep=1).past_key_values
        if change == "crop":
            model(input_ids=one, past_key_values=cache, logits_to_keep=1)
        model(**batch((3, 5), seed=1), logits_to_keep=1)
        with pytest.raises(RuntimeError, match="overwritten by a later prefill"):
            if change == "beams":
                cache.reorder_cache(torch.tensor([0]))
            elif change == "crop":
                cache.crop(-1)
            else:
                ids = one if change == "step" else one.expand(1, 2)
                model(input_ids=ids, past_key_values=cache, logits_to_keep=1)


def test_features_that_are_kept_go_into_the_graph(model: Any) -> None:
    reducer, recorder, cache = reducer_of("random"), FxRecorder(), FeatureCache()
    graphs = Graphs(recorder, bucket=4)
    for seed in (0, 1, 0):
        inputs = batch((3, 5), seed=seed)
        with torch.no_grad(), reduce(model, reducer, features=cache, graphs=graphs):
            made = model.generate(**inputs, max_new_tokens=3, do_sample=False)
        assert torch.equal(made, answers(model, reducer, inputs, None)[0][:, : made.shape[1]])
    assert recorder.recorded == 2 and (cache.hits, cache.misses) == (1, 2)


def test_prompts_without_an_image_have_their_own_graph(model: Any) -> None:
    reducer, recorder = reducer_of("hidrop"), FxRecorder()
    graphs = Graphs(recorder, bucket=4)
    for seed in (0, 1):
        inputs = pad([make_prompt(3, 5, images=0, seed=seed)])
        assert torch.equal(answers(model, reducer, inputs, graphs)[0], answers(model, reducer, inputs, None)[0])
    assert recorder.recorded == 2


def test_images_in_tiles_are_encoded_before_the_graph() -> None:
    model, reducer, recorder = make_llava_next(), reducer_of("hidrop"), FxRecorder()
    graphs = Graphs(recorder, bucket=4)
    for seed in (0, 1):
        inputs = next_inputs(model, [[0], [0]], seed=seed)
        assert torch.equal(answers(model, reducer, inputs, graphs)[0], answers(model, reducer, inputs, None)[0])
    assert recorder.recorded == 2


def test_what_cannot_be_captured_runs_as_ever(model: Any) -> None:
    recorder = FxRecorder()
    graphs, inputs = Graphs(recorder, bucket=4), batch((3, 5))
    adaptive = build("sparsevlm", {"version": "1.0", "layers": [2], "scale": 60})
    for reducer in (adaptive, reducer_of("fastv-rechosen")):
        assert torch.equal(answers(model, reducer, inputs, graphs)[0], answers(model, reducer, inputs, None)[0])
    with reduce(model, reducer_of("fastv"), graphs=graphs):
        model(**inputs, logits_to_keep=1)  # with gradients
        with torch.no_grad():
            model(**inputs)  # all logits
            model(**inputs, labels=inputs["input_ids"])
            model(**inputs, use_cache=False, logits_to_keep=1)
    eager = make_llava(attention="eager")
    answers(eager, reducer_of("fastv"), inputs, graphs)
    assert recorder.recorded == 0


def test_the_longest_unused_graph_is_dropped(model: Any) -> None:
    recorder = FxRecorder()
    graphs = Graphs(recorder, bucket=4, limit=2)

    def prefill(words: int) -> None:
        with torch.no_grad(), reduce(model, reducer_of("fastv"), graphs=graphs):
            model(**batch((3, words)), logits_to_keep=1)

    for words in (5, 9, 5, 13, 5):
        prefill(words)
    assert recorder.recorded == 3
    prefill(9)
    assert recorder.recorded == 4


@pytest.mark.skipif(torch.cuda.is_available(), reason="there are CUDA graphs here")
def test_graphs_without_cuda_are_refused_in_words() -> None:
    with pytest.raises(RuntimeError, match="CUDA graphs need a CUDA device"):
        Graphs()
