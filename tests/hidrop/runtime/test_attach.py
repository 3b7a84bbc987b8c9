"""The vanilla reducer against transformers itself, and what `reduce` does to a model."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM, StaticCache

from hidrop.backbones import backbone_of
from hidrop.methods import build
from hidrop.runtime import RaggedCache, reduce

HIDROP = build("hidrop", dict(inject=2, filters=[3, 4], keep=[5, 2], exit=6))
VANILLA = build("vanilla")

heads = pytest.mark.parametrize("kv_heads", [4, 2], ids=["MHA", "GQA"])
kernels = pytest.mark.parametrize("attention", ["sdpa", "eager"])


@heads
@kernels
def test_vanilla_forward_equals_transformers(kv_heads, attention, tiny_llava, prompt, pixels):
    model, ids, image = tiny_llava(kv_heads=kv_heads, attention=attention), prompt(), pixels()
    with torch.no_grad():
        wanted = model(input_ids=ids, pixel_values=image)
        with reduce(model, VANILLA):
            got = model(input_ids=ids, pixel_values=image)
    torch.testing.assert_close(got.logits, wanted.logits, atol=1e-5, rtol=0)
    features = model.model.get_image_features(image, return_dict=True).pooler_output
    torch.testing.assert_close(got.image_hidden_states, torch.cat(list(features)))
    for mine, theirs in zip(got.past_key_values.layers, wanted.past_key_values.layers, strict=True):
        torch.testing.assert_close(mine.keys, theirs.keys, atol=1e-5, rtol=0)


@pytest.mark.parametrize("side", ["left", "right"])
def test_vanilla_forward_of_a_padded_batch_equals_transformers(side, tiny_llava, prompt, pixels, padded):
    model, image = tiny_llava(kv_heads=2), torch.cat([pixels(seed=1), pixels(3, seed=2)])
    batch = padded([prompt(3, 7, seed=1), prompt(5, 2, images=3, seed=2), prompt(4, 4, images=0, seed=3)], side)
    with torch.no_grad():
        wanted = model(**batch, pixel_values=image).logits
        with reduce(model, VANILLA):
            got = model(**batch, pixel_values=image).logits
    there = batch["attention_mask"].bool()
    torch.testing.assert_close(got[there], wanted[there], atol=2e-5, rtol=0)
    assert (got[~there] == 0).all()


@heads
@kernels
@pytest.mark.parametrize("beams", [1, 3])
def test_vanilla_generates_the_same_ids_as_transformers(kv_heads, attention, beams, tiny_llava, prompt, pixels, padded):
    model, image = tiny_llava(kv_heads=kv_heads, attention=attention), torch.cat([pixels(seed=1), pixels(seed=2)])
    batch = padded([prompt(3, 7, seed=1), prompt(5, 2, seed=2)])
    settings = dict(max_new_tokens=8, do_sample=False, num_beams=beams)
    wanted = model.generate(**batch, pixel_values=image, **settings)
    with reduce(model, VANILLA):
        assert torch.equal(model.generate(**batch, pixel_values=image, **settings), wanted)
        uncached = model.generate(**batch, pixel_values=image, **settings, use_cache=False)
    assert torch.equal(uncached, wanted)


@pytest.mark.parametrize("side", ["left", "right"])
def test_vanilla_loss_and_gradients_equal_transformers(side, tiny_llava, prompt, pixels, padded):
    model, image = tiny_llava(kv_heads=2), torch.cat([pixels(seed=1), pixels(seed=2)])
    batch = padded([prompt(3, 9, seed=1), prompt(5, 6, seed=2), prompt(4, 4, images=0, seed=3)], side)
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    noise = torch.rand(labels.shape, generator=torch.Generator().manual_seed(0))
    # No label on a prompt's first token: transformers would predict it from padding.
    labels = labels.masked_fill((labels == 99) | (labels == 1) | (noise < 0.3), -100)

    def run() -> tuple[torch.Tensor, list[torch.Tensor]]:
        model.zero_grad()
        loss = model(**batch, pixel_values=image, labels=labels).loss
        loss.backward()
        return loss.detach(), [p.grad.clone() for p in model.parameters() if p.grad is not None]

    loss, gradients = run()
    model.train()
    with reduce(model, VANILLA):
        mine, my_gradients = run()
        assert model(**batch, pixel_values=image, labels=labels).logits is None
    torch.testing.assert_close(mine, loss)
    for one, other in zip(my_gradients, gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_loss_can_be_a_share_of_a_larger_batch(tiny_llava, prompt, pixels):
    model, ids = tiny_llava(), prompt(3, 9)
    labels = ids.clone()
    labels[:, :-4] = -100
    with reduce(model, VANILLA), torch.no_grad():
        loss = model(input_ids=ids, pixel_values=pixels(), labels=labels).loss
        share = model(input_ids=ids, pixel_values=pixels(), labels=labels, num_items_in_batch=40).loss
    assert share.item() == pytest.approx(loss.item() * 4 / 40, rel=1e-5)


def test_without_the_image_the_caption_starts_after_the_token_before_it(tiny_llava, prompt, pixels):
    """Pretraining's prompt under early exit: the loss is that of BOS followed by the caption."""
    model, ids = tiny_llava(), prompt(1, 4)
    labels = ids.masked_fill(torch.arange(ids.shape[1])[None] < 17, -100)
    with reduce(model, build("hidrop", dict(inject=2, filters=[3], keep=[5], exit=6))), torch.no_grad():
        out = model(input_ids=ids, pixel_values=pixels(), labels=labels)
    before = out.logits[0, [0, 17, 18, 19]]
    wanted = torch.nn.functional.cross_entropy(before, ids[0, 17:])
    torch.testing.assert_close(out.loss, wanted)
    assert (out.logits[0, 1:17] == 0).all()


def test_logits_to_keep_gives_the_last_ones(tiny_llava, prompt, pixels, padded):
    model, ids, image = tiny_llava(), prompt(), pixels()
    with reduce(model, HIDROP), torch.no_grad():
        full = model(input_ids=ids, pixel_values=image).logits
        for keep in (1, 3, torch.tensor([2, 20])):
            some = model(input_ids=ids, pixel_values=image, logits_to_keep=keep).logits
            wanted = full[:, -keep:] if isinstance(keep, int) else full[:, keep]
            torch.testing.assert_close(some, wanted)
        assert full.shape == (1, ids.shape[1], 100)
        batch = padded([prompt(3, 8, seed=1), prompt(2, 2, seed=2)], "right")
        both = torch.cat([pixels(seed=1), pixels(seed=2)])
        last = model(**batch, pixel_values=both, logits_to_keep=1).logits
        torch.testing.assert_close(last[1, 0], model(**batch, pixel_values=both).logits[1, 19])


def test_a_tuple_is_returned_when_asked_for(tiny_llava, prompt, pixels):
    model, ids = tiny_llava(), prompt()
    with reduce(model, HIDROP), torch.no_grad():
        first, cache, _ = model(input_ids=ids, pixel_values=pixels(), return_dict=False)
        assert torch.equal(first, model(input_ids=ids, pixel_values=pixels()).logits)
        assert model(input_ids=ids[:, -1:], past_key_values=cache, return_dict=False)[0].shape == (1, 1, 100)


def test_the_signature_is_that_of_transformers(tiny_llava):
    model = tiny_llava()
    theirs = list(inspect.signature(model.forward).parameters)[:-1]
    theirs = [name for name in theirs if name not in backbone_of(model).refused_inputs]
    with reduce(model, VANILLA):
        mine = list(inspect.signature(model.forward).parameters)
    assert mine[: len(theirs)] == theirs


def test_the_model_is_restored_after_an_exception(tiny_llava):
    model = tiny_llava()
    before = dict(model.__dict__)
    with pytest.raises(KeyError), reduce(model, HIDROP):
        raise KeyError
    assert dict(model.__dict__) == before


def test_a_forward_that_was_there_comes_back(tiny_llava):
    model = tiny_llava()
    inner = model.forward

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        return inner(*args, **kwargs)

    model.forward = wrapped
    with reduce(model, HIDROP):
        assert model.forward is not wrapped
    assert model.forward is wrapped


def test_a_model_cannot_be_reduced_twice(tiny_llava):
    model = tiny_llava()
    with reduce(model, HIDROP):
        with (
            pytest.raises(RuntimeError, match="already reduced, by <Reduction of Llava.* by HiDrop"),
            reduce(model, VANILLA),
        ):
            pass
        assert "forward" in model.__dict__
    with reduce(model, VANILLA):
        pass


def test_two_models_can_be_reduced_at_once(tiny_llava, prompt, pixels):
    one, other, ids = tiny_llava(), tiny_llava(), prompt()
    with reduce(one, HIDROP) as first, reduce(other, VANILLA) as second, torch.no_grad():
        one(input_ids=ids, pixel_values=pixels())
        other(input_ids=ids, pixel_values=pixels())
        assert first.trace.entering == (0, 16, 16, 5, 2, 0)
        assert second.trace.entering == (16,) * 6


def test_other_architectures_are_refused():
    plain = LlamaForCausalLM(LlamaConfig(hidden_size=32, intermediate_size=32, num_hidden_layers=1, vocab_size=10))
    with pytest.raises(TypeError, match="LlamaForCausalLM"), reduce(plain, VANILLA):
        pass


def test_a_schedule_that_does_not_fit_is_refused_before_anything_runs(tiny_llava):
    model = tiny_llava()
    too_deep = build("fastv", dict(layer=9, keep=2))
    with pytest.raises(ValueError, match="cut after layer 9"), reduce(model, too_deep):
        pass
    assert "forward" not in model.__dict__


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda i: {**i, "pixel_values": None}, "16 image tokens, but pixel_values give 0"),
        (lambda i: {**i, "input_ids": i["input_ids"][:, :12]}, "9 image tokens, but the pixels give 16"),
        (lambda i: {**i, "input_ids": None, "inputs_embeds": torch.zeros(1, 3, 32)}, "needs input_ids"),
        (lambda i: {**i, "attention_mask": torch.ones(1, 1, 24, 24)}, "attention_mask: shape"),
        (lambda i: {**i, "output_attentions": True}, "output_attentions"),
        (lambda i: {**i, "input_ids": i["input_ids"][:, 3:19]}, "at least one token of text"),
    ],
)
def test_input_that_cannot_be_reduced_is_refused(change, message, tiny_llava, prompt, pixels):
    with reduce(tiny_llava(), HIDROP) as reduction, pytest.raises(ValueError, match=message):
        reduction.model(**change({"input_ids": prompt(), "pixel_values": pixels()}))


def test_caches_that_cannot_be_ragged_are_refused(tiny_llava, prompt, pixels):
    model, ids, image = tiny_llava(), prompt(), pixels()
    filled = model(input_ids=ids, pixel_values=image).past_key_values
    static = StaticCache(config=model.config.text_config, max_cache_len=64)
    with reduce(model, HIDROP), torch.no_grad():
        with pytest.raises(ValueError, match="filled without the reducer"):
            model(input_ids=ids[:, -1:], past_key_values=filled)
        with pytest.raises(ValueError, match="StaticCache"):
            model(input_ids=ids, pixel_values=image, past_key_values=static)
        cache = model(input_ids=ids, pixel_values=image, past_key_values=DynamicCache()).past_key_values
        assert isinstance(cache, RaggedCache)
        with pytest.raises(ValueError, match="first part of a prompt"):
            model(input_ids=ids, pixel_values=image, past_key_values=cache)
        with pytest.raises(ValueError, match="labels"):
            model(input_ids=ids, labels=ids, past_key_values=cache)


def test_a_conversation_goes_on_from_the_returned_cache(tiny_llava, prompt, pixels):
    """generate() is given the whole conversation and the cache, and works on the new part only."""
    model, ids, image = tiny_llava(), prompt(), pixels()
    with reduce(model, HIDROP), torch.no_grad():
        first = model.generate(
            input_ids=ids, pixel_values=image, max_new_tokens=3, do_sample=False, return_dict_in_generate=True
        )
        talk = torch.cat([first.sequences, torch.tensor([[7, 8, 9]])], 1)
        cache = first.past_key_values
        assert cache.get_seq_length() == ids.shape[1] + 2
        second = model.generate(input_ids=talk, past_key_values=cache, max_new_tokens=3, do_sample=False)
        cache = model(input_ids=ids, pixel_values=image).past_key_values
        step = model(input_ids=talk[:, ids.shape[1] :], past_key_values=cache)
        for i in range(3):
            token = step.logits[:, -1].argmax(-1, keepdim=True)
            assert token.item() == second[0, talk.shape[1] + i].item()
            step = model(input_ids=token, past_key_values=step.past_key_values)


def test_no_cache_when_none_is_wanted(tiny_llava, prompt, pixels):
    model, ids = tiny_llava(), prompt()
    with reduce(model, HIDROP) as reduction, torch.no_grad():
        assert model(input_ids=ids, pixel_values=pixels(), use_cache=False).past_key_values is None
        assert reduction.trace.kv_bytes == 0
        assert model(input_ids=ids, pixel_values=pixels(), labels=ids, use_cache=True).past_key_values is None


def test_flash_attention_gets_the_padding_mask_and_nothing_else(tiny_llava):
    """It is not installed everywhere; what it would be given is: (B, N) with padding, None without."""
    model = tiny_llava()
    with reduce(model, HIDROP) as reduction:
        model.config.text_config._attn_implementation = "flash_attention_2"
        hidden, valid = torch.zeros(2, 3, 32), torch.tensor([[False, True, True], [True] * 3])
        assert reduction.backbone.mask(hidden, None, None, 1) is None
        assert torch.equal(reduction.backbone.mask(hidden, valid, None, 1), valid)


@pytest.mark.parametrize(("attention", "asked"), [("sdpa", [1, 1]), ("eager", [1, 6, 22, 11, 8, 6, *[1] * 6])])
def test_a_kernel_without_masks_is_asked_once_for_all_layers(attention, asked, tiny_llava, prompt, pixels, monkeypatch):
    """With one token, before a prefill and before each decoded token. Another kernel has a mask for each sequence."""
    model, sizes = tiny_llava(attention=attention), list[int]()
    with reduce(model, HIDROP) as reduction, torch.no_grad():
        mask = reduction.backbone.mask
        monkeypatch.setattr(
            reduction.backbone, "mask", lambda hidden, *more: (sizes.append(hidden.shape[1]), mask(hidden, *more))[1]
        )
        cache = model(input_ids=prompt(2, 4), pixel_values=pixels()).past_key_values
        model(input_ids=torch.tensor([[5]]), past_key_values=cache)
    assert sizes == asked
