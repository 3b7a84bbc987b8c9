"""What the embedded models are trained on, and that training can be interrupted at no cost."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hidrop.errors import UserError
from hidrop.methods import build_entry
from hidrop.mini.scenes import PLACES, make_scene
from hidrop.mini.training import loop as trainer
from hidrop.mini.training import state
from hidrop.mini.training.choices import choices_sample
from hidrop.mini.training.collator import SceneCollator
from hidrop.mini.training.drills import EVERYTHING, drill_sample, letters_sample, option_turns, row_turns, sign_turns
from hidrop.mini.training.lessons import batches
from hidrop.mini.training.loop import corpus_tokenizer
from hidrop.mini.training.model import GEOMETRY
from hidrop.mini.training.optimizer import Pair, orthogonalise, warm_then_decay
from hidrop.mini.training.patches import HEADS, patch_targets
from hidrop.mini.training.recipe import Recipe
from hidrop.mini.training.samples import (
    Sample,
    caption_of_claims,
    caption_of_names,
    caption_of_relations,
    caption_sample,
    instruction_sample,
)
from hidrop.models import load
from hidrop.prompts import LETTER_ANSWER
from hidrop.recipes import bundled, load_recipe, train
from hidrop.runtime.layout import IGNORED


@pytest.fixture(scope="module")
def collator() -> SceneCollator:
    tokenizer = corpus_tokenizer()
    return SceneCollator(tokenizer, tokenizer.convert_tokens_to_ids("<image>"), 100, (0.5,) * 3, (0.5,) * 3)


def test_only_answers_and_their_end_are_labelled(collator: SceneCollator) -> None:
    sample = Sample(caption_sample(0).pixels, (("What color is the 7?", "red"), ("Which digit is red?", "7")))
    encoded = collator.encode(sample)
    labelled = [token for token in encoded.labels if token != IGNORED]
    assert collator.tokenizer.decode(labelled) == " red</s> 7</s>"
    assert encoded.ids.count(collator.image_token_id) == 100
    text = collator.tokenizer.decode([t for t in encoded.ids if t != collator.image_token_id])
    assert text == "<s>USER: \nWhat color is the 7? ASSISTANT: red</s>USER: Which digit is red? ASSISTANT: 7</s>"


def test_a_caption_follows_the_image_directly(collator: SceneCollator) -> None:
    encoded = collator.encode(caption_sample(3))
    assert encoded.ids[1:101] == [collator.image_token_id] * 100
    assert encoded.labels[:101] == [IGNORED] * 101 and IGNORED not in encoded.labels[101:]


def test_a_sample_without_an_image_is_plain_text(collator: SceneCollator) -> None:
    encoded = collator.encode(Sample(None, (("Which digit is red?", "7"),)))
    batch = collator.batch([encoded, collator.encode(instruction_sample(1))])
    assert collator.image_token_id not in encoded.ids
    assert batch["pixel_values"].shape == (1, 3, 80, 80)
    assert batch["attention_mask"].sum(1)[0] == len(encoded.ids)


def test_some_instructions_have_no_image_and_ask_for_the_letters_of_options() -> None:
    plain = [sample for sample in map(instruction_sample, range(200)) if sample.pixels is None]
    assert 20 <= len(plain) <= 60
    for question, answer in (turn for sample in plain for turn in sample.turns):
        options = dict(re.findall(r"^([A-D])\. (.+)$", question, re.MULTILINE))
        assert len(set(options.values())) == 4
        if given := re.match(r"It is (\w+)\. ", question):
            assert options[answer] == given[1]
        elif question.endswith("Repeat:"):
            assert answer == ", ".join(f"{letter}. {text} {letter}" for letter, text in options.items())
        else:
            pairs = [pair.rsplit(" ", 1) for pair in answer.split(", ")]
            assert len(pairs) == 6 and all(options[letter] == text for text, letter in pairs)


def test_of_a_list_of_options_only_the_letters_are_supervised(collator: SceneCollator) -> None:
    for sample in map(letters_sample, range(30)):
        ((question, answer),) = sample.turns
        options = dict(re.findall(r"^([A-D])\. (.+)$", question, re.MULTILINE))
        pairs = re.findall(r"(\w+) ([A-D])", answer)
        assert len(pairs) == 12 and all(options[letter] == text for text, letter in pairs)
        labelled = [token for token in collator.encode(sample).labels if token != IGNORED]
        assert collator.tokenizer.decode(labelled).split() == [letter for _, letter in pairs]


def test_drills_ask_for_what_is_in_the_scene() -> None:
    for seed in range(40):
        rng = np.random.default_rng(seed)
        crowded, scene = make_scene("train", seed, signs=3), make_scene("train", seed)
        assert {sign.cell // 3 for sign in crowded.signs} == {0, 1, 2}
        by_place = {PLACES[sign.cell]: sign for sign in crowded.signs}
        found = 0
        for question, answer in sign_turns(crowded, rng):
            if asked := re.match(r"What (\w+) is on the sign in the (\w+)\?", question):
                found += 1
                assert by_place[asked[2]].text == answer and by_place[asked[2]].is_number == (asked[1] == "number")
            elif asked := re.match(r"What (\w+) is on the sign\?", question):
                assert [s.text for s in crowded.signs if s.is_number == (asked[1] == "number")] == [answer]
        assert found == 3
        for question, answer in option_turns(scene, rng):
            text, letter = answer.split(" ")
            assert f"\n{letter}. {text}\n" in question
        row = [turn for turn in row_turns(scene, rng, EVERYTHING) if not turn[0].startswith("Describe")]
        assert 4 <= len(row) <= 14 and len({question for question, _ in row}) == len(row)


def test_drills_are_the_same_every_time_and_cover_all_forms() -> None:
    samples = [drill_sample(index) for index in range(60)]
    assert all(drill_sample(index).turns == sample.turns for index, sample in enumerate(samples))
    text = [sample.turns[0][0] for sample in samples]
    assert any(sample.pixels is None for sample in samples) and any("sign in the" in each for each in text)
    assert any("several options" in each for each in text)


def test_the_lesson_on_choices_asks_as_the_protocols_do_and_answers_by_the_letter_alone() -> None:
    from evals.tasks.scienceqa import ScienceQA

    samples = [choices_sample(index) for index in range(120)]
    assert all(choices_sample(index).turns == sample.turns for index, sample in enumerate(samples))
    with_image, told = 0, 0
    for sample in samples:
        if not sample.turns[0][0].endswith(f"\n{LETTER_ANSWER}") or "several options" in sample.turns[0][0]:
            continue  # a drill
        for asked, letter in sample.turns:
            hint, question = re.fullmatch(r"(?:Context: (.+)\n)?([^\n]+\?)\n(?s:.+)", asked).groups()  # type: ignore[union-attr]
            choices = re.findall(r"^[A-D]\. (.+)$", asked, re.MULTILINE)
            document = {"question": question, "choices": choices, "hint": hint or ""}
            assert asked == ScienceQA().question(document) and letter in "ABCD"[: len(choices)]
            if hint is None:
                with_image += 1
            elif question.startswith("What color is the digit in the "):
                place = question.split()[-1].rstrip("?")
                assert choices["ABCD".index(letter)] == re.findall(rf"in the {place} is a (\w+) \d\.", hint)[0]
                told += 1
        assert (sample.pixels is None) == (hint is not None)
    assert with_image > 100 and told > 10


def test_dense_captions_say_what_is_in_the_scene() -> None:
    for seed in range(40):
        scene = make_scene("train", seed)
        there = {d.name for d in scene.digits}
        for color, value, said in re.findall(r"(\w+) (\d) (yes|no)", caption_of_names(scene)):
            assert (f"{color} {value}" in there) == (said == "yes")
        for place, value, said in re.findall(r"(\w+) (\d) (yes|no)", caption_of_claims(scene)):
            digit = scene.at(PLACES.index(place))
            assert digit is not None and (str(digit.value) == value) == (said == "yes")
        pattern = r"(\w+ \d) to (\w+ \d) left (\w+) right (\w+) above (\w+) below (\w+)"
        for first, second, *said in re.findall(pattern, caption_of_relations(scene)):
            (a,), (b,) = ([divmod(d.cell, 3) for d in scene.digits if d.name == name] for name in (first, second))
            truths = (a[1] < b[1], a[1] > b[1], a[0] < b[0], a[0] > b[0])
            assert tuple(said) == tuple("yes" if truth else "no" for truth in truths)


def test_instructions_ask_several_questions_and_are_the_same_every_time() -> None:
    for index in range(50):
        first, again = instruction_sample(index), instruction_sample(index)
        assert first.turns == again.turns and np.array_equal(first.pixels, again.pixels)
        assert len(first.turns) >= 2


def test_batches_continue_where_they_stopped(collator: SceneCollator) -> None:
    whole = list(batches(collator, "instructions", 2, 0, 0, 8))
    rest = list(batches(collator, "instructions", 2, 0, 6, 8))
    assert len(whole) == 8 and len(rest) == 2
    for a, b in zip(whole[6:], rest, strict=True):
        assert all(torch.equal(a[key], b[key]) for key in a)


def test_patch_targets_name_what_lies_under_each_patch() -> None:
    scene = make_scene("train", 1)
    table = patch_targets(scene)
    assert table.shape == (100, len(HEADS))
    digit = scene.digits[0]
    row, column = divmod(digit.cell, 3)
    patch = int((row + 0.5) * 80 / 3 // 8) * 10 + int((column + 0.5) * 80 / 3 // 8)
    assert table[patch][list(HEADS).index("digit")] == digit.value + 1
    assert table[patch][list(HEADS).index("place")] == digit.cell


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 12, 5), (1, 4, 9)])
def test_orthogonalised_updates_keep_the_singular_directions_and_level_the_values(shape: tuple[int, ...]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalise(matrices, steps=8))
    assert values.min() > 0.5 and values.max() < 1.3
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    aligned = left.mT @ orthogonalise(matrices) @ right.mT
    off = aligned - torch.diag_embed(aligned.diagonal(dim1=1, dim2=2))
    assert off.abs().max() < 1e-3


def test_muon_takes_the_blocks_matrices_adamw_the_rest_and_a_rate_of_zero_leaves_out() -> None:
    names = ("decoder.layers.0.weight", "decoder.layers.0.bias", "head.weight", "tower.layers.0.weight")
    shapes = ((4, 4), (4,), (2, 4), (5, 5))
    named = [(name, torch.nn.Parameter(torch.zeros(shape))) for name, shape in zip(names, shapes, strict=True)]
    pair = Pair(named, lr=0.1, rates={"tower": 0.0, "head": 0.5})
    found = {
        tuple(p.shape): (type(part).__name__, group["lr"])
        for part in pair.parts
        for group in part.param_groups
        for p in group["params"]
    }
    assert found == {(4, 4): ("Muon", 0.1), (4,): ("AdamW", 0.1), (2, 4): ("AdamW", 0.05)}


def test_the_learning_rate_rises_stays_and_falls() -> None:
    scale = [warm_then_decay(step, 100) for step in range(100)]
    assert scale[0] < scale[2] == 1.0 == scale[40] > scale[80] > scale[99] == pytest.approx(0.02)


def test_every_bundled_recipe_is_valid_and_a_misspelt_one_gets_a_suggestion(tmp_path: Path) -> None:
    assert {load_recipe(name).name for name in bundled()} >= {
        "mini-vanilla",
        "mini-pdrop",
        "mini-hidrop",
        "mini-vanilla-choices",
        "mini-hidrop-choices",
    }
    with pytest.raises(UserError, match="Did you mean 'mini-hidrop'"):
        load_recipe("mini-hidrob")
    bad = tmp_path / "bad.yaml"
    bad.write_text("name: x\nmethod: {name: fastw}\ntower: {steps: 4, batch: 2, lr: 0.1, momentum: 1}\n")
    with pytest.raises(UserError, match=r"bad\.yaml: tower\.momentum: unknown field"):
        load_recipe(str(bad))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"name: x\nseed: 1\nseed: 2\n", r"bad\.yaml: not valid YAML \(line 3, column 1\): 'seed' is given twice"),
        (b"lessons: [\n", r"bad\.yaml: not valid YAML \(line 2, column 1\)"),
        (b"lessons: \xff", r"bad\.yaml: cannot be read: not UTF-8 text"),
        (b"- kind: llava\n", r"bad\.yaml: must be a mapping of fields"),
        (b"kind: llava\nlearning_rate: 1\n", r"bad\.yaml: learning_rate: unknown field"),
    ],
)
def test_a_recipe_is_read_as_strictly_as_a_matrix(content: bytes, message: str, tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_bytes(content)
    with pytest.raises(UserError, match=message):
        load_recipe(str(bad))


def _tiny(folder: Path) -> Path:
    recipe = folder / "tiny.yaml"
    stage = "{steps: 4, batch: 2, lr: 0.001}"
    method = "{name: hidrop, inject: 2, filters: [2, 3], keep: [20, 8], exit: 5}"
    kinds = ("captions", "instructions", "signs", "rows", "letters", "drills", "drills")
    lessons = "".join(f"  - {{data: {kind}, {stage[1:]}\n" for kind in kinds)
    foundations = "".join(f"{name}: {stage}\n" for name in ("tower", "class_token", "align"))
    recipe.write_text(f"name: tiny\nmethod: {method}\n{foundations}lessons:\n{lessons}")
    return recipe


class _Stop(Exception):
    pass


def test_an_interrupted_training_resumes_to_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors.torch import load_file

    from hidrop.mini.training import loop as trainer

    recipe = str(_tiny(tmp_path))
    monkeypatch.setattr(trainer, "SAVE_EVERY", 2)
    monkeypatch.setattr("hidrop.mini.training.model.GEOMETRY", replace(GEOMETRY, layers=5))
    train(recipe, out=tmp_path / "whole", work=tmp_path / "a" / "w")

    kept = state.save
    saves = 0

    def save_then_stop(*args: object) -> None:
        nonlocal saves
        kept(*args)  # type: ignore[arg-type]
        saves += 1
        if saves in (1, 3, 6, 9, 12):
            raise _Stop

    monkeypatch.setattr(trainer.state, "save", save_then_stop)
    work = tmp_path / "b" / "w"
    for _ in range(5):
        with pytest.raises(_Stop):
            train(recipe, out=tmp_path / "parts", work=work, resume=True)
    with pytest.raises(UserError, match="an unfinished training; go on with --resume"):
        train(recipe, out=tmp_path / "parts", work=work)
    train(recipe, out=tmp_path / "parts", work=work, resume=True)
    with pytest.raises(UserError, match="a finished training"):
        train(recipe, out=tmp_path / "parts", work=work)

    whole, parts = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    assert whole.keys() == parts.keys() and all(torch.equal(whole[key], parts[key]) for key in whole)
    assert json.loads((tmp_path / "whole" / "training.json").read_text())["recipe"]["name"] == "tiny"
    assert json.loads((tmp_path / "whole" / "config.json").read_text())["hidrop"]["name"] == "hidrop"


@pytest.mark.parametrize(
    ("change", "place"),
    [({"seed": 5}, "seed: 0"), ({"method": {"name": "vanilla"}}, "method: "), ({"lessons": None}, "lesson 1: ")],
)
def test_a_training_that_was_begun_with_another_recipe_is_not_taken_up(
    change: dict[str, Any], place: str, tmp_path: Path
) -> None:
    """Only lessons that have not begun may change."""
    plan = load_recipe(str(_tiny(tmp_path)))
    assert isinstance(plan, Recipe)
    begun = state.TrainingProgress("tiny", stage=1, plan=plan.model_dump(mode="json"))
    longer = plan.model_copy(update={"lessons": (*plan.lessons, plan.lessons[-1])})
    assert trainer._changed(begun, longer) is None
    if "lessons" in change:
        change = {"lessons": tuple(lesson.model_copy(update={"lr": 0.5}) for lesson in plan.lessons)}
    assert str(trainer._changed(begun, plan.model_copy(update=change))).startswith(place)


@pytest.mark.parametrize(("stage", "step"), [(7, 0), (1, 5)])
def test_a_state_that_is_further_than_the_recipe_is_not_taken_up(stage: int, step: int, tmp_path: Path) -> None:
    (tmp_path / "w").mkdir()
    record = {"recipe": "tiny", "stage": stage, "step": step, "files": "state-7-0"}
    (tmp_path / "w" / "progress.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="further than this recipe goes"):
        train(str(_tiny(tmp_path)), out=tmp_path / "out", work=tmp_path / "w", resume=True)


def test_the_embedded_checkpoints_are_not_replaced_by_default(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds the checkpoint of mini:vanilla\. Give another folder with --out"):
        train("mini-vanilla", work=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_recipe_can_go_on_from_an_embedded_model(tmp_path: Path) -> None:
    """With a rate of next to nothing the weights stay where they began."""
    recipe = tmp_path / "on.yaml"
    lessons = "[{data: drills, steps: 4, batch: 2, lr: 1.0e-9}]"
    recipe.write_text(f"name: further\nmethod: {{name: pdrop}}\nstart: mini:vanilla\nlessons: {lessons}\n")
    out = train(str(recipe), out=tmp_path / "out", work=tmp_path / "w")
    begun, made = load("mini:vanilla").model.state_dict(), load(out).model.state_dict()
    for name, weight in begun.items():
        torch.testing.assert_close(made[name], weight, atol=1e-3, rtol=1e-2)
    assert load(out).reducer == build_entry({"name": "pdrop"})
    for text in ("start: mini:vanilla\ntower: {steps: 4, batch: 2, lr: 1}", "tower: {steps: 4, batch: 2, lr: 1}"):
        recipe.write_text(f"name: further\n{text}\nlessons: {lessons}\n")
        with pytest.raises(UserError, match="tower and align, or it has start"):
            load_recipe(str(recipe))


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "null", "[1]", "3", "{}", '{"recipe": "tiny"}', '{"recipe": 3, "files": "state-0-2"}'),
        '{"recipe": "tiny", "files": "../x"}',
        '{"recipe": "tiny", "files": "state-0-2", "stage": "0"}',
        '{"recipe": "tiny", "files": "state-0-2", "stage": -1}',
        '{"recipe": "tiny", "files": "state-0-2", "plan": [1]}',
        '{"recipe": "tiny", "files": "state-0-2", "more": 1}',
        '{"recipe": "tiny", "files": "state-0-2", "stage": 0, "step": 2}',
        '{"recipe": "tiny", "files": "state-0-2", "stage": 0, "step": 2, "plan": {"name": 3}}',
    ],
)
def test_a_broken_state_is_told_with_the_way_out(text: str, tmp_path: Path) -> None:
    work = tmp_path / "w"
    work.mkdir()
    (work / "progress.json").write_text(text)
    (work / "state-0-2.safetensors").write_bytes(b"cut off")
    with pytest.raises(UserError) as caught:
        train(str(_tiny(tmp_path)), out=tmp_path / "out", work=work, resume=True)
    assert "progress.json" in str(caught.value) or f"Remove {work} to start over" in str(caught.value)
