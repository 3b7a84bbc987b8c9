"""What only a CUDA machine can show; skipped elsewhere."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from hidrop.methods import build
from hidrop.runtime import forward, reduce
from hidrop.runtime.cuda_graphs import CudaRecorder, Graphs
from tests.baselines.test_every_method import reducer_of
from tests.conftest import make_llava
from tests.hidrop.runtime.test_cuda_graphs import ROWS, answers, batch

pytestmark = [pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")]


@pytest.mark.parametrize("row", ROWS)
def test_cuda_graphs_answer_as_eager_does(row: str) -> None:
    model, reducer, graphs = make_llava(kv_heads=2).cuda(), reducer_of(row), Graphs(bucket=4, room=8)
    for number, sizes in enumerate([[(3, 18), (5, 9)], [(9, 14), (2, 2)], [(1, 20), (12, 12)]]):
        inputs = {name: tensor.cuda() for name, tensor in batch(*sizes, seed=10 * number).items()}
        made, plain = (answers(model, reducer, inputs, which) for which in (graphs, None))
        assert torch.equal(made[0], plain[0]) and made[2] == plain[2]
        torch.testing.assert_close(made[1], plain[1], atol=1e-3, rtol=1e-3)


def test_a_recorder_outlives_its_graphs() -> None:
    model, recorder = make_llava(kv_heads=2).cuda(), CudaRecorder()
    inputs = {name: tensor.cuda() for name, tensor in batch((3, 18), (5, 9)).items()}
    found = [answers(model, reducer_of("hidrop"), inputs, Graphs(recorder, bucket=4, room=8))[0] for _ in range(3)]
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


@pytest.mark.parametrize("captured", [False, True])
def test_the_tower_beside_the_text_layers_races_with_nothing(captured: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same bits a hundred times, and those of the serial order."""
    model, reducer = make_llava(layers=8).cuda(), build("hidrop", dict(inject=5, filters=[5, 6], keep=[5, 2], exit=8))
    inputs = {name: tensor.cuda() for name, tensor in batch((3, 18), (5, 9)).items()}

    def run() -> torch.Tensor:
        graphs = Graphs(bucket=4) if captured else None
        with torch.no_grad(), reduce(model, reducer, graphs=graphs):
            return torch.stack([model(**inputs, logits_to_keep=1).logits for _ in range(100)])

    beside = run()
    whole = forward.SideStream
    monkeypatch.setattr(forward, "SideStream", lambda make, device, apart: whole(make, device, apart=False))
    serial = run()
    assert (beside == beside[0]).all() and torch.equal(beside, serial)


@pytest.mark.skipif(importlib.util.find_spec("flash_attn") is None, reason="needs flash-attn")
@pytest.mark.parametrize("row", ["vanilla", "hidrop", "fastv", "pdrop", "sparsevlm"])
def test_flash_attention_packs_prompts_of_unequal_lengths(row: str) -> None:
    """Padding is left out of its variable-length kernel; scores are computed by ourselves, as with sdpa."""
    inputs = {name: tensor.cuda() for name, tensor in batch((3, 18), (5, 9)).items()}
    logits = []
    for attention in ("sdpa", "flash_attention_2"):
        model = make_llava(kv_heads=2, attention=attention).to("cuda", torch.bfloat16)
        with torch.no_grad(), reduce(model, reducer_of(row)) as reduction:
            images = inputs["pixel_values"].bfloat16()
            logits.append(model(**{**inputs, "pixel_values": images}, logits_to_keep=1).logits.float())
            assert reduction.trace.entering == reduction.plan.entering
    torch.testing.assert_close(logits[0], logits[1], atol=0.1, rtol=0.05)


@pytest.mark.slow
def test_captured_and_eager_answer_the_embedded_questions_alike() -> None:
    """The fixed set: the first 200 of the embedded GQA, float32, with HiDrop's own checkpoint."""
    from evals.model.lmms_model import HidropLlava
    from evals.tasks import TaskSpec, ask
    from hidrop.models import load

    loaded = load("mini:hidrop", device="cuda")
    found = []
    for graphs in (None, Graphs()):
        records: list[dict] = []
        lm = HidropLlava.from_loaded(loaded, loaded.reducer, batch_size=8, record=records.extend, graphs=graphs)
        ask(lm, TaskSpec("gqa"), limit=200)
        found.append({record["doc_id"]: record["answer"] for record in records})
    assert found[0] == found[1]
