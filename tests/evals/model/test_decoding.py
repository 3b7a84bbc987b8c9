"""Answers depend on the task's decoding settings, and on nothing that a checkpoint says about generation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hidrop.pretrained import pretrained
from tests.evals.model.test_lmms_model import QUESTIONS, instance, model, picture

# Values that would change answers, of the fields that transformers has today.
HOSTILE = {
    "max_length": 3, "min_length": 400, "min_new_tokens": 6, "early_stopping": "never", "max_time": 1e-9,
    "stop_strings": ["a"], "do_sample": True, "num_beams": 3, "use_cache": False, "cache_implementation": "static",
    "cache_config": {"nbits": 2}, "temperature": 0.1, "top_k": 2, "top_p": 0.2, "repetition_penalty": 9.0,
    "encoder_repetition_penalty": 9.0, "length_penalty": 9.0, "no_repeat_ngram_size": 1,
    "bad_words_ids": [[i] for i in range(4, 60)], "forced_bos_token_id": 61, "forced_eos_token_id": 8,
    "exponential_decay_length_penalty": [0, 99.0], "suppress_tokens": list(range(4, 60)),
    "begin_suppress_tokens": list(range(4, 60)), "sequence_bias": [[[9], 99.0]], "guidance_scale": 5.0,
    "watermarking_config": {"greenlist_ratio": 0.3, "bias": 99.0}, "num_return_sequences": 2, "output_scores": True,
    "return_dict_in_generate": True, "bos_token_id": 9, "pad_token_id": 9, "decoder_start_token_id": 9,
    "prompt_lookup_num_tokens": 3, "assistant_early_exit": 1, "prefill_chunk_size": 2, "penalty_alpha": 0.6,
    "dola_layers": "low", "constraints": None, "renormalize_logits": True, "token_healing": True,
}  # fmt: skip
# Tried in turn for every field that is not above: those of later versions.
OTHERS: tuple[Any, ...] = (1, True, 0.5, "static", [1], {"a": 1})
OF_THE_FILE = ("_commit_hash", "_from_model_config", "transformers_version", "eos_token_id")


def fields() -> list[str]:
    from transformers import GenerationConfig

    return [name for name in GenerationConfig().to_dict() if name not in OF_THE_FILE] + ["a_field_of_tomorrow"]


def settings_with(folder: Path, **values: Any) -> Any:
    """What transformers reads from a generation_config.json with these values. Raises what it raises."""
    from transformers import GenerationConfig

    (folder / "generation_config.json").write_text(json.dumps(values))
    return pretrained(GenerationConfig, folder)


def hostile(folder: Path, name: str) -> Any:
    """The settings with another value for one field than transformers' default."""
    from transformers import GenerationConfig

    candidates = [HOSTILE[name]] if HOSTILE.get(name) is not None else OTHERS
    for value in candidates:
        try:
            found = settings_with(folder, **{name: value})
        except (ValueError, TypeError, AttributeError):
            continue
        if getattr(found, name, None) is not None:
            return found
    found = GenerationConfig()  # a value that transformers refuses in a file
    setattr(found, name, candidates[0])
    return found


def answered(loaded: Any) -> tuple[list[str], dict[str, Any]]:
    """The answers to two questions, and the settings that `generate` worked with."""
    seen: list[dict[str, Any]] = []
    inner = loaded.model._prepare_generation_config

    def watched(*arguments: Any, **more: Any) -> Any:
        prepared = inner(*arguments, **more)
        seen.append(prepared[0].to_dict())
        return prepared

    loaded.model._prepare_generation_config = watched
    try:
        results = model(loaded, batch_size=2).generate_until([instance(QUESTIONS[i], i, picture) for i in range(2)])
    finally:
        del loaded.model._prepare_generation_config
    return [result.text for result in results], seen[-1]


@pytest.mark.filterwarnings("ignore")
def test_no_field_of_a_generation_config_reaches_an_answer(loaded: Any, tmp_path: Path) -> None:
    plain = answered(loaded)
    for name in fields():
        loaded.model.generation_config = hostile(tmp_path, name)
        assert answered(loaded) == plain, name
        assert getattr(loaded.model.generation_config, name) is not None, "the model keeps its own settings"


@pytest.mark.filterwarnings("ignore")
def test_the_same_fields_do_change_what_plain_generate_works_with(
    loaded: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test above can fail: without the protection, most of these settings arrive."""
    import contextlib

    from evals.model import lmms_model

    plain = answered(loaded)
    monkeypatch.setattr(lmms_model, "without_own_settings", contextlib.nullcontext)
    arrived = set()
    for name in ("repetition_penalty", "suppress_tokens", "forced_bos_token_id", "use_cache", "a_field_of_tomorrow"):
        loaded.model.generation_config = hostile(tmp_path, name)
        answers, settings = answered(loaded)
        assert settings != plain[1]
        arrived.add(answers == plain[0])
    assert arrived == {True, False}


@pytest.mark.filterwarnings("ignore")
def test_the_files_of_a_checkpoint_change_no_answer(loaded: Any, tmp_path: Path) -> None:
    from hidrop.models import load, save

    folder = save(loaded.model, loaded.tokenizer, loaded.image_processor, tmp_path / "tiny")
    file = folder / "generation_config.json"
    file.write_text(json.dumps({"eos_token_id": 2}))
    plain = answered(load(folder))
    bad = ("repetition_penalty", "suppress_tokens", "forced_bos_token_id", "cache_implementation", "do_sample", "top_k")
    file.write_text(json.dumps({"eos_token_id": 2} | {name: HOSTILE[name] for name in bad}))
    again = load(folder)
    assert again.model.generation_config.repetition_penalty == 9.0
    assert answered(again) == plain


@pytest.mark.parametrize(
    ("generation", "config", "text", "ends"),
    [
        ({"eos_token_id": 7}, 5, 6, (7,)),
        ({"eos_token_id": [7, 9]}, 5, 6, (7, 9)),
        ({}, 5, 6, (5,)),
        (None, 5, 6, (5,)),
        (None, None, 6, (6,)),
        (None, None, None, ()),
    ],
)
def test_the_ends_of_an_answer_are_those_that_the_files_state(
    tmp_path: Path, generation: Any, config: Any, text: Any, ends: tuple[int, ...]
) -> None:
    from hidrop.models import answer_ends

    stated = {"eos_token_id": config, "text_config": {"eos_token_id": text}}
    (tmp_path / "config.json").write_text(json.dumps(stated))
    if generation is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps(generation))
    assert answer_ends(tmp_path) == ends


def test_an_answer_ends_where_the_files_state_it(loaded: Any) -> None:
    whole = model(loaded).generate_until([instance(QUESTIONS[0], 0, picture)])[0]
    ids = loaded.tokenizer(whole.text).input_ids
    loaded.ends = (ids[2],)
    cut = model(loaded).generate_until([instance(QUESTIONS[0], 0, picture)])[0]
    assert whole.text.startswith(cut.text) and cut.text != whole.text
    assert cut.token_counts.output_tokens < whole.token_counts.output_tokens


@pytest.mark.parametrize("value", ["</s>", [1, None], True, -1, 2.0, {"a": 1}])
def test_ends_that_are_no_token_ids_are_refused_with_their_file(tmp_path: Path, value: Any) -> None:
    from hidrop.errors import UserError
    from hidrop.models import answer_ends

    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": value}))
    with pytest.raises(UserError, match=r"generation_config\.json: eos_token_id: expected a token id"):
        answer_ends(tmp_path)
    (tmp_path / "generation_config.json").write_text("{")
    with pytest.raises(UserError, match=r"generation_config\.json: not JSON"):
        answer_ends(tmp_path)
