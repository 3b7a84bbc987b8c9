"""torch.compile under a reduction: on each layer, or on the whole model."""

from __future__ import annotations

import pytest
import torch

from hidrop.methods import build
from hidrop.runtime import reduce
from hidrop.runtime.compiled_layers import fuse


@pytest.mark.slow
@pytest.mark.parametrize("what", ["layers", "model"])
def test_a_compiled_model_gives_the_same_answers(what, tiny_llava, prompt, pixels, padded):
    hidrop = build("hidrop", dict(inject=2, filters=[3, 4], keep=[5, 2], exit=6))
    model, image = tiny_llava(kv_heads=2), torch.cat([pixels(seed=1), pixels(seed=2)])
    batch = padded([prompt(3, 7, seed=1), prompt(5, 2, seed=2)])
    with reduce(model, hidrop):
        wanted = model.generate(**batch, pixel_values=image, max_new_tokens=4, do_sample=False)
    # The tracing is what could go wrong here; the code that inductor makes of it is torch's business.
    for module in model.model.language_model.layers if what == "layers" else [model]:
        module.compile(backend="eager", dynamic=True)
    with reduce(model, hidrop) as reduction:
        got = model.generate(**batch, pixel_values=image, max_new_tokens=4, do_sample=False)
        assert reduction.trace.entering == reduction.plan.entering
    assert torch.equal(got, wanted)


@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_fused_norms_and_mlps_give_the_same_answers_without_a_graph_break(backend, tiny_llava, prompt, pixels):
    hidrop = build("hidrop", dict(inject=2, filters=[3, 4], keep=[5, 2], exit=6))
    model, inputs = tiny_llava(kv_heads=2), {"input_ids": prompt(3, 7), "pixel_values": pixels()}
    with torch.no_grad(), reduce(model, hidrop):
        wanted = model(**inputs).logits
    fuse(model.model.language_model, backend)
    with torch.no_grad(), reduce(model, hidrop):
        torch.testing.assert_close(model(**inputs).logits, wanted, atol=1e-5, rtol=1e-5)
    shorter = prompt(2, 3)
    with torch.no_grad(), reduce(model, hidrop):
        assert model(input_ids=shorter, pixel_values=pixels()).logits.shape[1] == shorter.shape[1]
