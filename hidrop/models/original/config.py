"""LLaVA's original layout, its config: one LLaMA config with `mm_*` keys, the tower's config in another folder."""

from __future__ import annotations

import ast
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from hidrop.backbones import geometry_of, supported
from hidrop.backbones.config_fields import (
    ClipFields,
    DecoderFields,
    Layer,
    Text,
    TowerFields,
    check_fields,
    check_sizes,
)
from hidrop.checkpoint_files import in_words
from hidrop.errors import UserError, shown
from hidrop.geometry import Geometry
from hidrop.methods import build
from hidrop.models.sizes import KIND, recalled
from hidrop.models.sources import find, read_config, weight_files
from hidrop.models.vocabulary import grown
from hidrop.models.weight_files import open_tensors
from hidrop.pretrained import pretrained
from hidrop.reducer import Reducer
from hidrop.remembered import remember, states

# What the tower's tensors are called in a checkpoint that holds them.
TOWER = "model.vision_tower.vision_tower.vision_model."
# The towers that LLaVA-1.5's configs name without an owner once the folder was copied by hand.
TOWER_OWNER = {"clip-vit-large-patch14-336": "openai", "clip-vit-large-patch14": "openai"}
# The arguments of HiDrop's and PyramidDrop's training scripts.
HIDROP_KEYS = ("late_entry_layer", "early_exit_layer", "layer_list", "image_token_keep_list")
PDROP_KEYS = ("layer_list", "image_token_ratio_list")


class OriginalFields(DecoderFields):
    """LLaVA's original config.json: a LLaMA's, with `mm_*` keys of its own."""

    mm_vision_tower: Annotated[str, Field(max_length=4000)] | None = None
    mm_vision_select_layer: Layer = -2
    torch_dtype: Text | None = None
    dtype: Text | None = None


@dataclass(frozen=True)
class Described:
    """What an original config.json says, in transformers' terms.

    `config` is a LlavaConfig with the vocabulary already grown; `rows` the vocabulary that the checkpoint's tensors
    have; `tower`: the vision tower's own folder or Hub id, None when only the checkpoint has the tower.
    """

    config: Any
    geometry: Geometry
    reducer: Reducer | None
    tower: str | None
    rows: int


def describe(folder: Path, raw: dict[str, Any], *, allow_download: bool = False) -> Described:
    """Read an original config.json (`raw`, from `folder`).

    Raises UserError for parts that transformers' LLaVA cannot express (naming the key), for a tower that is
    nowhere to be found, and for a HiDrop or PDrop schedule that does not fit the decoder.
    """
    from transformers import LlamaConfig, LlavaConfig

    place = f"{folder}/config.json"
    _check(raw, place)
    known = {field.name for field in fields(LlamaConfig)} | {"rope_theta", "rope_scaling"}
    dropped = {"model_type", "architectures", "torch_dtype", "dtype", "transformers_version", "name_or_path"}
    with in_words(f"{place}: transformers cannot read it"):
        text = LlamaConfig(**{key: value for key, value in raw.items() if key in known - dropped})
    rows = text.vocab_size
    text.vocab_size = grown(rows + 1)
    tower, vision = _tower(folder, raw, allow_download=allow_download)
    with in_words(f"{place}: transformers cannot read it"):
        config = LlavaConfig(
            text_config=text,
            vision_config=vision,
            image_token_index=rows,
            projector_hidden_act="gelu",
            vision_feature_layer=raw.get("mm_vision_select_layer", -2),
            vision_feature_select_strategy="full" if raw.get("mm_vision_select_feature") == "cls_patch" else "default",
            tie_word_embeddings=text.tie_word_embeddings,
            # LLaVA's code pads for the word "pad" alone: without the key it takes the middle of an image.
            image_aspect_ratio=raw.get("image_aspect_ratio") or "square",
        )
    check_sizes(config, place)
    geometry = geometry_of(config)
    config.image_seq_length = geometry.visual_tokens
    return Described(config, geometry, _schedule(raw, place, geometry), tower, rows)


def peek(folder: Path, raw: dict[str, Any], *, allow_download: bool = False) -> tuple[Geometry, Reducer | None]:
    """The geometry and the method of `describe`, without importing transformers if they are remembered.

    Raises UserError like `describe`.
    """
    place = f"{folder}/config.json"
    _check(raw, place)
    tower: Any
    try:
        tower = read_config(tower_place(folder, raw, allow_download=allow_download)[1])
    except UserError:
        tower = states(weight_files(folder))
    of = {"layout": "original", "config": raw, "tower": tower}
    if (geometry := recalled(of)) is not None:
        return geometry, _schedule(raw, place, geometry)
    described = describe(folder, raw, allow_download=allow_download)
    if tower is not None:
        remember(KIND, of, asdict(described.geometry))
    return described.geometry, described.reducer


def _check(raw: dict[str, Any], place: str) -> None:
    check_fields(raw, place, OriginalFields)
    model_type = str(raw.get("model_type"))
    if model_type != "llava" and not model_type.startswith("llava_llama"):
        raise UserError(f"{place}: architecture '{model_type}' is not supported. Supported: {supported()}")
    expected: dict[str, tuple[Any, ...]] = {
        "mm_projector_type": ("mlp2x_gelu",),
        "mm_patch_merge_type": ("flat", None),
        "mm_use_im_start_end": (False, None),
        "mm_vision_select_feature": ("patch", "cls_patch", None),
        # anyres and its kin need LLaVA-NeXT's tensors and tokens.
        "image_aspect_ratio": ("pad", "square", None),
    }
    for key, values in expected.items():
        if raw.get(key) not in values:
            known = " or ".join(repr(value) for value in values if value is not None)
            raise UserError(f"{place}: {key} {shown(raw.get(key))} is not supported, only {known} (LLaVA-1.5)")


def tower_place(folder: Path, raw: dict[str, Any], *, allow_download: bool = False) -> tuple[str, Path]:
    """The tower's source and its folder. Training machines leave their own paths in `mm_vision_tower`.

    Raises UserError if the tower has no folder here.
    """
    name = str(raw.get("mm_vision_tower") or "")
    base = Path(name).name
    for candidate in (Path(name), folder / name, folder / base, folder.parent / base):
        if base and (candidate / "config.json").is_file():
            return str(candidate), candidate
    owner = TOWER_OWNER.get(base)
    hub = name if name.count("/") == 1 and name[0] not in "./~" else f"{owner}/{base}" if owner else None
    if hub is None:
        raise UserError(f"model '{name}': no such folder")
    return hub, find(hub, allow_download=allow_download, config_only=True)


def _tower(folder: Path, raw: dict[str, Any], *, allow_download: bool) -> tuple[str | None, Any]:
    """The tower's source and CLIPVisionConfig."""
    try:
        source, place = tower_place(folder, raw, allow_download=allow_download)
    except UserError as error:
        vision = _from_shapes(folder)
        if vision is None:
            base = Path(str(raw.get("mm_vision_tower") or "")).name
            raise UserError(
                f"{folder}/config.json: mm_vision_tower: {error}. "
                f"It may also be next to the checkpoint, as {folder.parent / base}"
            ) from None
        return None, vision
    return source, _clip(place)


def _clip(tower: Path) -> Any:
    """A CLIPVisionConfig out of the folder of a whole CLIP or of its vision half."""
    from transformers import CLIPVisionConfig

    raw, place = read_config(tower), f"{tower}/config.json"
    model_type = raw.get("model_type")
    if model_type not in ("clip", "clip_vision_model"):
        raise UserError(f"{place}: a {shown(model_type)} tower is not supported. Supported: {supported()}")
    check_fields(raw, place, ClipFields if model_type == "clip" else TowerFields)
    with in_words(f"{place}: transformers cannot read it"):
        return pretrained(CLIPVisionConfig, tower)


def _from_shapes(folder: Path) -> Any | None:
    """The tower's config from the shapes of the tensors in the checkpoint, or None when the tower is not in there.

    Shapes say everything but the heads and the activation; OpenAI's CLIP towers, the only ones LLaVA-1.5 was
    trained with, have heads of 64 and quick_gelu (CLIPVisionConfig's default).
    """
    from transformers import CLIPVisionConfig

    shapes = {
        name.removeprefix(TOWER): tuple(t.shape)
        for name, t in open_tensors(weight_files(folder))
        if name.startswith(TOWER)
    }
    if "embeddings.patch_embedding.weight" not in shapes:
        return None
    with in_words(f"{folder}: the vision tower in its weights is not a whole CLIP"):
        hidden, _, patch, _ = shapes["embeddings.patch_embedding.weight"]
        positions, _ = shapes["embeddings.position_embedding.weight"]
        layers = {int(name.split(".")[2]) for name in shapes if name.startswith("encoder.layers.")}
        sizes = {
            "hidden_size": hidden,
            "intermediate_size": shapes["encoder.layers.0.mlp.fc1.weight"][0],
            "num_hidden_layers": max(layers) + 1,
            "num_attention_heads": max(hidden // 64, 1),
            "patch_size": patch,
            "image_size": patch * round((positions - 1) ** 0.5),
        }
        check_fields(sizes, f"{folder}: the vision tower in its weights", TowerFields)
        return CLIPVisionConfig(**sizes)


def _schedule(raw: dict[str, Any], place: str, geometry: Geometry) -> Reducer | None:
    """The schedule a checkpoint was trained with, when its config says so.

    The authors' trainers set these values on the model and not on its config, so a released checkpoint usually
    has none of them: then the matrix has to say it.
    """
    try:
        if raw.get("model_type") == "llava_llama_exit_topk" and _has(raw, *HIDROP_KEYS):
            inject, exit_layer, layers, keep = (raw[key] for key in HIDROP_KEYS)
            filters = _numbers(layers)
            reducer = build(
                "hidrop",
                {
                    "inject": int(inject),
                    "filters": [int(layer) for layer in filters],
                    "keep": [int(count) for count in _without_full(_numbers(keep), filters)],
                    "exit": int(exit_layer),
                },
            )
        elif raw.get("model_type") == "llava_llama_pdrop" and _has(raw, *PDROP_KEYS):
            layers, ratios = (_numbers(raw[key]) for key in PDROP_KEYS)
            reducer = build(
                "pdrop", {"layers": [int(layer) for layer in layers], "ratios": _without_full(ratios, layers)}
            )
        else:
            return None
        reducer.plan(geometry)
    except (ValueError, TypeError, OverflowError) as error:
        raise UserError(f"{place}: its token schedule: {error}") from None
    return reducer


def _has(raw: dict[str, Any], *keys: str) -> bool:
    return all(raw.get(key) is not None for key in keys)


def _without_full(kept: list[float], cuts: list[float]) -> list[float]:
    """The list without what is there before the first cut: both codes put that in front when they start."""
    return kept[1:] if len(kept) == len(cuts) + 1 else kept


def _numbers(value: Any) -> list[float]:
    """A list as JSON has it, or as the string "[10,14,16,18]" that came from a command line."""
    if isinstance(value, str):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            raise ValueError(f"not a list: {value!r}") from None
    if not isinstance(value, list | tuple) or not all(isinstance(v, int | float) for v in value):
        raise ValueError(f"not a list of numbers: {value!r}")
    return list(value)
