"""What holds for every method. A new method is a row in METHODS.

A rule of the row's name in slow_rules.py, a second implementation in plain Python, adds the tests that compare with it.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hidrop.backbones import geometry_of
from hidrop.methods import METHODS as REGISTRY
from hidrop.methods import build
from hidrop.plan import TokenPlan
from hidrop.reducer import Reducer
from hidrop.runtime import reduce
from hidrop.runtime.attach import REPLACED
from tests.baselines.slow_rules import RULES

HIDROP = dict(inject=2, filters=[3, 4], keep=[5, 2], exit=6)
S2 = dict(version="2.0", heads=3)
V1 = dict(version="1.0")
ZIP = dict(dominant=4, contextual=2)


def stack(
    *members: dict[str, Any], entering: tuple[int, ...], **fields: Any
) -> tuple[str, dict[str, Any], tuple[int, ...]]:
    return "stack", {"stack": list(members), **fields}, entering


FEATHER = dict(layers=[1, 3], ratios=[0.65, 0.2], stride=2)
BY_SAMPLE = (16,) * 6  # the most that may enter: counts depend on the sample
# For a decoder of 6 layers and 16 visual tokens: row -> (method, its fields, visual tokens entering each layer).
METHODS: dict[str, tuple[str, dict[str, Any], tuple[int, ...]]] = {
    "vanilla": ("vanilla", {}, (16, 16, 16, 16, 16, 16)),
    "hidrop": ("hidrop", HIDROP, (0, 16, 16, 5, 2, 0)),
    "hidrop-cut-on-entry": ("hidrop", dict(inject=3, filters=[2, 3], keep=[7, 2], exit=5), (0, 0, 7, 2, 0, 0)),
    "hidrop-group": ("hidrop", dict(HIDROP, positions="group"), (0, 16, 16, 5, 2, 0)),
    "hidrop-compacted": ("hidrop", dict(HIDROP, positions="compacted"), (0, 16, 16, 5, 2, 0)),
    "hidrop-ste": ("hidrop", dict(HIDROP, topk="ste"), (0, 16, 16, 5, 2, 0)),
    "hidrop-soft-gate": ("hidrop", dict(HIDROP, topk="soft-gate"), (0, 16, 16, 5, 2, 0)),
    "hidrop-ties": ("hidrop", dict(HIDROP, ties="released"), (0, 16, 16, 5, 2, 0)),  # no ties in random models
    "hidrop-text": ("hidrop", dict(HIDROP, query="text"), (0, 16, 16, 5, 2, 0)),
    "fastv": ("fastv", dict(layer=2, keep=5), (16, 16, 5, 5, 5, 5)),
    "fastv-all": ("fastv", dict(layer=2, keep=5, query="all"), (16, 16, 5, 5, 5, 5)),
    "fastv-rechosen": ("fastv", dict(layer=2, keep=5, rechosen=True), (16, 16, 5, 5, 5, 5)),
    "pdrop": ("pdrop", {}, (16, 8, 8, 4, 2, 2)),
    "pdrop-ratio": ("pdrop", dict(layers=[2, 4], ratio=0.6), (16, 16, 9, 9, 5, 5)),
    "pdrop-persistent": ("pdrop", dict(positions="persistent"), (16, 8, 8, 4, 2, 2)),
    "sparsevlm": ("sparsevlm", {}, (16, 9, 7, 4, 4, 4)),
    "sparsevlm-strong": ("sparsevlm", dict(layers=[2, 4], keep=[3, 1]), (16, 16, 4, 4, 2, 2)),
    "sparsevlm-2.0": ("sparsevlm", dict(version="2.0", heads=2), (16, 8, 6, 3, 3, 3)),
    "sparsevlm-2.0-strong": ("sparsevlm", dict(S2, layers=[2, 4], keep=[3, 1]), (16, 16, 3, 3, 1, 1)),
    "sparsevlm-1.0": ("sparsevlm", dict(V1, scale=100, bias=50), BY_SAMPLE),
    "sparsevlm-1.0-strong": ("sparsevlm", dict(V1, layers=[2, 4], scale=30), BY_SAMPLE),
    "random": ("random", dict(layer=2, keep=5, seed=3), (16, 16, 5, 5, 5, 5)),
    "random-before-decoder": ("random", dict(layer=0, keep=4), (4, 4, 4, 4, 4, 4)),
    "uniform": ("uniform", dict(keep=5), (5, 5, 5, 5, 5, 5)),
    "uniform-after-a-layer": ("uniform", dict(layer=1, keep=7), (16, 7, 7, 7, 7, 7)),
    "pool": ("pool", dict(keep=5), (5, 5, 5, 5, 5, 5)),
    "divprune": ("divprune", dict(keep=5), (5, 5, 5, 5, 5, 5)),
    "visionzip": ("visionzip", dict(dominant=4, contextual=2), (6, 6, 6, 6, 6, 6)),
    "visionzip-one": ("visionzip", dict(dominant=7, contextual=1), (8, 8, 8, 8, 8, 8)),
    "fastervlm": ("fastervlm", dict(keep=5), (5, 5, 5, 5, 5, 5)),
    "vispruner": ("vispruner", dict(keep=6), (6, 6, 6, 6, 6, 6)),
    "vispruner-step": ("vispruner", dict(keep=7, important=0.3, step=2), (7, 7, 7, 7, 7, 7)),
    "holov": ("holov", dict(keep=6, crops=4), (6, 6, 6, 6, 6, 6)),
    "holov-score": ("holov", dict(keep=7, crops=3, alpha=0.5, pick="score"), (7, 7, 7, 7, 7, 7)),
    "prumerge": ("prumerge", dict(neighbours=3), BY_SAMPLE),
    "prumerge-keep": ("prumerge", dict(keep=5, neighbours=4), (5, 5, 5, 5, 5, 5)),
    "prumerge-plus": ("prumerge", dict(keep=8, plus=True), (8, 8, 8, 8, 8, 8)),
    "cdpruner": ("cdpruner", dict(keep=5), (5, 5, 5, 5, 5, 5)),
    "cdpruner-none": ("cdpruner", dict(keep=5, relevance="none"), (5, 5, 5, 5, 5, 5)),
    "cdpruner-weighted": ("cdpruner", dict(keep=4, weight=1), (4, 4, 4, 4, 4, 4)),
    "downsample": ("downsample", dict(side=2), (4, 4, 4, 4, 4, 4)),
    "downsample-odd": ("downsample", dict(side=3), (9, 9, 9, 9, 9, 9)),
    "text_only": ("text_only", {}, (0, 0, 0, 0, 0, 0)),
    "stack-duet": stack(
        dict(visionzip=ZIP), dict(pdrop=dict(layers=[3, 4], ratios=[0.5, 0.25])), entering=(6, 6, 6, 3, 1, 1)
    ),
    "stack-vscan": stack(
        dict(visionzip=dict(dominant=6, contextual=2)),
        dict(pdrop=dict(layers=[3], ratios=[1 / 3], positions="persistent")),
        entering=(8, 8, 8, 2, 2, 2),
    ),
    "stack-entry": stack(dict(visionzip=ZIP), dict(fastv=dict(keep=3)), entering=(6, 6, 3, 3, 3, 3)),
    "stack-kept-positions": stack(
        dict(visionzip=ZIP), dict(fastv=dict(keep=3)), entering=(6, 6, 3, 3, 3, 3), positions="persistent"
    ),
    "stack-late": stack(
        dict(divprune=dict(keep=8)), dict(hidrop=HIDROP), entering=(0, 8, 8, 5, 2, 0), positions="persistent"
    ),
    "stack-downsample": stack(dict(downsample=dict(side=3)), dict(fastv=dict(keep=4)), entering=(9, 9, 4, 4, 4, 4)),
    "stack-downsample-divprune": stack(
        dict(downsample=dict(side=3)), dict(divprune=dict(keep=4)), entering=(4, 4, 4, 4, 4, 4)
    ),
    "stack-vitcop": stack(
        dict(fastervlm=dict(keep=10)),
        dict(fastv=dict(layer=1, keep=6)),
        dict(pdrop=dict(layers=[4], ratios=[0.5], positions="persistent")),
        entering=(10, 6, 6, 6, 3, 3),
    ),
    "stack-exit": stack(dict(fastv=dict(keep=5)), dict(vtw=dict(exit=5)), entering=(16, 16, 5, 5, 0, 0)),
    "stack-sparsevlm": stack(
        dict(divprune=dict(keep=10)), dict(sparsevlm=dict(layers=[2, 4], keep=[3, 1])), entering=(10, 10, 4, 4, 2, 2)
    ),
    "stack-sparsevlm-2.0": stack(
        dict(fastv=dict(layer=1, keep=10)),
        dict(sparsevlm=dict(S2, layers=[2, 4], keep=[3, 1])),
        entering=(16, 10, 3, 3, 1, 1),
    ),
    "dart": ("dart", dict(keep=7), (16, 16, 7, 7, 7, 7)),
    "dart-norm": ("dart", dict(keep=9, layer=1, image_pivots=2, text_pivots=1, order="norm"), (16, 9, 9, 9, 9, 9)),
    "dart-embedding": ("dart", dict(keep=6, variant="embedding"), (6, 6, 6, 6, 6, 6)),
    "feather": ("feather", {}, (16, 8, 8, 1, 1, 1)),
    "feather-late": ("feather", dict(layers=[2, 4], ratios=[0.4, 0.3], stride=2), (16, 16, 10, 10, 4, 4)),
    "feather-released": ("feather", dict(FEATHER, union="released"), (16, 14, 14, 3, 3, 3)),
    "vtw": ("vtw", dict(exit=4), (16, 16, 16, 0, 0, 0)),
    "vtw-compacted": ("vtw", dict(exit=2, positions="compacted"), (16, 0, 0, 0, 0, 0)),
}
STEPS = 5

every_method = pytest.mark.parametrize("row", METHODS)
every_method_with_a_rule = pytest.mark.parametrize("row", [row for row in METHODS if row in RULES])
# Methods whose numbers are compared with papers: each of their rows has a rule.
WITH_A_RULE = {
    "vanilla", "hidrop", "fastv", "pdrop", "sparsevlm", "divprune", "visionzip",
    "random", "uniform", "pool", "downsample", "text_only", "stack", "vtw", "feather", "dart",
    "fastervlm", "vispruner", "holov", "prumerge",
    "cdpruner",
}  # fmt: skip
heads = pytest.mark.parametrize("kv_heads", [4, 2], ids=["MHA", "GQA"])


def reducer_of(row: str) -> Reducer:
    name, params, _ = METHODS[row]
    return build(name, params)


def follows(entering: tuple[int, ...], row: str) -> bool:
    """Whether a prompt with one image had as many visual tokens in each layer as the method's row says."""
    wanted = METHODS[row][2]
    if reducer_of(row).bound == "<=":
        return entering != wanted and all(n <= most for n, most in zip(entering, wanted, strict=True))
    return entering == wanted


def generate(model: Any, **inputs: Any) -> tuple[torch.Tensor, torch.Tensor, Any]:
    """New ids (B, STEPS), their logits (B, STEPS, vocab), the cache."""
    settings = dict(max_new_tokens=STEPS, do_sample=False, return_dict_in_generate=True, output_logits=True)
    out = model.generate(**{**settings, **inputs})
    return out.sequences[:, inputs["input_ids"].shape[1] :], torch.stack(out.logits, 1), out.past_key_values


def test_every_published_method_has_a_second_implementation():
    rows = {row for row, (name, _, _) in METHODS.items() if name in WITH_A_RULE}
    assert rows <= RULES.keys()
    assert {name for name, _, _ in METHODS.values()} == set(REGISTRY)


@every_method_with_a_rule
@heads
def test_generation_equals_the_slow_reference(row, kv_heads, tiny_llava, slow_llava, prompt, pixels):
    model = tiny_llava(kv_heads=kv_heads, seed=1)
    for seed, (before, after) in enumerate([(3, 6), (1, 2), (7, 9)]):
        ids, image = prompt(before, after, seed=seed), pixels(seed=seed)
        wanted, wanted_logits = slow_llava(model, row).greedy(ids[0].tolist(), image, STEPS)
        with reduce(model, reducer_of(row)):
            got, logits, _ = generate(model, input_ids=ids, pixel_values=image)
        assert got[0].tolist() == wanted
        torch.testing.assert_close(logits[0].double(), torch.stack(wanted_logits), atol=2e-4, rtol=1e-4)


@every_method
def test_plan_is_what_the_method_says(row, tiny_llava):
    geometry = geometry_of(tiny_llava().config)
    assert reducer_of(row).plan(geometry).entering == METHODS[row][2]


@every_method
@heads
def test_every_layer_holds_what_the_plan_says(row, kv_heads, tiny_llava, prompt, pixels):
    model, ids = tiny_llava(kv_heads=kv_heads), prompt(3, 6)
    with reduce(model, reducer_of(row)) as reduction:
        _, _, cache = generate(model, input_ids=ids, pixel_values=pixels())
        trace = reduction.trace
    text = 9 + (STEPS - 1 if reduction.reducer.rechosen else 0)  # of the last prefill
    assert follows(trace.entering, row)
    assert reduction.plan.entering == METHODS[row][2]
    assert trace.text_tokens == text
    assert trace.kv_lengths == tuple(n + text for n in trace.entering)
    assert trace.kv_bytes == TokenPlan(reduction.geometry, trace.entering).kv_bytes(text, element_bytes=4)
    assert cache.lengths == tuple(n + 9 + STEPS - 1 for n in trace.entering)


@every_method_with_a_rule
@pytest.mark.parametrize("side", ["left", "right"])
def test_kept_names_the_tokens_that_the_slow_reference_keeps(row, side, tiny_llava, slow_llava, prompt, pixels, padded):
    if reducer_of(row).encodes:
        pytest.skip("the tokens of such a method are not places in the image")
    # The slow rules know the counts for one image; of a method that does not choose by rules, two are told apart, too.
    count = 2 if row in ("vanilla", "uniform", "random", "text_only") else 1
    model, images = tiny_llava(kv_heads=2, seed=1), [pixels(seed=1), pixels(count, seed=2)]
    prompts = [prompt(3, 6, seed=1), prompt(4, 9, images=count, seed=2)]
    with reduce(model, reducer_of(row)) as reduction, torch.no_grad():
        model(**padded(prompts, side), pixel_values=torch.cat(images))
    for number, (ids, image) in enumerate(zip(prompts, images, strict=True)):
        slow = slow_llava(model, row)
        slow.prefill(ids[0].tolist(), image)
        for kept in reduction.kept:
            assert kept.rows[number] == slow.kept[kept.after], f"after layer {kept.after}"
    assert len(reduction.kept) == len(reduction.reducer.schedule(reduction.geometry).cuts)


@every_method
@heads
def test_a_batch_padded_on_either_side_equals_single_runs(row, kv_heads, tiny_llava, prompt, pixels, padded):
    model = tiny_llava(kv_heads=kv_heads)
    prompts = [
        prompt(3, 7, seed=1),
        prompt(5, 2, seed=2),
        prompt(2, 4, images=0, seed=3),
        prompt(1, 5, images=2, seed=4),
    ]
    images = [pixels(seed=1), pixels(seed=2), None, pixels(2, seed=4)]
    with reduce(model, reducer_of(row)) as reduction:
        single = [generate(model, input_ids=p, pixel_values=i) for p, i in zip(prompts, images, strict=True)]
        together = torch.cat([image for image in images if image is not None])
        for side in ("left", "right"):
            ids, logits, _ = generate(model, **padded(prompts, side), pixel_values=together)
            assert ids.tolist() == [one[0][0].tolist() for one in single], side
            torch.testing.assert_close(logits, torch.cat([one[1] for one in single]), atol=5e-5, rtol=1e-4)
            rows = reduction.trace.rows
            assert follows(rows[0], row)
            assert follows(rows[1], row)
            assert set(rows[2]) == {0}
            assert max(rows[3]) <= 2 * max(METHODS[row][2])


@every_method
def test_a_prompt_without_an_image_runs_as_a_plain_language_model(row, tiny_llava, prompt, padded):
    model = tiny_llava(kv_heads=2)
    inputs = padded([prompt(4, 5, images=0, seed=1), prompt(2, 2, images=0, seed=2)])
    wanted, wanted_logits, _ = generate(model, **inputs)
    with reduce(model, reducer_of(row)):
        got, logits, _ = generate(model, **inputs)
    assert torch.equal(got, wanted)
    torch.testing.assert_close(logits, wanted_logits, atol=1e-5, rtol=1e-5)


@every_method
def test_eager_attention_gives_what_sdpa_gives(row, tiny_llava, prompt, pixels, padded):
    inputs = padded([prompt(3, 7, seed=1), prompt(5, 2, seed=2)])
    image = torch.cat([pixels(seed=1), pixels(seed=2)])
    logits = []
    for attention in ("sdpa", "eager"):
        model = tiny_llava(kv_heads=2, attention=attention)
        with reduce(model, reducer_of(row)):
            logits.append(generate(model, **inputs, pixel_values=image)[1])
    torch.testing.assert_close(logits[0], logits[1], atol=5e-5, rtol=1e-4)


@every_method
def test_beams_carry_their_own_cache(row, tiny_llava, prompt, pixels, padded):
    """The score of a beam is the sum of log probabilities that its tokens get when fed one after another."""
    model = tiny_llava(kv_heads=2)
    inputs = padded([prompt(3, 7, seed=1), prompt(5, 2, seed=2)])
    image = torch.cat([pixels(seed=1), pixels(seed=2)])
    with reduce(model, reducer_of(row)), torch.no_grad():
        settings = dict(num_beams=3, do_sample=False, max_new_tokens=STEPS, length_penalty=0.0)
        out = model.generate(**inputs, pixel_values=image, **settings, return_dict_in_generate=True, output_scores=True)
        new = out.sequences[:, inputs["input_ids"].shape[1] :]
        step = model(**inputs, pixel_values=image, logits_to_keep=1)
        total = torch.zeros(2)
        for i in range(STEPS):
            total += step.logits[:, -1].log_softmax(-1).gather(1, new[:, i : i + 1])[:, 0]
            step = model(input_ids=new[:, i : i + 1], past_key_values=step.past_key_values)
    torch.testing.assert_close(out.sequences_scores, total, atol=1e-4, rtol=1e-4)


@every_method
def test_sampling_runs(row, tiny_llava, prompt, pixels):
    model = tiny_llava()
    with reduce(model, reducer_of(row)):
        out = model.generate(
            input_ids=prompt(), pixel_values=pixels(), do_sample=True, num_return_sequences=2, max_new_tokens=3
        )
    assert out.shape == (2, prompt().shape[1] + 3)


@every_method
def test_a_next_turn_at_once_equals_token_by_token(row, tiny_llava, prompt, pixels, padded):
    last = reducer_of(row).rechosen  # then each token has a choice of its own, and the last one's holds for all at once
    model = tiny_llava(kv_heads=2)
    inputs = padded([prompt(3, 7, seed=1), prompt(5, 2, seed=2)])
    image, more = torch.cat([pixels(seed=1), pixels(seed=2)]), torch.tensor([[5, 6, 7], [8, 9, 10]])
    with reduce(model, reducer_of(row)), torch.no_grad():
        cache = model(**inputs, pixel_values=image).past_key_values
        slowly = torch.cat([model(input_ids=more[:, i : i + 1], past_key_values=cache).logits for i in range(3)], 1)
        cache = model(**inputs, pixel_values=image).past_key_values
        at_once = model(input_ids=more, past_key_values=cache).logits
        cache = model(**inputs, pixel_values=image).past_key_values
        fill = torch.cat([torch.zeros(2, 1, dtype=torch.long), more], 1)
        flags = torch.cat([inputs["attention_mask"], torch.tensor([[0, 1, 1, 1]] * 2)], 1)
        left_padded = model(input_ids=fill, attention_mask=flags, past_key_values=cache).logits[:, 1:]
    seen = slice(-1 if last else None, None)
    torch.testing.assert_close(at_once[:, seen], slowly[:, seen], atol=5e-5, rtol=1e-4)
    torch.testing.assert_close(left_padded[:, seen], slowly[:, seen], atol=5e-5, rtol=1e-4)


@every_method
def test_training_sees_the_same_model_as_generation(row, tiny_llava, prompt, pixels):
    """With one answer, the labelled forward pass gives the losses of prefill and decoding over question and answer."""
    if reducer_of(row).rechosen:
        pytest.skip("in training one choice holds for the whole answer")
    model, ids, image = tiny_llava(kv_heads=2), prompt(3, 9), pixels()
    labels = ids.clone()
    labels[:, :-4] = -100
    with reduce(model, reducer_of(row)), torch.no_grad():
        loss = model(input_ids=ids, pixel_values=image, labels=labels).loss
        step, terms = model(input_ids=ids[:, :-4], pixel_values=image), []
        for i in range(ids.shape[1] - 4, ids.shape[1]):
            terms.append(-step.logits[:, -1].log_softmax(-1)[0, ids[0, i]])
            step = model(input_ids=ids[:, i : i + 1], past_key_values=step.past_key_values)
    torch.testing.assert_close(loss, torch.stack(terms).mean(), atol=1e-5, rtol=1e-5)


@every_method_with_a_rule
@pytest.mark.parametrize("shape", ["turns", "caption"])
def test_loss_equals_the_slow_reference(row, shape, tiny_llava, slow_llava, prompt, pixels):
    """Two turns with an answer each; and pretraining's prompt: nothing but the image and its caption."""
    if shape == "caption" and "sparsevlm" in row:
        pytest.skip("without a question there are no raters; the fallback has its own test")
    model, image = tiny_llava(kv_heads=2, seed=1), pixels(seed=5)
    ids = prompt(3, 11, seed=5) if shape == "turns" else prompt(1, 6, seed=6)
    labels = torch.full_like(ids, -100)
    labels[:, -3:] = ids[:, -3:]
    if shape == "turns":
        labels[:, -8:-5] = ids[:, -8:-5]
    else:
        labels[:, -6:] = ids[:, -6:]
    wanted = slow_llava(model, row).loss(ids[0].tolist(), image, labels[0].tolist())
    model.train()
    with reduce(model, reducer_of(row)):
        loss = model(input_ids=ids, pixel_values=image, labels=labels).loss
    assert loss.item() == pytest.approx(wanted, abs=1e-4)


@every_method
@pytest.mark.parametrize("side", ["left", "right"])
def test_gradients_are_finite_and_survive_checkpointing(row, side, tiny_llava, prompt, pixels, padded):
    model = tiny_llava(kv_heads=2).train()
    batch = padded([prompt(3, 12, seed=1), prompt(5, 7, seed=2), prompt(2, 5, images=0, seed=3)], side)
    image = torch.cat([pixels(seed=1), pixels(seed=2)])
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    labels[:, : labels.shape[1] // 2 + 8] = -100

    def gradients() -> tuple[float, list[torch.Tensor]]:
        model.zero_grad()
        loss = model(**batch, pixel_values=image, labels=labels).loss
        loss.backward()
        return loss.item(), [p.grad.clone() for p in model.parameters() if p.grad is not None]

    with reduce(model, reducer_of(row)) as reduction:
        loss, plain = gradients()
        assert follows(reduction.trace.rows[0], row)
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        again, checkpointed = gradients()
    assert loss == again
    assert all(torch.isfinite(g).all() for g in plain)
    assert len(plain) == len(checkpointed)
    for one, other in zip(plain, checkpointed, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


@every_method
def test_the_model_is_exactly_as_before(row, tiny_llava, prompt, pixels):
    model = tiny_llava()
    before = dict(model.__dict__), {k: v.clone() for k, v in model.state_dict().items()}
    inside = {name: dict(module.__dict__) for name, module in model.named_modules() if name}
    with reduce(model, reducer_of(row)):
        assert set(model.__dict__) == {*before[0], *REPLACED}
        assert inside == {name: dict(module.__dict__) for name, module in model.named_modules() if name}
        generate(model, input_ids=prompt(), pixel_values=pixels())
    assert dict(model.__dict__) == before[0]
    assert all(torch.equal(v, before[1][k]) for k, v in model.state_dict().items())
