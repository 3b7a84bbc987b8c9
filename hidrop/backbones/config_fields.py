"""The fields of a config.json that sizes, shapes and prompts depend on: their types, and how large they can be.

transformers checks most types, but no sizes: it would begin to build 2**31 layers. The limits are far above every
published model. Fields that are not named here are transformers' own business, and its errors are put in words where
it is called.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from hidrop.errors import UserError
from hidrop.strict_yaml import checked

Width = Annotated[int, Field(strict=True, ge=1, le=2**18)]
Layers = Annotated[int, Field(strict=True, ge=1, le=256)]
Heads = Annotated[int, Field(strict=True, ge=1, le=2**12)]
Rows = Annotated[int, Field(strict=True, ge=1, le=2**24)]
Pixels = Annotated[int, Field(strict=True, ge=1, le=2**12)]
GridPixels = Annotated[int, Field(strict=True, ge=1, le=2**14)]
Tokens = Annotated[int, Field(strict=True, ge=1, le=2**31 - 1)]
TokenId = Annotated[int, Field(strict=True, ge=-1, le=2**24)]
Layer = Annotated[int, Field(strict=True, ge=-256, le=256)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False, strict=True)]
Text = Annotated[str, Field(max_length=200)]
MOST_TOKENS = 2**16  # of one square image; the largest towers in use have 4096


class Fields(BaseModel):
    """Defaults say that a field may be missing: its value is then transformers' own."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class RopeFields(Fields):
    """Position embeddings. A `factor` stretches them; `mrope_section` divides the angles of a head among three axes."""

    rope_theta: Positive | None = None
    factor: Positive | None = None
    mrope_section: tuple[Width, Width, Width] | None = None


class DecoderFields(Fields):
    """A LLaMA's config, at the top of LLaVA's original layout or under `text_config`."""

    model_type: Text | None = None
    vocab_size: Rows = 1
    hidden_size: Width = 1
    intermediate_size: Width = 1
    num_hidden_layers: Layers = 1
    num_attention_heads: Heads = 1
    num_key_value_heads: Heads | None = None
    head_dim: Width | None = None
    max_position_embeddings: Tokens = 1
    hidden_act: Text = ""
    rms_norm_eps: Positive = 1.0
    rope_theta: Positive | None = None
    rope_scaling: RopeFields | None = None
    rope_parameters: RopeFields | None = None
    sliding_window: Annotated[int, Field(strict=True, ge=0, le=2**31 - 1)] | None = None
    use_sliding_window: Annotated[bool, Field(strict=True)] | None = None
    layer_types: list[Text] | tuple[Text, ...] | None = None
    bos_token_id: TokenId | None = None
    eos_token_id: TokenId | list[TokenId] | None = None
    pad_token_id: TokenId | None = None
    tie_word_embeddings: Annotated[bool, Field(strict=True)] | None = None
    is_encoder_decoder: Literal[False] | None = None


class LayerRopeFields(Fields):
    """Position embeddings by kind of layer."""

    full_attention: RopeFields | None = None
    sliding_attention: RopeFields | None = None


class TowerFields(Fields):
    """A CLIP vision tower's config."""

    model_type: Text | None = None
    hidden_size: Width = 1
    intermediate_size: Width = 1
    num_hidden_layers: Layers = 1
    num_attention_heads: Heads = 1
    num_channels: Literal[3] = 3
    image_size: Pixels = 1
    patch_size: Pixels = 1
    hidden_act: Text = ""
    layer_norm_eps: Positive = 1.0


class ClipFields(Fields):
    """A whole CLIP's config."""

    model_type: Text | None = None
    vision_config: TowerFields | None = None


class NamedFields(Fields):
    """What a config.json calls its architecture."""

    model_type: Text | None = None
    architectures: list[Text] | tuple[Text, ...] | None = None


class ConfigFields(NamedFields):
    """A config.json in transformers' layout: a decoder, a tower that cuts squares into patches, and a placeholder.

    A family with other fields has a subclass, which its `Backbone.fields` names.
    """

    text_config: DecoderFields | None = None
    vision_config: TowerFields | None = None
    image_token_index: TokenId = 0
    image_token_id: TokenId = 0
    image_seq_length: Tokens = 1
    vision_feature_layer: Layer | list[Layer] | None = None
    vision_feature_select_strategy: Literal["default", "full"] = "default"
    projector_hidden_act: Text = ""
    image_aspect_ratio: Text | None = None
    is_encoder_decoder: Literal[False] | None = None
    image_grid_pinpoints: Annotated[list[tuple[GridPixels, GridPixels]], Field(min_length=1)] | None = None


def check_fields(config: Mapping[str, Any], place: str, fields: type[Fields] = ConfigFields) -> None:
    """Raises UserError with a line for each field of a config that has no sensible value, after `place`."""
    checked(fields, dict(config), place)


def check_sizes(config: Any, place: str) -> None:
    """Raises UserError for sizes in a config (of transformers) that do not go together, after `place`."""
    refuse(size_problems(config), place)


def refuse(problems: Iterable[str], place: str) -> None:
    """Raises UserError with a line for each problem, after `place`. Does nothing without any."""
    if found := list(problems):
        raise UserError("\n".join(f"{place}: {problem}" for problem in found))


def size_problems(config: Any) -> Iterator[str]:
    """What is wrong with the sizes of a config whose tower cuts squares into patches."""
    yield from decoder_problems(config.text_config)
    yield from tower_problems(config.vision_config)
    yield from feature_layer_problems(config)
    yield from token_problems(config)
    yield from pinpoint_problems(config)


def decoder_problems(text: Any) -> Iterator[str]:
    heads, kv_heads = text.num_attention_heads, text.num_key_value_heads or text.num_attention_heads
    head_dim = getattr(text, "head_dim", None)
    if not head_dim and text.hidden_size % heads:
        yield f"text_config: hidden_size {text.hidden_size} is not a multiple of num_attention_heads ({heads})"
    elif (head_dim or text.hidden_size // heads) % 2:
        yield f"text_config: heads of {head_dim or text.hidden_size // heads} cannot be rotated; their size is even"
    if heads % kv_heads:
        yield f"text_config: num_attention_heads {heads} is not a multiple of num_key_value_heads ({kv_heads})"


def tower_problems(vision: Any) -> Iterator[str]:
    (height, width), (patch, other) = pair(vision.image_size), pair(vision.patch_size)
    if height != width or patch != other:
        yield f"vision_config: image_size {height} x {width} in patches of {patch} x {other} is no square of patches"
    yield from head_problems(vision.hidden_size, vision.num_attention_heads)
    side = height // patch
    if not side:
        yield f"vision_config: patch_size {patch} is larger than image_size ({height})"
    if side * side > MOST_TOKENS:
        yield f"vision_config: an image would have {side * side} visual tokens, more than {MOST_TOKENS}"


def head_problems(
    hidden: int, heads: int, name: str = "hidden_size", head_name: str = "num_attention_heads"
) -> Iterator[str]:
    """The widths of a tower's heads."""
    if hidden % heads:
        yield f"vision_config: {name} {hidden} is not a multiple of {head_name} ({heads})"


def feature_layer_problems(config: Any) -> Iterator[str]:
    """The layer or layers of the tower that features are read from, where the config names them."""
    tower, layers = config.vision_config, getattr(config, "vision_feature_layer", [])
    for layer in [layers] if isinstance(layers, int) else layers:
        if not -tower.num_hidden_layers - 1 <= layer <= tower.num_hidden_layers:
            yield f"vision_feature_layer: {layer}, but the tower has {tower.num_hidden_layers} layers"


def token_problems(config: Any, names: Iterable[str] = ("image_token_id",)) -> Iterator[str]:
    """The ids of placeholders, which are rows of the vocabulary and differ from each other."""
    found: dict[int, str] = {}
    for name in names:
        token, key, rows = getattr(config, name), field_name(config, name), config.text_config.vocab_size
        if not 0 <= token < rows:
            yield f"{key}: {token}, but there are {rows} ids"
        if token in found:
            yield f"{key}: {token}, which is also {found[token]}"
        found[token] = key


def pinpoint_problems(config: Any) -> Iterator[str]:
    grid, (side, _) = getattr(config, "image_grid_pinpoints", None), pair(config.vision_config.image_size)
    if grid and not any(min(sides) >= side for sides in grid):
        yield f"image_grid_pinpoints: none has room for a tile of {side} pixels"


def field_name(config: Any, name: str) -> str:
    """The name of a config's attribute in its file: some configs give an older field a newer name."""
    return (getattr(config, "attribute_map", None) or {}).get(name, name)


def pair(sides: int | Iterable[int]) -> tuple[int, int]:
    """Height and width, of a field that states one number for both or a list of the two."""
    first, second = (sides, sides) if isinstance(sides, int) else sides
    return first, second
