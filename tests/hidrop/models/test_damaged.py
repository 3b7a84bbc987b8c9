"""Checkpoints with files that are wrong: `check`, without reading weights, and `load` say the same words."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from hidrop.checkpoint_files import MOST_BYTES, in_words, read_object
from hidrop.errors import LONGEST_REASON, UserError, reason
from hidrop.models import check, load
from hidrop.models.sources import MINI
from tests.edited_checkpoint import Edit, edited


@pytest.fixture
def copy(tmp_path: Path) -> Callable[..., Path]:
    """A copy of mini:vanilla with edited JSON files: `copy(config=lambda c: c.update(...))`."""

    def make(**edits: Edit) -> Path:
        return edited(MINI / "vanilla", tmp_path / "checkpoint", edits)

    return make


def refused(folder: Path, *parts: str, loads: bool = True) -> str:
    """The words of `check`, which `load` says too. `loads`: compare with it; both share the code."""
    with pytest.raises(UserError) as caught:
        check(folder)
    said = str(caught.value)
    assert str(folder) in said and len(said) < 2000 and said.replace("\n", "").isprintable()
    for part in parts:
        assert part in said
    if loads:
        with pytest.raises(UserError) as again:
            load(folder)
        assert str(again.value) == said
    return said


def deep(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


def rope(kind: str, **fields: float) -> dict[str, Any]:
    return {"rope_type": kind, "rope_theta": 10000.0, **fields}


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("text_config", 3, "config.json: text_config: "),
        ("text_config", [1], "config.json: text_config: "),
        ("vision_config", "clip", "config.json: vision_config: "),
        ("architectures", 3, "config.json: architectures"),
        ("architectures", [3], "config.json: architectures"),
        ("model_type", 3, "config.json: model_type: "),
        ("model_type", ["llava"], "config.json: model_type: "),
        ("image_token_index", "4", "config.json: image_token_index: "),
        ("image_token_index", -1, "image_token_index: -1, but there are 646 ids"),
        ("image_token_index", 646, "image_token_index: 646, but there are 646 ids"),
        ("vision_feature_layer", 2**31, "config.json: vision_feature_layer"),
        ("vision_feature_layer", -9, "vision_feature_layer: -9, but the tower has 5 layers"),
        ("vision_feature_select_strategy", "cls", "config.json: vision_feature_select_strategy: "),
        ("projector_hidden_act", "gelo", "transformers cannot build this model"),
        ("image_aspect_ratio", "anyres", "image_aspect_ratio 'anyres' is not supported for LLaVA"),
        ("text_config.num_hidden_layers", 2**31, "text_config.num_hidden_layers: input should be less than or equal"),
        ("text_config.num_hidden_layers", -1, "text_config.num_hidden_layers: input should be greater"),
        ("text_config.num_hidden_layers", "12", "text_config.num_hidden_layers: input should be a valid integer"),
        ("text_config.num_hidden_layers", True, "text_config.num_hidden_layers: "),
        ("text_config.num_hidden_layers", 12.5, "text_config.num_hidden_layers: "),
        ("text_config.num_hidden_layers", 200, "missing tensors: "),
        ("text_config.hidden_size", 0, "text_config.hidden_size: "),
        ("text_config.hidden_size", 2**18, "wrong shapes: "),
        ("text_config.vocab_size", 2**24, "wrong shapes: "),
        ("text_config.num_key_value_heads", 3, "num_attention_heads 4 is not a multiple of num_key_value_heads (3)"),
        ("text_config.head_dim", 31, "31"),  # heads of 31 cannot be rotated; transformers 5.24 says so itself
        ("text_config.rope_parameters", 3, "text_config.rope_parameters: "),
        ("text_config.rope_parameters", {"rope_type": "none such"}, "config.json: transformers cannot"),
        ("text_config.rope_parameters.rope_theta", 0, "text_config.rope_parameters.rope_theta: "),
        ("text_config.rope_parameters.rope_theta", -10000.0, "text_config.rope_parameters.rope_theta: "),
        ("text_config.rope_parameters.factor", 0, "text_config.rope_parameters.factor: "),
        ("text_config.rope_parameters", rope("linear", factor=-2.0), "text_config.rope_parameters.factor: "),
        ("text_config.rope_parameters", rope("dynamic", factor=-2.0), "text_config.rope_parameters.factor: "),
        ("text_config.rope_parameters", rope("default", rope_theta=1e-300), "that are not finite"),
        ("text_config.rope_parameters", rope("linear", factor=1e-300), "that are not finite"),
        ("text_config.sliding_window", 4, "decoder 'llama' is not supported: it needs LLaMA's layers with full"),
        ("text_config.sliding_window", 0, "decoder 'llama' is not supported"),
        ("text_config.attention_chunk_size", 8, "decoder 'llama' is not supported"),
        ("text_config.layer_types", ["sliding_attention"] * 12, "decoder 'llama' is not supported"),
        ("text_config.max_position_embeddings", 8, "tokens, but the model has only 8 positions"),
        ("text_config.max_position_embeddings", 101, "tokens, but the model has only 101 positions"),
        ("is_encoder_decoder", True, "config.json: is_encoder_decoder: "),
        ("text_config.is_encoder_decoder", True, "config.json: text_config.is_encoder_decoder: "),
        ("output_attentions", True, "transformers cannot build this model"),
        ("text_config.rms_norm_eps", None, "text_config.rms_norm_eps: "),
        ("text_config.hidden_act", {}, "text_config.hidden_act: "),
        ("vision_config.patch_size", None, "vision_config.patch_size: "),
        ("vision_config.patch_size", 0, "vision_config.patch_size: "),
        ("vision_config.patch_size", 81, "patch_size 81 is larger than image_size (80)"),
        ("vision_config.image_size", [80, 80], "vision_config.image_size: "),
        ("vision_config.image_size", 4096, "visual tokens, more than"),
        ("vision_config.num_channels", 1, "vision_config.num_channels: "),
        ("vision_config.num_attention_heads", 7, "config.json: "),
        ("hidrop", {"name": "fastv", "layer": 2**70, "keep": 1}, "config.json: hidrop: "),
        ("anything", deep(40), "objects and lists are nested more than 32 deep"),
        ("anything", "\ud800", "half of a surrogate pair"),
    ],
)
def test_a_field_of_a_wrong_type_or_size_is_named(copy: Any, field: str, value: Any, message: str) -> None:
    def edit(config: dict[str, Any]) -> None:
        *path, last = field.split(".")
        for key in path:
            config = config[key]
        config[last] = value

    refused(copy(config=edit), "config.json", message, loads=value in (3, 2**31, 200))


NOT_OBJECTS = {
    "null": "holds null instead of an object",
    "[]": "holds a list instead of an object",
    "3": "holds a number instead of an object",
    '"x"': "holds a text instead of an object",
    "": "not JSON",
    "{": "not JSON",
    "[" * 100_000: "not JSON",
    '{"a": NaN}': "NaN is not JSON",
    '{"a": 1e999}': "1e999 is not JSON",
    '{"a": ' + "9" * 5000 + "}": "not JSON",
    "\ufeff{}": "not JSON",
}
FILES = ("config", "generation_config", "processor_config", "tokenizer_config", "tokenizer", "special_tokens_map")


@pytest.mark.parametrize("text", NOT_OBJECTS, ids=lambda text: text[:12])
def test_each_small_file_is_an_object_or_refused(copy: Any, text: str) -> None:
    folder = copy()
    for stem in FILES:
        file = folder / f"{stem}.json"
        before = file.read_bytes() if file.exists() else None
        file.write_text(text)
        refused(folder, f"{stem}.json", NOT_OBJECTS[text], "Copy or download the checkpoint again", loads=text == "3")
        file.unlink() if before is None else file.write_bytes(before)
    check(folder)


def test_files_that_are_no_text_no_files_or_too_large_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_bytes(b'{"a": "\xff"}')
    with pytest.raises(UserError, match="not UTF-8"):
        read_object(file)
    file.unlink()
    os.mkfifo(file)  # reading it would wait for ever
    with pytest.raises(UserError, match="not a regular file"):
        read_object(file)
    file.unlink()
    file.mkdir()
    with pytest.raises(UserError, match="cannot be read"):
        read_object(file)
    file.rmdir()
    with file.open("wb") as stream:
        stream.truncate(MOST_BYTES + 1)
    with pytest.raises(UserError, match="it has more than"):
        read_object(file)


@pytest.mark.parametrize(
    ("stem", "edit"),
    [
        ("tokenizer", lambda t: t.update(model=None)),
        ("tokenizer", lambda t: t.update(model=3)),
        ("tokenizer", lambda t: t["model"].update(vocab=[1, 2])),
        ("tokenizer", lambda t: t.update(added_tokens=3)),
        ("tokenizer", lambda t: t.update(pre_tokenizer={"type": "none such"})),
        ("tokenizer_config", lambda t: t.update(tokenizer_class=3)),
        ("tokenizer_config", lambda t: t.update(bos_token=[1])),
        ("tokenizer_config", lambda t: t.update(added_tokens_decoder=[1])),
        ("tokenizer_config", lambda t: t.update(added_tokens_decoder={"x": 1})),
        ("processor_config", lambda t: t.update(image_processor=None)),
        ("processor_config", lambda t: t.update(image_processor=[3])),
        ("processor_config", lambda t: t.update(processor_class=["x"])),
        ("processor_config", lambda t: t.update(patch_size="8")),
        ("processor_config", lambda t: t["image_processor"].update(size="x")),
        ("processor_config", lambda t: t["image_processor"].update(size={"shortest_edge": 10**9})),
        ("processor_config", lambda t: t["image_processor"].update(crop_size=10**9)),
        ("processor_config", lambda t: t["image_processor"].update(crop_size={"height": -1, "width": 80})),
        ("processor_config", lambda t: t["image_processor"].update(image_mean=[1, 2])),
        ("processor_config", lambda t: t["image_processor"].update(image_mean="x")),
        ("processor_config", lambda t: t["image_processor"].update(image_std=[0, 0, 0])),
        ("processor_config", lambda t: t["image_processor"].update(rescale_factor=None)),
        ("processor_config", lambda t: t["image_processor"].update(resample=99)),
        ("generation_config", lambda t: t.update(max_new_tokens="x", cache_implementation=3)),
    ],
)
def test_what_transformers_or_tokenizers_cannot_use_is_told_in_words(copy: Any, stem: str, edit: Edit) -> None:
    refused(copy(**{stem: edit}), loads=False)


def test_two_tokens_with_one_id_are_refused_every_time(copy: Any) -> None:
    """tokenizers keeps either of them, by chance: the same file gave other prompts from load to load."""

    def edit(tokenizer: dict[str, Any]) -> None:
        vocabulary = tokenizer["model"]["vocab"]
        vocabulary["the second"] = next(iter(vocabulary.values()))

    folder = copy(tokenizer=edit)
    for _ in range(3):
        refused(folder, "tokenizer.json: model.vocab: ", "and 'the second' both have the id", loads=False)


def test_every_kind_of_error_becomes_words_but_an_interruption_passes() -> None:
    panic = type("PanicException", (BaseException,), {})
    for error in (KeyError("x"), RecursionError(), panic("a\nb\x1b[31m\ud800"), MemoryError("y" * 10_000)):
        with pytest.raises(UserError) as caught, in_words("f.json: cannot be read"):
            raise error
        assert str(caught.value).startswith("f.json: cannot be read (") and str(caught.value).isprintable()
        assert len(reason(error)) <= LONGEST_REASON
    with pytest.raises(KeyboardInterrupt), in_words("f.json"):
        raise KeyboardInterrupt
    with pytest.raises(UserError, match="^as it is$"), in_words("f.json"):
        raise UserError("as it is")


# ---- parts that do not fit each other -------------------------------------------------------------------------------


def test_what_an_old_processor_file_leaves_out_follows_from_the_config(copy: Any) -> None:
    from PIL import Image

    folder = copy(processor_config=lambda p: [p.pop(key) for key in list(p) if key != "image_processor"])
    image = json.loads((folder / "processor_config.json").read_text())["image_processor"]
    (folder / "preprocessor_config.json").write_text(json.dumps(image))
    (folder / "processor_config.json").write_text('{"processor_class": "LlavaProcessor"}')
    check(folder)
    loaded = load(folder)
    made = loaded.processor
    assert (made.patch_size, made.vision_feature_select_strategy, made.num_additional_image_tokens) == (8, "default", 1)
    ids = made(images=[Image.new("RGB", (99, 50))], text="USER: <image>\nhi ASSISTANT:")["input_ids"]
    assert sum(token == loaded.model.config.image_token_id for row in ids for token in row) == 100


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            lambda p: p["image_processor"].update(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64}),
            "makes images of 3 x 64 x 64, but the vision tower takes 3 x 80 x 80",
        ),
        (lambda p: p["image_processor"].update(size={"shortest_edge": 64}), "resizes to 64 pixels (size) and then"),
        (lambda p: p["image_processor"].update(do_center_crop=False), "makes images of 3 x 80 x 160"),
        (lambda p: p["image_processor"].update(do_resize=False, do_center_crop=False), "makes images of"),
        (lambda p: p.update(patch_size=16), "writes 25 placeholders for an image that has 100 visual tokens"),
        (lambda p: p.update(vision_feature_select_strategy="full"), "writes 101 placeholders"),
        (lambda p: p.update(num_additional_image_tokens=0), "writes 99 placeholders"),
    ],
)
def test_a_processor_for_another_tower_is_refused_with_both_values(copy: Any, edit: Edit, message: str) -> None:
    refused(copy(processor_config=edit), message)


@pytest.mark.parametrize("fields", [{"rescale_factor": 0}, {"image_std": [1e9] * 3}, {"rescale_factor": 1e-30}])
def test_an_image_processor_that_makes_every_image_the_same_is_refused(copy: Any, fields: dict[str, Any]) -> None:
    folder = copy(processor_config=lambda p: p["image_processor"].update(fields))
    refused(folder, "makes the same pixels of every image")


@pytest.mark.parametrize("end", [646, 10**30, [2, 646]])
@pytest.mark.parametrize("file", ["generation_config", "config"])
def test_an_end_of_answers_outside_of_the_vocabulary_is_refused(copy: Any, file: str, end: Any) -> None:
    folder = copy(**{file: lambda c: c.update(eos_token_id=end)})
    if file == "config":
        (folder / "generation_config.json").unlink()
    refused(folder, "eos_token_id", "but the model has 646 ids")


def test_an_image_token_that_is_an_ordinary_word_is_refused(copy: Any) -> None:
    said = refused(copy(config=lambda c: c.update(image_token_index=300)), "image_token_index is 300 (the tokenizer's")
    assert "but the tokenizer's <image> is 4" in said


def test_a_tokenizer_that_knows_no_placeholder_or_too_many_ids_is_refused(copy: Any) -> None:
    def rename(tokenizer: dict[str, Any]) -> None:
        for token in tokenizer["added_tokens"]:
            token["content"] = token["content"].replace("<image>", "<picture>")
        vocab = tokenizer["model"]["vocab"]
        vocab["<picture>"] = vocab.pop("<image>")

    folder = copy(tokenizer=rename, tokenizer_config=lambda t: t.pop("image_token"))
    refused(folder, "the processor writes 0 placeholders")
    shutil.rmtree(folder)

    def add(tokenizer: dict[str, Any]) -> None:
        tokenizer["model"]["vocab"]["zzzz"] = 700

    refused(copy(tokenizer=add), "ids up to 700, but the model has 646 rows")


# ---- weights --------------------------------------------------------------------------------------------------------


def rewritten(folder: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> Path:
    file = folder / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}
    edit(tensors)
    save_file(tensors, file, metadata={"format": "pt"})
    return folder


def test_a_file_that_is_cut_off_anywhere_is_found_without_reading_it(copy: Any) -> None:
    folder = copy()
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    header = struct.unpack("<Q", whole[:8])[0]
    for length in (0, 4, 8, 9, header // 2, 8 + header, 8 + header + 1, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:length])
        refused(folder, "model.safetensors: cannot be read", loads=length % 2 == 0)
    for start in (struct.pack("<Q", 2**63), struct.pack("<Q", header + 1), struct.pack("<Q", 3)):
        file.write_bytes(start + whole[8:])
        refused(folder, "model.safetensors: cannot be read")
    file.write_bytes(whole + b"\0")
    refused(folder, "model.safetensors: cannot be read")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t: t.pop("language_model.model.norm.weight"), "missing tensors: model.language_model.norm.weight"),
        (lambda t: t.update(more=torch.ones(2)), "extra tensors: more"),
        (
            lambda t: t.update({"language_model.model.norm.weight": torch.ones(7)}),
            "wrong shapes: model.language_model.norm.weight is (7,), not (128,)",
        ),
        (
            lambda t: t.update({"language_model.model.norm.weight": torch.ones(128, dtype=torch.int8)}),
            "weights that are not floating-point numbers: language_model.model.norm.weight (I8)",
        ),
        (lambda t: [t.pop(name) for name in list(t)[1:]], "config.json has 12 layers, but the weight files hold 1"),
    ],
)
def test_tensors_are_compared_with_the_config_without_reading_them(copy: Any, edit: Any, message: str) -> None:
    refused(rewritten(copy(), edit), message)


def sharded(folder: Path) -> dict[str, str]:
    """Two shards with their index, which is returned."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    where = {tensor: names[place % 2] for place, tensor in enumerate(tensors)}
    for name in names:
        save_file({t: tensors[t] for t in tensors if where[t] == name}, folder / name, metadata={"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return where


def test_an_index_is_compared_with_its_shards(copy: Any) -> None:
    folder = copy()
    where = sharded(folder)
    check(folder)
    load(folder)
    index, first = folder / "model.safetensors.index.json", next(iter(where))
    one, two = sorted(set(where.values()))
    for changed, message in (
        ({**where, first: two if where[first] == one else one}, f"the shards lack: {first} in"),
        ({**where, "more": one}, f"tensors that it lists and the shards lack: more in {one}"),
        ({name: file for name, file in where.items() if name != first}, f"does not list: {first} in"),
    ):
        index.write_text(json.dumps({"metadata": {}, "weight_map": changed}))
        refused(folder, "index.json: differs from its shards", message)
    index.write_text(json.dumps({"weight_map": where}))
    refused(folder, 'without "metadata"')
    (folder / two).unlink()
    refused(folder, f"shards missing: {two}")
    index.unlink()
    refused(folder, "shards of weights without model.safetensors.index.json", "1 of the 2 shards (number 2)")


def test_a_projector_alone_is_called_so_and_what_goes_with_it_makes_it_whole(original: Any, model: Any) -> None:
    folder = original(projector="apart", tower="apart", shards=1)
    weights = folder / "pytorch_model.bin"
    weights.rename(folder / "elsewhere")
    refused(folder, "a projector alone (mm_projector.bin), as LLaVA's first stage", "It goes with the language model")
    (folder / "elsewhere").rename(weights)
    check(folder)
    assert torch.equal(load(folder).model.lm_head.weight[:97], model.lm_head.weight[:97])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("adapter_config.json", "a LoRA adapter without its base model"),
        ("model.Q4_K_M.gguf", "GGUF"),
        ("consolidated.00.pth", "Meta's format"),
        ("tf_model.h5", "TensorFlow"),
        ("global_step100", "DeepSpeed"),
        ("pytorch_model-00001-of-00003.bin", "shards of weights without pytorch_model.bin.index.json"),
        ("nothing", "no weights here (looked for model.safetensors"),
    ],
)
def test_a_folder_of_another_kind_is_called_what_it_is(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / name).write_text("")
    with pytest.raises(UserError) as caught:
        check(tmp_path)
    assert words in str(caught.value)


# ---- LLaVA's original layout ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"num_hidden_layers": 2**31}, "config.json: num_hidden_layers: "),
        ({"hidden_size": None}, "config.json: hidden_size: "),
        ({"mm_vision_tower": 3}, "config.json: mm_vision_tower: "),
        ({"mm_vision_tower": ["x"]}, "config.json: mm_vision_tower: "),
        ({"mm_vision_select_layer": "last"}, "config.json: mm_vision_select_layer: "),
        ({"mm_projector_type": ["mlp2x_gelu"]}, "mm_projector_type ['mlp2x_gelu'] is not supported"),
        ({"rope_scaling": {"type": "none such"}}, "config.json: "),
        ({"vocab_size": 96}, "wrong shapes: "),
        ({"image_aspect_ratio": "anyres"}, "image_aspect_ratio 'anyres' is not supported, only 'pad' or 'square'"),
        ({"image_aspect_ratio": {}}, "image_aspect_ratio {} is not supported"),
        ({"torch_dtype": 3}, "config.json: torch_dtype: "),
    ],
)
def test_an_original_config_is_checked_as_well(original: Any, config: Any, message: str) -> None:
    refused(original(**config), message)


def test_files_of_an_original_checkpoint_and_its_tower_are_checked(original: Any, tmp_path: Path) -> None:
    folder = original(tower="apart")
    check(folder)
    tower = tmp_path / "clip-tiny"
    for file in (folder / "tokenizer_config.json", folder / "tokenizer.json", tower / "preprocessor_config.json"):
        before = file.read_text()
        file.write_text("[]")
        with pytest.raises(UserError, match=f"{file.name}: holds a list"):
            check(folder)
        file.write_text(before)
    sizes = json.loads((tower / "preprocessor_config.json").read_text())
    sizes |= {"size": {"shortest_edge": 64}, "crop_size": {"height": 64, "width": 64}}
    (tower / "preprocessor_config.json").write_text(json.dumps(sizes))
    with pytest.raises(UserError, match="makes images of 3 x 64 x 64, but the vision tower takes 3 x 32 x 32"):
        check(folder)


@pytest.mark.parametrize(("said", "shapes"), [("pad", False), ("square", True), (None, True), ("absent", True)])
def test_the_original_key_says_whether_images_are_padded(
    original: Any, said: str | None, shapes: bool, tmp_path: Path
) -> None:
    from PIL import Image

    from evals.tasks.protocol import protocol
    from hidrop.models import convert

    folder = original(**({} if said == "absent" else {"image_aspect_ratio": said}))
    wide = Image.linear_gradient("L").convert("RGB").resize((90, 40))
    wanted = {
        shapes: load(folder).image_processor(images=[wide], return_tensors="pt")["pixel_values"],
        False: protocol("llava").pixels(load(folder).image_processor, [wide])["pixel_values"],
    }[shapes]
    for path in (folder, convert(folder, tmp_path / "converted")):
        loaded = load(path)
        assert loaded.backbone.shapes_images is shapes
        made = protocol("llava").pixels(loaded.image_processor, [wide], shapes_images=loaded.backbone.shapes_images)
        assert torch.equal(made["pixel_values"], wanted)
