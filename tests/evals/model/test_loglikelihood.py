"""Log-likelihoods of choices, against full forwards, the methods' slow references and lmms-eval's own scoring."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from evals.model.choices import LEAST, Likelihood, batches_of, continuation_ids, documents_of, read, written
from evals.model.lmms_model import HidropLlava
from evals.model.loglikelihood import Prefilled
from evals.model.nan_guard import Watch
from hidrop.backbones import backbone_of
from hidrop.errors import UserError
from hidrop.methods import build
from hidrop.models import Loaded, load
from hidrop.runtime import reduce
from hidrop.videos import VideoFile
from tests import tiny_checkpoints
from tests.baselines.slow_model import SlowLlava
from tests.baselines.slow_rules import RULES
from tests.baselines.test_every_method import METHODS, generate, reducer_of
from tests.conftest import make_llava, make_pixels, make_prompt
from tests.evals.model.test_lmms_model import picture
from tests.evals.tasks.layout import write
from tests.evals.tasks.table import png
from tests.films import write_film
from tests.hidrop.backbones.slow_reference import Steps, run

TASK = "toy"
QUESTION = "What is it?"
CHOICES = [" a red square", " no", " blue", " a red dot"]
DOCS = [{"colours": [(20 * i, 255 - 30 * i, 7 * i)]} for i in range(4)]


def choice(continuation: Any, doc_id: int = 0, context: str = QUESTION, visuals: Any = picture, **metadata: Any) -> Any:
    return SimpleNamespace(args=(context, continuation, visuals, doc_id, TASK, "test"), metadata=metadata)


def choices(doc_id: int = 0, texts: Sequence[str] = CHOICES, **more: Any) -> list[Any]:
    return [choice(text, doc_id, **more) for text in texts]


def toy() -> list[Any]:
    """Four documents with questions of different lengths."""
    return [one for doc_id in range(4) for one in choices(doc_id, context=QUESTION + " Say it." * doc_id)]


def model(loaded: Any, docs: Any = DOCS, **options: Any) -> HidropLlava:
    lm = HidropLlava.from_loaded(loaded, **options)
    lm.task_dict[TASK] = {"test": docs}
    return lm


def scored(lm: HidropLlava, requests: Sequence[Any]) -> list[tuple[float, bool]]:
    return [(logprob, greedy) for logprob, greedy in lm.loglikelihood(requests)]


def deep(loaded: Any) -> Any:
    """`loaded` with the decoder that the table of methods is for: 6 layers, grouped queries."""
    made = make_llava(kv_heads=2, seed=1)
    geometry = replace(backbone_of(made).geometry, max_positions=4096)
    return SimpleNamespace(**{**vars(loaded), "model": made, "backbone": backbone_of(made), "geometry": geometry})


def characters(tokenizer: Any, text: str) -> list[int]:
    """The ids of a text in the test tokenizer, which has one for each character, by its table alone."""
    return tokenizer.convert_tokens_to_ids([character.replace(" ", "▁") for character in text])


def likelihood(logits_SV: torch.Tensor, ids: Sequence[int]) -> tuple[float, bool]:
    """Of the last len(ids) tokens of a sequence, from the logits at all of its places."""
    rows = logits_SV[-len(ids) - 1 : -1].double().log_softmax(-1)
    return sum(row[token].item() for row, token in zip(rows, ids, strict=True)), rows.argmax(-1).tolist() == list(ids)


def plain(loaded: Any, prompt: Any, ids: Sequence[int]) -> tuple[float, bool]:
    """By transformers' own forward over the prompt (as `Protocol.prepare` makes it) and the continuation."""
    with torch.no_grad():
        return likelihood(loaded.model(**joined(loaded, prompt, ids)).logits[0], ids)


def joined(loaded: Any, prompt: Any, ids: Sequence[int]) -> dict[str, torch.Tensor]:
    whole = torch.tensor([[*prompt.ids, *ids]])
    derived = {name: loaded.backbone.kinds(whole) for name in loaded.backbone.derived_inputs}
    return {"input_ids": whole, "attention_mask": torch.ones_like(whole), **(prompt.inputs or {}), **derived}


def close(found: Sequence[tuple[float, bool]], wanted: Sequence[tuple[float, bool]], atol: float = 1e-5) -> None:
    """Equal up to float32's rounding of sums of some tokens' log-probabilities."""
    for one, other in zip(found, wanted, strict=True):
        assert one[1] == other[1]
        assert one[0] == pytest.approx(other[0], abs=atol, rel=2e-6)


@pytest.fixture(scope="module")
def families(folders: dict[str, Path]) -> Callable[..., Loaded]:
    made: dict[Any, Loaded] = {}

    def get(name: str, **options: Any) -> Loaded:
        key = (name, *options.items())
        made[key] = made.get(key) or load(folders[name], **options)
        return made[key]

    return get


# ---- the numbers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["llava", "lmms-eval"])
def test_without_a_method_likelihoods_are_those_of_a_full_forward(loaded: Any, protocol: str) -> None:
    lm = model(loaded, protocol=protocol)
    prompt = lm.protocol.prepare(loaded, QUESTION, picture(DOCS[1]))
    wanted = [plain(loaded, prompt, characters(loaded.tokenizer, text)) for text in CHOICES]
    close(scored(lm, choices(1)), wanted)
    assert len({round(logprob, 2) for logprob, _ in wanted}) == 4


@pytest.mark.parametrize("name", tiny_checkpoints.FAMILIES)
def test_in_every_family_likelihoods_are_those_of_a_full_forward(name: str, families: Callable[..., Loaded]) -> None:
    loaded = families(name)
    docs = [{"images": [Image.effect_noise((90, 60), 80).convert("RGB")]}, {"images": []}]
    lm = model(loaded, docs, protocol="native")
    for doc_id, doc in enumerate(docs):
        prompt = lm.protocol.prepare(loaded, QUESTION, doc["images"])
        ids = [loaded.tokenizer(text, add_special_tokens=False).input_ids for text in CHOICES]  # bytes: no joins
        assert [len(one) for one in ids] == [len(text) for text in CHOICES]
        wanted = [plain(loaded, prompt, one) for one in ids]
        close(scored(lm, choices(doc_id, visuals=lambda doc: doc["images"])), wanted, atol=5e-5)


@pytest.mark.parametrize("name", ["qwen3_vl", "llava_onevision"])
def test_likelihoods_about_a_video_are_those_of_a_full_forward(
    name: str, families: Callable[..., Loaded], tmp_path: Path
) -> None:
    loaded, film = families(name), str(write_film(tmp_path / "a.mkv"))
    lm = model(loaded, [{}], protocol="native", frames=2)
    prompt = lm.protocol.prepare(loaded, QUESTION, [], videos=[lm._video(VideoFile(tmp_path, "a.mkv"))])
    wanted = [plain(loaded, prompt, loaded.tokenizer(text).input_ids) for text in CHOICES]
    assert prompt.visual_tokens > 0
    close(scored(lm, choices(visuals=lambda doc: [film])), wanted, atol=5e-5)


def test_a_continuation_that_the_model_would_say_is_greedy(loaded: Any) -> None:
    lm = model(loaded, max_new_tokens=1)
    said = lm.generate_until([SimpleNamespace(args=(QUESTION, {}, picture, 0, TASK, "test"), metadata={})])[0].text
    assert len(said) == 1
    (first, other) = scored(lm, [choice(said), choice("q" if said != "q" else "z")])
    assert first[1] and not other[1] and first[0] > other[0]


@pytest.mark.parametrize("row", [row for row in METHODS if row in RULES])
def test_with_every_method_likelihoods_are_those_of_the_slow_reference(row: str, loaded: Any) -> None:
    stand = deep(loaded)
    lm = model(stand, reducer=reducer_of(row), protocol="lmms-eval")
    prompt = lm.protocol.prepare(stand, QUESTION, picture(DOCS[1]))
    texts, pixels = [" red", " no"], prompt.inputs["pixel_values"]
    wanted = [slow_likelihood(stand.model, row, prompt.ids, pixels, characters(loaded.tokenizer, t)) for t in texts]
    close(scored(lm, choices(1, texts)), wanted, atol=1e-3)


def slow_likelihood(
    made: Any, row: str, prompt: list[int], pixels: torch.Tensor, ids: Sequence[int]
) -> tuple[float, bool]:
    """Token after token by the slow model; a method that chooses again does so for each of them."""
    rule = RULES[row]()
    slow = SlowLlava(made, rule)
    logits = [slow.logits(slow.prefill(prompt, pixels)[-1])]
    for count, token in enumerate(ids, start=1):
        if getattr(rule, "rechosen", False):
            slow = SlowLlava(made, rule)
            logits.append(slow.logits(slow.prefill([*prompt, *ids[:count]], pixels, generated=count)[-1]))
        else:
            logits.append(slow.step(token))
    return likelihood(torch.stack(logits), ids)


# Of the 12 visual tokens of an image of 112 x 84 pixels in Qwen2.5-VL, and the 16 of a tile in InternVL.
REDUCED: dict[str, tuple[str, dict[str, Any], Steps]] = {
    "fastv": ("fastv", dict(layer=2, keep=7), Steps(cuts=((2, 7),), of="this")),
    "hidrop": (
        "hidrop",
        dict(inject=3, filters=[3, 4], keep=[8, 5], exit=6),
        Steps(3, ((3, 8), (4, 5)), 6),
    ),
    "pdrop": (
        "pdrop",
        dict(layers=[2, 4], ratios=[0.5, 0.25], positions="persistent"),
        Steps(cuts=((2, 0), (4, 0)), of="next"),
    ),
}


@pytest.mark.parametrize(("name", "size", "tokens"), [("qwen2_5_vl", (112, 84), 12), ("internvl", (30, 30), 16)])
@pytest.mark.parametrize("method", REDUCED)
def test_reduced_likelihoods_are_those_of_masked_full_forwards(
    method: str, name: str, size: tuple[int, int], tokens: int, families: Callable[..., Loaded]
) -> None:
    options = {"reference_tokens": tokens}
    loaded, slow = families(name, **options), families(name, attention="eager", **options)
    kind, fields, steps = REDUCED[method]
    if method == "pdrop":
        steps = replace(steps, cuts=((2, tokens // 2), (4, tokens // 4)))
    docs = [{"images": [Image.effect_noise(size, 80).convert("RGB")]}]
    records: list[dict[str, Any]] = []
    lm = model(loaded, docs, protocol="native", reducer=build(kind, fields), record=records.extend)
    prompt, wanted = lm.protocol.prepare(loaded, QUESTION, docs[0]["images"]), []
    for text in CHOICES:
        ids = loaded.tokenizer(text, add_special_tokens=False).input_ids
        logits, _ = run(slow.model, slow.backbone, joined(slow, prompt, ids), steps, answer=len(ids))
        wanted.append(likelihood(logits, ids))
    close(scored(lm, choices(visuals=lambda doc: doc["images"])), wanted, atol=1e-3)
    assert records[0]["visual_tokens"] == tokens and records[0]["entering"] is None


@pytest.mark.parametrize("row", METHODS)
def test_a_generated_answer_has_the_likelihood_that_generate_gave_it(row: str) -> None:
    made = make_llava(kv_heads=2, seed=1)
    inputs = {
        "input_ids": make_prompt(),
        "attention_mask": torch.ones_like(make_prompt()),
        "pixel_values": make_pixels(),
    }
    with torch.inference_mode(), reduce(made, reducer_of(row)):
        new, logits, _ = generate(made, **inputs)
        prefilled = Prefilled.of(made, inputs, Watch(made.device))
        others = [prefilled.score([7, 11, 13]), prefilled.score([8])]
        ids = new[0].tolist()
        found = prefilled.score(ids)
        assert [prefilled.score([7, 11, 13]), prefilled.score([8])] == others
    rows = logits[0].float().log_softmax(-1)
    assert found == (sum(row[token].item() for row, token in zip(rows, ids, strict=True)), True)


@pytest.mark.parametrize("row", ["vanilla", "fastv-rechosen", "hidrop", "pdrop"])
def test_choices_do_not_see_each_other(row: str, loaded: Any) -> None:
    lm = model(deep(loaded), reducer=reducer_of(row))
    together = scored(lm, choices())
    assert [scored(lm, [one])[0] for one in choices()] == together
    assert scored(lm, choices()[::-1]) == together[::-1]
    assert len(set(together)) == 4


def test_graphs_give_the_same_for_any_order_of_choices(loaded: Any) -> None:
    from hidrop.runtime.cuda_graphs import Graphs
    from tests.hidrop.runtime.test_cuda_graphs import FxRecorder

    reducer, recorder = build("random", {"layer": 2, "keep": 5}), FxRecorder()
    lm = model(loaded, reducer=reducer, graphs=Graphs(recorder, bucket=64))
    found = scored(lm, choices())
    assert recorder.recorded == 1, "only the prefill: a step of a graph would write to the keys of the prompt"
    assert scored(lm, choices()[::-1]) == found[::-1]
    close(found, scored(model(loaded, reducer=reducer), choices()), atol=1e-4)


def test_an_image_that_a_method_makes_smaller_is_the_one_that_is_seen(families: Callable[..., Loaded]) -> None:
    loaded = families("qwen2_5_vl")
    docs = [{"images": [Image.effect_noise((112, 84), 80).convert("RGB")]}]
    records: list[dict[str, Any]] = []
    reducer = build("downsample", {"side": 2})
    lm = model(loaded, docs, protocol="native", reducer=reducer, record=records.extend)
    found = scored(lm, choices(visuals=lambda doc: doc["images"]))
    seen = lm.protocol.prepare(loaded, QUESTION, docs[0]["images"], lm._smaller)
    close(found, [plain(loaded, seen, loaded.tokenizer(text).input_ids) for text in CHOICES], atol=5e-5)
    left = int((loaded.backbone.kinds(torch.tensor(seen.ids)) > 0).sum())
    assert records[0]["visual_tokens"] == 12 > left and records[0]["entering"] == [left] * 6


# ---- tokens ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def joining() -> Any:
    """Bytes of text with the pieces `\\n\\n`, `:a` and ` b`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [("Ċ", "Ċ"), (":", "a"), ("Ġ", "b")]
    vocab = {symbol: number for number, symbol in enumerate([*symbols, *("".join(pair) for pair in pieces)])}
    inner = Tokenizer(models.BPE(vocab=vocab, merges=pieces))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=inner)


@pytest.mark.parametrize(
    ("prompt", "continuation", "pieces"),
    [
        ("Who? ANSWER:", " b", ["Ġb"]),
        ("Who? ANSWER:", " ab", ["Ġ", "a", "b"]),
        ("Who? ANSWER:", "ab", ["a", "b"]),  # ":a" would take the prompt's last token away
        ("Who? ANSWER: ", "b", ["b"]),
        ("assistant\n", "\nb", ["Ċ", "b"]),
        ("assistant\n", "\n\n", ["ĊĊ"]),
        ("assistant\n", "", []),
    ],
)
def test_a_continuation_leaves_the_prompts_tokens_as_they_are(
    joining: Any, prompt: str, continuation: str, pieces: list[str]
) -> None:
    ids = continuation_ids(joining, prompt, continuation)
    assert joining.convert_ids_to_tokens(ids) == pieces
    assert joining.decode(joining(prompt).input_ids + ids) == prompt + continuation


def test_a_sentencepiece_continuation_that_would_join_the_prompt_starts_no_word() -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocab = {piece: number for number, piece in enumerate(["▁", "\n", ":", "a", "b", ":a", "▁a"])}
    inner = Tokenizer(models.BPE(vocab=vocab, merges=[(":", "a"), ("▁", "a")]))
    inner.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
    joining = PreTrainedTokenizerFast(tokenizer_object=inner)
    assert joining.tokenize("b:a") == ["▁", "b", ":a"] and joining.tokenize("ab") == ["▁a", "b"]
    ids = continuation_ids(joining, "b:", "ab")
    assert joining.convert_ids_to_tokens(ids) == ["a", "b"]


@pytest.mark.parametrize("continuation", [" yes", "yes", "\nyes", " "])
def test_a_sentencepiece_continuation_gets_no_word_boundary_that_it_does_not_have(
    tokenizer: Any, continuation: str
) -> None:
    for prompt in ("USER: Who? ASSISTANT:", "USER: Who? ASSISTANT: "):
        assert continuation_ids(tokenizer, prompt, continuation) == characters(tokenizer, continuation)


def test_a_choice_without_tokens_names_its_sample(loaded: Any) -> None:
    with pytest.raises(UserError, match=r"toy, doc_id 2: choice 2, '', has no tokens"):
        model(loaded).loglikelihood(choices(2, [" a", ""]))


def test_a_continuation_may_be_a_function_of_the_document(loaded: Any) -> None:
    lm = model(loaded, [{**DOCS[0], "target": " no"}])
    assert scored(lm, [choice(lambda doc: doc["target"])]) == scored(lm, [choice(" no")])


# ---- records ---------------------------------------------------------------------------------------------------------


def test_a_document_has_one_prefill_and_one_record(loaded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    records: list[dict[str, Any]] = []
    prefills: list[int] = []
    inner = Prefilled.of.__func__

    def counted(cls: Any, model: Any, inputs: Mapping[str, torch.Tensor], watch: Any) -> Prefilled:
        prefills.append(inputs["input_ids"].shape[1])
        return inner(cls, model, inputs, watch)

    monkeypatch.setattr(Prefilled, "of", classmethod(counted))
    lm = model(deep(loaded), reducer=build("fastv", {"layer": 2, "keep": 5}), record=records.extend, workers=2)
    mixed = sorted(toy(), key=lambda one: CHOICES.index(one.args[1]))  # documents in turns
    found = scored(lm, mixed)
    assert [record["doc_id"] for record in records] == [3, 2, 1, 0], "the longest first"
    assert [record["batch"] for record in records] == [0, 1, 2, 3]
    assert prefills == [record["prompt_tokens"] for record in records]
    for record in records:
        own = [pair for one, pair in zip(mixed, found, strict=True) if one.args[3] == record["doc_id"]]
        assert json.loads(record["answer"]) == [list(pair) for pair in own]
        assert record["answer"] == json.dumps(json.loads(record["answer"]), separators=(",", ":"))
        assert record["task"] == TASK and record["error"] is None and record["milliseconds"] > 0
        assert record["new_tokens"] == sum(map(len, CHOICES)) and record["visual_tokens"] == 16
        assert record["entering"] is None and [after for after, _ in record["kept"]] == [2]
    assert lm.trace is not None and lm.trace.entering == (16, 16, 5, 5, 5, 5)


def test_a_resumed_run_scores_only_what_is_missing_and_gives_the_same(
    loaded: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    records: list[dict[str, Any]] = []
    found = scored(model(loaded, record=records.extend), toy())
    again: list[dict[str, Any]] = []
    done: dict[Any, Any] = {(record["task"], record["doc_id"]): record for record in records[:2]}
    assert scored(model(loaded, record=again.extend, done=done), toy()) == found
    assert [(r["doc_id"], r["batch"], r["answer"]) for r in again] == [
        (r["doc_id"], r["batch"], r["answer"]) for r in records[2:]
    ]
    whole = {(record["task"], record["doc_id"]): record["answer"] for record in records}
    lm = model(loaded, record=again.extend, done=whole)
    monkeypatch.setattr(lm, "_images_of", None)
    monkeypatch.setattr(loaded.model, "forward", None)
    assert scored(lm, toy()) == found and len(again) == 2


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("B", "toy, doc_id 0: the recorded answer 'B' has no log-likelihoods"),
        ("[1,2]", "has no log-likelihoods"),
        ("[[NaN,true]]", "has no log-likelihoods"),
        ("[[-1.5,true]]", "has 1 choices, but the document has 2"),
    ],
)
def test_a_record_of_something_else_is_refused(answer: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(answer, 2, (TASK, 0))


def test_likelihoods_survive_the_journal() -> None:
    pairs = [(-1 / 3, True), (LEAST, False), (-0.0, True)]
    assert read(written(pairs), 3, (TASK, 0)) == pairs


def test_several_processes_share_the_documents(loaded: Any) -> None:
    records: list[dict[str, Any]] = []
    whole = scored(model(loaded), toy())
    parts = [
        scored(model(loaded, record=records.extend, mine=lambda number, rest=rest: number % 2 == rest), toy())
        for rest in range(2)
    ]
    assert sorted(record["doc_id"] for record in records) == [0, 1, 2, 3]
    assert [max(pair) for pair in zip(*parts, strict=True)] == whole
    assert sum(pair == (LEAST, False) for part in parts for pair in part) == len(whole)


def test_padding_requests_are_answered_and_leave_no_record(loaded: Any) -> None:
    records: list[dict[str, Any]] = []
    requests = [*choices(), choice(CHOICES[-1], __padding_only__=True)]
    found = scored(model(loaded, record=records.extend), requests)
    assert found[-1] == found[-2] != (LEAST, False)
    assert len(records) == 1 and len(json.loads(records[0]["answer"])) == 4


def test_documents_with_no_or_several_images(loaded: Any) -> None:
    docs = [{"colours": []}, {"colours": [(0, 255, 0), (0, 0, 255)]}]
    records: list[dict[str, Any]] = []
    stand = deep(loaded)
    lm = model(stand, docs, record=records.extend, reducer=build("fastv", {"layer": 2, "keep": 5}))
    found = scored(lm, [*choices(0), *choices(1)])
    assert {r["doc_id"]: r["entering"] for r in records} == {0: [0] * 6, 1: [32, 32, 10, 10, 10, 10]}
    prompt = lm.protocol.prepare(stand, QUESTION, [])
    close(found[:4], [plain(stand, prompt, characters(loaded.tokenizer, text)) for text in CHOICES])


def test_contexts_of_one_document_are_prompts_of_their_own(loaded: Any) -> None:
    """Tasks with `multiple_input` put the choices into the context."""
    records: list[dict[str, Any]] = []
    requests = [choice(" yes", context=f"Is it {colour}?") for colour in ("red", "blue", "red")]
    reducer = build("fastv", {"layer": 2, "keep": 5})
    found = scored(model(loaded, record=records.extend, reducer=reducer), requests)
    assert found[0] == found[2] != found[1]
    assert found == [scored(model(loaded, record=records.extend, reducer=reducer), [one])[0] for one in requests]
    whole, first, second, _ = records
    assert len(json.loads(whole["answer"])) == 3 and whole["new_tokens"] == 3 * len(" yes")
    described = ("prompt_hash", "prompt_tokens", "kept", "entering")
    assert [whole[name] for name in described] == [first[name] for name in described], "those of the first prompt"
    assert first["kept"] != second["kept"]


# ---- failures --------------------------------------------------------------------------------------------------------


def test_a_broken_image_fails_its_document_only(loaded: Any) -> None:
    def broken(doc: dict[str, Any]) -> list[Any]:
        raise OSError("truncated file")

    records: list[dict[str, Any]] = []
    lm = model(loaded, record=records.extend)
    found = scored(lm, [*choices(0), *choices(1, visuals=broken), *choices(2)])
    assert found[4:8] == [(LEAST, False)] * 4 and LEAST not in [logprob for logprob, _ in found[:4] + found[8:]]
    assert lm.failures == {(TASK, 1): "OSError: truncated file"}
    (failed,) = [record for record in records if record["error"]]
    assert failed["doc_id"] == 1 and failed["prompt_hash"] is None and failed["new_tokens"] == 0
    assert json.loads(failed["answer"]) == [[LEAST, False]] * 4
    again = model(loaded, done={(TASK, 1): failed})
    assert scored(again, choices(1)) == found[4:8] and again.failures == lm.failures


def test_a_prompt_or_a_choice_beyond_the_positions_fails_its_document(loaded: Any) -> None:
    prompt = len(model(loaded).protocol.prepare(loaded, QUESTION, picture(DOCS[0])).ids)
    loaded.geometry = replace(loaded.geometry, max_positions=prompt + 4)
    lm = model(loaded)
    found = scored(lm, [*choices(0, [" abc", " no"]), *choices(1, [" abcd", " no"]), *choices(2, context=QUESTION * 2)])
    assert all(logprob > LEAST for logprob, _ in found[:2]), "the last token of a choice needs a position, too"
    assert set(found[2:]) == {(LEAST, False)}
    too_long = f"the prompt and a choice have {prompt + 5} tokens, but the model has only {prompt + 4} positions"
    assert lm.failures[TASK, 1] == too_long
    assert lm.failures[TASK, 2].endswith(f"but the model has only {prompt + 4} positions")


def test_logits_that_are_no_numbers_stop_the_run(loaded: Any) -> None:
    with torch.no_grad():
        loaded.model.lm_head.weight[3] = torch.nan
    with pytest.raises(FloatingPointError, match="logits are NaN or infinite in float32"):
        model(loaded).loglikelihood(choices())


def test_likelihoods_without_a_document_are_refused_in_words() -> None:
    with pytest.raises(UserError, match="toy: acc_mutual_info"):
        documents_of([SimpleNamespace(args=("", " yes"), metadata={}, task_name=TASK)])


def test_documents_are_numbered_from_the_longest_context_on() -> None:
    documents = documents_of([*choices(0), *choices(1, context="a longer question"), *choices(2)])
    assert [(one.key[1], batch.number) for one, batch in batches_of(documents, len)] == [(1, 0), (0, 1), (2, 2)]


# ---- with lmms-eval --------------------------------------------------------------------------------------------------


def test_a_likelihood_reaches_lmms_evals_scoring_as_a_pair() -> None:
    from lmms_eval.api.instance import unwrap_generation_output

    made = Likelihood.of((-1.5, True))
    assert tuple(made) == (-1.5, True)
    assert unwrap_generation_output(made)[0] == (1.5, True), "the smallest number is the best choice there"
    assert unwrap_generation_output((-1.5, True))[0] == "(-1.5, True)", "then a plain pair would do"


YAML = """\
task: toy_choices
dataset_path: parquet
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_visual: !function functions.visual
doc_to_text: question
doc_to_target: target
doc_to_choice: !function functions.options
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
  - {{metric: acc_norm, aggregation: mean, higher_is_better: true}}
"""
FUNCTIONS = """\
def visual(doc):
    return [doc["image"].convert("RGB")]

def options(doc):
    return doc["options"]
"""


@pytest.mark.parametrize("method", ["vanilla", "fastv"])
def test_lmms_eval_scores_a_multiple_choice_task_right(method: str, loaded: Any, tmp_path: Path) -> None:
    """Targets are set by the slow model, so that the accuracy is known: 2 of 3."""
    from lmms_eval.evaluator import simple_evaluate
    from lmms_eval.tasks import TaskManager

    options = [["a red square", "no"], ["no", "blue", "a small red dot"], ["yes", "no", "blue"]]
    images = [picture(doc)[0] for doc in DOCS[:3]]
    stand = deep(loaded)
    fields = {} if method == "vanilla" else {"layer": 2, "keep": 5}
    lm = model(stand, reducer=build(method, fields), protocol="lmms-eval")
    best, best_norm = [], []
    for image, texts in zip(images, options, strict=True):
        prompt = lm.protocol.prepare(stand, QUESTION, [image])
        pixels, row = prompt.inputs["pixel_values"], method
        ids = [characters(loaded.tokenizer, f" {text}") for text in texts]
        sums = [slow_likelihood(stand.model, row, prompt.ids, pixels, one)[0] for one in ids]
        best.append(max(range(len(texts)), key=lambda number, sums=sums: sums[number]))
        norms = [one / len(text) for one, text in zip(sums, texts, strict=True)]
        best_norm.append(max(range(len(texts)), key=lambda number, norms=norms: norms[number]))
    targets = [best[0], best[1], (best[2] + 1) % 3]  # the last one is wrong
    rows = [
        {"image": png(doc["colours"][0]), "question": QUESTION, "options": texts, "target": target}
        for doc, texts, target in zip(DOCS, options, targets, strict=False)
    ]
    write(rows, tmp_path / "toy.parquet")
    (tmp_path / "functions.py").write_text(FUNCTIONS)
    (tmp_path / "toy.yaml").write_text(YAML.format(data=tmp_path / "toy.parquet"))
    results = simple_evaluate(
        model=lm,
        tasks=["toy_choices"],
        task_manager=TaskManager(include_defaults=False, include_path=[str(tmp_path)]),
        bootstrap_iters=0,
        cli_args=SimpleNamespace(output_path=str(tmp_path), process_with_media=True),
    )
    found = results["results"]["toy_choices"]
    assert found["acc,none"] == pytest.approx(2 / 3)
    assert found["acc_norm,none"] == pytest.approx(sum(map(int.__eq__, best_norm, targets)) / 3)
    assert len(set(best)) > 1, "a fixed choice would have the same accuracy"
