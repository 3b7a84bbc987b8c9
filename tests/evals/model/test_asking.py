"""Protocol `lmms-eval` asks each family as lmms-eval's own model class does: same inputs, same answers.

Both get the same float32 weights, so that every difference is one of prompts, pixels or settings. Packages that those
classes import and images do not need (decord, av) are replaced by empty modules, and qwen-vl-utils by a function with
its arithmetic where it is not installed.
"""

from __future__ import annotations

import base64
import importlib
import io
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from evals.model.lmms_model import HidropLlava
from evals.tasks.protocol import protocol
from hidrop.backbones.asking import Resizing
from hidrop.errors import UserError
from hidrop.models import Loaded, load
from hidrop.pretrained import pretrained
from tests import tiny_checkpoints

every_family = pytest.mark.parametrize("name", tiny_checkpoints.FAMILIES)
SIZES = [[(56, 84)], [(100, 60), (33, 70)], [(30, 200)]]  # height, width of the images of each document
QUESTION = "What is it?\nAnswer with one word."
TASK, SPLIT = "shown", "test"
STOPS = ["\n\n", "e"]


@pytest.fixture(scope="module")
def loaded(folders: dict[str, Path]) -> dict[str, Loaded]:
    return {name: load(folder) for name, folder in folders.items()}


@pytest.fixture
def imported(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module of lmms-eval, with what it needs besides."""
    for videos in ("decord", "av"):
        reader: Any = ModuleType(videos)
        reader.VideoReader, reader.cpu, reader.__spec__ = None, None, ModuleSpec(videos, None)
        monkeypatch.setitem(sys.modules, videos, reader)
    try:
        importlib.import_module("qwen_vl_utils")
    except ImportError:
        utils: Any = ModuleType("qwen_vl_utils")
        utils.process_vision_info, utils.fetch_video = process_vision_info, None
        monkeypatch.setitem(sys.modules, "qwen_vl_utils", utils)
    before = set(sys.modules)
    yield lambda name: importlib.import_module(f"lmms_eval.models.{name}")
    for name in set(sys.modules) - before:  # they hold the replaced modules
        if name.startswith("lmms_eval.models.simple") or name.startswith("lmms_eval.models.chat"):
            del sys.modules[name]


def process_vision_info(
    conversations: Any,
    return_video_kwargs: bool = False,
    return_video_metadata: bool = False,
    image_patch_size: int = 14,
) -> Any:
    """The images of conversations as qwen-vl-utils makes them for the processor."""
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

    turns = [turn for one in conversations for turn in (one if isinstance(one, list) else [one])]
    parts = [part for turn in turns if isinstance(turn["content"], list) for part in turn["content"]]
    factor, images = 2 * image_patch_size, []
    for part in parts:
        if part["type"] != "image":
            continue
        image = part["image"]
        if isinstance(image, str):
            image = Image.open(io.BytesIO(base64.b64decode(image.split("base64,")[1])))
        least, most = part.get("min_pixels", 4 * factor**2), part.get("max_pixels", 16384 * factor**2)
        height, width = smart_resize(image.height, image.width, factor, least, most)
        images.append(image.convert("RGB").resize((width, height)))
    found: tuple[Any, ...] = (images or None, None)
    return (*found, {"do_sample_frames": False}) if return_video_kwargs else found


def picture(height: int, width: int) -> Image.Image:
    """Smooth, so that a JPEG keeps it, and other at each size."""
    down, across = np.mgrid[0:height, 0:width]
    colours = [down * 255 // height, across * 255 // width, (down + across) * 255 // (height + width)]
    return Image.fromarray(np.stack(colours, -1).astype(np.uint8))


DOCS = [{"images": [picture(*size) for size in sizes]} for sizes in SIZES]


def requests(chat: bool, settings: dict[str, Any], docs: range) -> list[Any]:
    from lmms_eval.api.instance import Instance

    def visuals(doc: Any) -> list[Any]:
        return doc["images"]

    def messages(doc: Any) -> list[Any]:
        images = [{"type": "image", "url": image} for image in doc["images"]]
        return [{"role": "user", "content": [*images, {"type": "text", "text": QUESTION}]}]

    def arguments(number: int) -> tuple[Any, ...]:
        if chat:
            return QUESTION, messages, dict(settings), number, TASK, SPLIT
        return QUESTION, dict(settings), visuals, number, TASK, SPLIT

    return [
        Instance(
            request_type="generate_until",
            arguments=arguments(number),
            idx=0,
            metadata={"task": TASK, "doc_id": number, "repeats": 1},
        )
        for number in docs
    ]


def recorded(model: Any, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The inputs of each `generate`, without padding of the text."""
    calls: list[dict[str, Any]] = []
    own = model.generate

    def generate(**inputs: Any) -> Any:
        there = inputs["attention_mask"].bool()
        calls.append({**inputs, "input_ids": inputs["input_ids"][there]})
        return own(**inputs)

    monkeypatch.setattr(model, "generate", generate)
    return calls


def theirs_on(one: Loaded, module: Any, made: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """lmms-eval's model on a checkpoint, with the weights of `one`."""
    family = tiny_checkpoints.FAMILIES[one.architecture]()

    def processor(folder: str, **settings: Any) -> Any:
        found = tiny_checkpoints.read_processor(Path(folder))
        limits = {key: value for key, value in settings.items() if key in ("min_pixels", "max_pixels")}
        kind = tiny_checkpoints.image_processor_class(family)
        found.image_processor = pretrained(kind, folder, **limits)
        own = type(found).__call__

        def images_alone(self: Any, audios: Any = None, videos: Any = None, **given: Any) -> Any:
            """transformers 5 refuses `audios`, which lmms-eval's class `huggingface` always gives."""
            return own(self, **given)

        monkeypatch.setattr(type(found), "__call__", images_alone)
        return found

    for base in {module, importlib.import_module(getattr(module, made).__mro__[1].__module__)}:
        if hasattr(base, "AutoProcessor"):
            monkeypatch.setattr(base.AutoProcessor, "from_pretrained", processor)
    theirs = getattr(module, made)(pretrained=str(one.path), device="cpu", device_map="cpu")
    theirs._model = one.model
    return theirs


@every_family
@pytest.mark.parametrize("documents", [range(1), range(1, 2), range(2, 3)], ids=["one", "two", "wide"])
def test_inputs_and_answers_are_those_of_lmms_evals_own_class(
    name: str, documents: range, loaded: dict[str, Loaded], imported: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lmms_eval.models import MODEL_REGISTRY_V2

    one = loaded[name]
    settings = {"max_new_tokens": 8, "temperature": 0.0, "do_sample": False, "until": list(STOPS)}
    assert one.backbone.asking is not None, "the family states no `asking`"
    found = MODEL_REGISTRY_V2.resolve(one.backbone.asking.name)  # as `--model` does
    place, made = found.class_path.removeprefix("lmms_eval.models.").rsplit(".", 1)
    chat = found.model_type == "chat"  # it takes messages, and others a text and a list of images
    theirs = theirs_on(one, imported(place), made, monkeypatch)
    calls = recorded(one.model, monkeypatch)
    theirs.task_dict = {TASK: {SPLIT: DOCS}}
    wanted = [getattr(answer, "text", answer) for answer in theirs.generate_until(requests(chat, settings, documents))]
    ours = HidropLlava.from_loaded(one, None, "lmms-eval")
    ours.task_dict = {TASK: {SPLIT: DOCS}}
    answers = [answer.text for answer in ours.generate_until(requests(False, settings, documents))]
    assert not ours.failures
    assert len(calls) == 2
    first, second = calls
    assert first["input_ids"].tolist() == second["input_ids"].tolist()
    near = {"atol": 1e-2, "rtol": 0} if name == "gemma3" else {"atol": 0, "rtol": 0}  # it gives pixels in bfloat16
    for key in one.backbone.image_inputs:
        assert (key in first) == (key in second)
        if key in first:
            torch.testing.assert_close(first[key].float(), torch.as_tensor(second[key]).float(), **near)
    assert answers == wanted and any(answers)


@every_family
def test_native_is_the_chat_template_and_the_processor_and_nothing_else(name: str, loaded: dict[str, Loaded]) -> None:
    one = loaded[name]
    for sizes in ([], *SIZES):
        images = [picture(*size) for size in sizes]
        content = [*({"type": "image", "image": image} for image in images), {"type": "text", "text": QUESTION}]
        wanted = tiny_checkpoints.make_processor(name).apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )
        made = protocol("native").prepare(one, QUESTION, images)
        assert made.ids == wanted["input_ids"][0].tolist()
        assert (made.images, made.visual_tokens) == (len(images), made.ids.count(one.backbone.placeholder_id))
        for key, value in (made.inputs or {}).items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(wanted[key]))


@every_family
def test_a_prompt_is_rehearsed_and_llavas_own_protocol_is_refused(name: str, loaded: dict[str, Loaded]) -> None:
    one = loaded[name]
    parts = one.backbone, one.tokenizer, one.processor
    for asked in ("native", "lmms-eval"):
        protocol(asked).rehearse(*parts)
    message = "protocol: llava is LLaVA's own evaluation"
    with pytest.raises(UserError, match=message):
        protocol("llava").rehearse(*parts)
    with pytest.raises(UserError, match=message):
        HidropLlava.from_loaded(one, None, "llava")


@every_family
def test_a_template_that_loses_the_question_or_the_image_is_told(
    name: str, loaded: dict[str, Loaded], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = loaded[name]
    for template, message in (
        ("hello", "chat template does not write the question 'What is it\\?' with one"),
        ("{{ raise_exception('no') }}", "the chat template cannot be used"),
        (None, "the checkpoint has no chat template"),
    ):
        monkeypatch.setattr(one.processor, "chat_template", template)
        for asked in ("native", "lmms-eval"):
            with pytest.raises(UserError, match=message):
                protocol(asked).rehearse(one.backbone, one.tokenizer, one.processor)


@every_family
def test_a_placeholder_in_a_question_is_an_error_of_its_sample(name: str, loaded: dict[str, Loaded]) -> None:
    one = loaded[name]
    mark = one.backbone.placeholder_of(one.tokenizer, one.processor)
    with pytest.raises(ValueError, match="the question itself contains"):
        protocol("native").prepare(one, f"What is {mark}?", [picture(56, 84)])


def test_resizing_keeps_the_area_between_its_limits() -> None:
    made = Resizing(28, least=3136, most=602112)
    for height, width in ((1, 1), (56, 84), (3000, 20), (20, 3000), (4000, 3000), (2, 300)):
        image = made(Image.new("RGB", (width, height)))
        assert image.width % 28 == image.height % 28 == 0
        assert 3136 <= image.width * image.height <= 602112
    assert made(Image.new("RGB", (57, 85))).size == (56, 84)
    with pytest.raises(ValueError, match="more than 200 times as long as wide"):
        made(Image.new("RGB", (201, 1)))


def test_lmms_evals_command_line_takes_limits_of_pixels(folders: dict[str, Path]) -> None:
    text = f"pretrained={folders['qwen2_5_vl']},dtype=float32,min_pixels=6272,max_pixels=9408"
    made = HidropLlava.create_from_arg_string(text)
    assert 8 <= made.loaded.image_tokens(300, 300) <= 12
    fixed = HidropLlava.create_from_arg_string(
        f"pretrained={folders['qwen2_5_vl']},dtype=float32,resolution=fixed,reference_tokens=400,method=fastv,keep=40"
    )
    assert fixed.loaded.geometry.visual_tokens == 400
    for wrong, message in (
        ("max_pixels=many", "max_pixels is a whole number"),
        ("resolution=full,reference_tokens=9", "resolution: unknown value 'full'"),
        ("max_pixel=9", "max_pixel is unknown. Did you mean 'max_pixels'?"),
    ):
        with pytest.raises(UserError, match=message):
            HidropLlava.create_from_arg_string(f"pretrained={folders['qwen2_5_vl']},dtype=float32,{wrong}")


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
@pytest.mark.parametrize("asked", ["native", "lmms-eval"])
def test_a_users_limits_of_pixels_replace_those_of_the_protocol(
    name: str, asked: str, folders: dict[str, Path]
) -> None:
    unit = 32**2 if name == "qwen3_vl" else 28**2
    limited = load(folders[name], min_pixels=8 * unit, max_pixels=12 * unit)
    fixed = load(folders[name], resolution="fixed", reference_tokens=400)
    for size in ((20, 30), (56, 84), (300, 400)):
        assert 8 <= protocol(asked).prepare(limited, QUESTION, [picture(*size)]).visual_tokens <= 12
        assert 360 <= protocol(asked).prepare(fixed, QUESTION, [picture(*size)]).visual_tokens <= 440
