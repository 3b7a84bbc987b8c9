"""From LLaVA's JSON to ids and labels: what is learnt, in every case that its files have."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hidrop.errors import UserError
from hidrop.prompts import PLACEHOLDER, SYSTEM, piecewise
from hidrop.runtime.layout import IGNORED
from hidrop.training.conversations import Conversations, Prompt, encode, text_of, turns_of
from hidrop.training.dataset import Collator, Order, Samples
from tests.hidrop.training.conftest import RECORDS, TOKENS, said


def encoded(record: Any, embedded: Any, prompt: Prompt = "v1", longest: int = 4096) -> tuple[list[int], list[int]]:
    turns = turns_of(record)
    image = embedded.model.config.image_token_id
    return encode(turns, embedded.tokenizer, image, [TOKENS] * len(turns.images), prompt, longest)


def learnt(ids: list[int], labels: list[int], tokenizer: Any) -> list[str]:
    """The text of each run of labelled tokens."""
    runs: list[list[int]] = []
    for place, label in enumerate(labels):
        if label != IGNORED:
            assert label == ids[place]
            if place and labels[place - 1] != IGNORED:
                runs[-1].append(label)
            else:
                runs.append([label])
    return [tokenizer.decode(run) for run in runs]


@pytest.mark.parametrize("record", RECORDS)
def test_ids_are_those_of_the_evaluation_prompt_and_labels_the_answers(record: Any, embedded: Any) -> None:
    tokenizer, image = embedded.tokenizer, embedded.model.config.image_token_id
    ids, labels = encoded(record, embedded)
    turns = turns_of(record)
    text, _ = text_of(turns, "v1", tokenizer.eos_token)
    assert text.startswith(f"{SYSTEM} USER: {PLACEHOLDER * bool(turns.images)}")
    assert ids == piecewise(tokenizer, text, [TOKENS] * len(turns.images), image)
    assert learnt(ids, labels, tokenizer) == [f" {answer}</s>" for _, answer in turns.pairs]
    assert ids.count(image) == TOKENS * len(turns.images)
    # The first question is that of evaluation, so that both see the same prompt.
    asked = f"{SYSTEM} USER: {turns.pairs[0][0]} ASSISTANT:"
    assert ids[: len(ids)][: len(piecewise(tokenizer, asked, [TOKENS] * len(turns.images), image))] == piecewise(
        tokenizer, asked, [TOKENS] * len(turns.images), image
    )


def test_in_pretraining_the_caption_follows_the_image_directly(embedded: Any) -> None:
    record = {"image": "x", "conversations": said("Describe it briefly.\n<image>", "a small red box")}
    ids, labels = encoded(record, embedded, "plain")
    tokenizer, image = embedded.tokenizer, embedded.model.config.image_token_id
    assert ids[: TOKENS + 1] == [tokenizer.bos_token_id] + [image] * TOKENS
    assert labels[: TOKENS + 1] == [IGNORED] * (TOKENS + 1)
    assert labels[TOKENS + 1 :] == ids[TOKENS + 1 :]
    assert tokenizer.decode(ids[TOKENS + 1 :]) == "a small red box\n"


def test_what_is_too_long_is_cut_but_never_an_image(embedded: Any) -> None:
    ids, labels = encoded(RECORDS[1], embedded)
    for longest in (len(ids) - 1, len(ids) - 5):
        assert encoded(RECORDS[1], embedded, longest=longest) == (ids[:longest], labels[:longest])
    with pytest.raises(ValueError, match="cuts off"):
        encoded(RECORDS[1], embedded, longest=TOKENS)


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ([], "no conversation"),
        ({"conversations": [{"from": "human"}]}, "no conversation"),
        ({"conversations": said("one")}, "question and answer in turn"),
        ({"conversations": [*said("q", "a"), {"from": "gpt", "value": "a"}, {"from": "gpt", "value": "a"}]}, "in turn"),
        ({"conversations": said("<image>\nq", "a")}, "than of images"),
        ({"image": "x", "conversations": said("q", "a")}, "than of images"),
        ({"image": "x", "conversations": said("q", "<image>")}, "in an answer"),
        ({"image": 3, "conversations": said("q", "a")}, "not a path"),
    ],
)
def test_a_record_that_is_none_is_left_out_and_counted(record: Any, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_text(json.dumps([record, RECORDS[0], record]))
    found = Conversations(path)
    assert len(found) == 1 and found[0] == turns_of(RECORDS[0])
    assert found.problems().startswith("2 x ") and reason in found.problems()
    path.write_text(json.dumps([record]))
    with pytest.raises(UserError, match="no usable conversation"):
        Conversations(path)


def test_an_answer_before_the_first_question_is_skipped() -> None:
    record = {"conversations": [{"from": "gpt", "value": "hello"}, *said("q", "a")]}
    assert turns_of(record).pairs == (("q", "a"),)


@pytest.mark.parametrize(("text", "reason"), [("{", "not JSON"), ("{}", "not a list"), ("[]", "empty")])
def test_a_file_that_is_none_is_refused_in_words(text: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_text(text)
    with pytest.raises(UserError, match=reason):
        Conversations(path)
    with pytest.raises(UserError, match="cannot be read"):
        Conversations(tmp_path / "nothing.json")


def test_packed_samples_come_back_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_text(json.dumps(RECORDS, ensure_ascii=False))
    found = Conversations(path)
    assert [found[i] for i in range(len(found))] == [turns_of(record) for record in RECORDS]
    assert [bool(n > 0) for n in found.lengths] == ["image" in record for record in RECORDS]


def samples(data: Path, embedded: Any, **changes: Any) -> Samples:
    settings = dict(prompt="v1", shape="pad", longest=2048) | changes
    config = embedded.model.config
    return Samples(
        Conversations(data / "data.json"),
        data / "images",
        embedded.tokenizer,
        embedded.image_processor,
        config.image_token_id,
        TOKENS,
        **settings,
    )


def test_a_broken_image_is_replaced_by_the_next_sample_with_one_and_counted(data: Path, embedded: Any) -> None:
    (data / "images/a/0.png").write_bytes(b"no image")
    (data / "images/a/1.png").unlink()
    found = samples(data, embedded)
    assert found[0]["ids"] == found[3]["ids"], "0 and 1 are broken, 2 has no image"
    assert found.replaced == 2
    assert found[2]["images"] == [] and found.replaced == 2
    huge = b"\x89PNG\r\n\x1a\n" + bytes.fromhex("0000000d49484452000f4240000f42400802000000") + b"\0" * 4
    (data / "images/a/0.png").write_bytes(huge)  # a header of a million pixels a side
    assert samples(data, embedded)[0]["ids"] == found[3]["ids"]
    for path in (data / "images/a").iterdir():
        path.write_bytes(b"")
    with pytest.raises(UserError, match="no usable sample from"):
        samples(data, embedded)[0]


def test_a_truncated_image_is_replaced_whatever_pil_was_told(
    data: Path, embedded: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import ImageFile

    path = data / "images/a/0.png"
    path.write_bytes(path.read_bytes()[:5000])
    for truncated in (True, False):
        monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", truncated)
        found = samples(data, embedded)
        assert found[0]["ids"] == found[1]["ids"] and found.replaced == 1


def test_only_regular_files_inside_the_folder_of_the_images_are_read(data: Path, embedded: Any) -> None:
    """An image's path is part of a file that somebody else may have written."""
    import os
    import shutil

    outside = data / "outside.png"
    shutil.copy(data / "images/a/1.png", outside)
    (data / "images/link.png").symlink_to(outside)
    os.mkfifo(data / "images/pipe.png")
    inside = (data / "images/a/1.png").resolve()
    right = {**RECORDS[1], "image": str(inside)}
    for name in ("../outside.png", str(outside), "link.png", "pipe.png", "a", f"file://{inside}", "/dev/zero"):
        (data / "data.json").write_text(json.dumps([{**RECORDS[0], "image": name}, right]))
        found = samples(data, embedded)
        assert found[0]["ids"] == found[1]["ids"] and found.replaced == 1, name


@pytest.mark.parametrize("shape", ["pad", "square"])
def test_images_are_those_of_evaluation(shape: str, data: Path, embedded: Any) -> None:
    from PIL import Image

    from evals.tasks.protocol import protocol

    image = Image.open(data / "images/a/0.png").convert("RGB")
    name = "llava" if shape == "pad" else "lmms-eval"
    wanted = protocol(name).pixels(embedded.image_processor, [image])["pixel_values"][0]
    assert np.array_equal(samples(data, embedded, shape=shape)[0]["images"][0], wanted)


def test_a_batch_is_padded_on_the_right_and_holds_all_images_row_after_row(data: Path, embedded: Any) -> None:
    found = samples(data, embedded)
    rows = [found[i] for i in (2, 3, 0)]
    batch = Collator(embedded.tokenizer.pad_token_id)(rows)
    assert batch["pixel_values"].shape[0] == 3
    for row, ids, mask, labels in zip(rows, batch["input_ids"], batch["attention_mask"], batch["labels"], strict=True):
        count = len(row["ids"])
        assert ids[:count].tolist() == row["ids"] and mask.tolist() == [1] * count + [0] * (len(mask) - count)
        assert labels.tolist() == row["labels"] + [IGNORED] * (len(mask) - count)
    assert "pixel_values" not in Collator(0)([found[2], found[4]])


def test_grouped_batches_are_of_one_modality_and_each_epoch_shuffles_again() -> None:
    lengths = np.array([n if n % 3 else -n for n in range(1, 101)])
    order = Order(lengths, 8, seed=1, grouped=True)
    first = list(order)
    assert len(first) == len(order) == 8 * (67 // 8 + 33 // 8) and len(set(first)) == len(first)
    for start in range(0, len(first), 8):
        batch = lengths[first[start : start + 8]]
        assert (batch > 0).all() or (batch < 0).all()
        assert (np.diff(np.abs(batch)) <= 0).all()
    assert list(order) == first
    order.set_epoch(1)
    assert list(order) != first
    plain = Order(lengths, 8, seed=1, grouped=False)
    assert len(plain) == 96 and len(set(plain)) == 96
    with pytest.raises(UserError, match="no batch of 80 of one modality"):
        Order(lengths, 80, seed=1, grouped=True)


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.mkdir(), lambda path: path.symlink_to("/dev/zero")])
def test_what_is_no_file_is_refused_at_once(make: Any, tmp_path: Path) -> None:
    make(tmp_path / "chat.json")
    with pytest.raises(UserError, match=r"chat\.json: cannot be read"):
        Conversations(tmp_path / "chat.json")
    (tmp_path / "deep.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match=r"deep\.json: not JSON"):
        Conversations(tmp_path / "deep.json")
