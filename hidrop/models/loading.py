"""Load a checkpoint, or look at its config, by name: embedded, local or from the Hub cache; either layout."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hidrop.backbones import Backbone, backbone_of, count_by, family_of
from hidrop.backbones.pixel_limits import NO_LIMITS, PixelLimits, Resolution
from hidrop.backbones.tokenizers import state_tokenizer
from hidrop.checkpoint_files import in_words
from hidrop.devices import sees_cuda
from hidrop.errors import UserError, did_you_mean, shortened
from hidrop.geometry import Counts, Geometry
from hidrop.models.answer_ends import answer_ends, check_ends
from hidrop.models.checking import trained_with, whole
from hidrop.models.digest import digest
from hidrop.models.original import is_original
from hidrop.models.saving import quiet
from hidrop.models.sizes import geometry_in
from hidrop.models.sources import find, read_config, settings_files, weight_files
from hidrop.numerics import ATTENTIONS, DEVICE, DEVICE_MAPS, DTYPES, QUANTIZATIONS
from hidrop.pretrained import pretrained
from hidrop.program import program
from hidrop.reducer import Reducer

if TYPE_CHECKING:
    from hidrop.runtime.cuda_graphs import Graphs
    from hidrop.runtime.feature_cache import FeatureCache


@dataclass(frozen=True)
class Peeked:
    """What a checkpoint's config says. `architecture` is its model_type; `reducer` the method it was trained with."""

    geometry: Geometry
    reducer: Reducer | None
    architecture: str


@dataclass(frozen=True)
class Loaded:
    """A model ready to run, in eval mode, with everything that belongs to it.

    `tokenizer` pads on the left, because batches are for generation. `reducer` is the method that the weights were
    trained with, None for a plain or unknown one. `path` is the folder that was read. `ends` are the ids of the tokens
    that end an answer; empty: the tokenizer's own end token. `features` is for `reduce`, where images are asked more
    than once, and so is `graphs`, if prefills and decoding steps are to be captured. `pixel_limits` are those that the
    user stated.
    """

    model: Any
    backbone: Backbone
    tokenizer: Any
    image_processor: Any
    processor: Any
    geometry: Geometry
    reducer: Reducer | None
    architecture: str
    source: str
    path: Path
    weight_files: tuple[Path, ...]
    ends: tuple[int, ...]
    features: FeatureCache
    pixel_limits: PixelLimits = NO_LIMITS
    graphs: Graphs | None = None

    def image_tokens(self, height: int, width: int) -> int:
        """Visual tokens that an image of `height` x `width` pixels has in a prompt, as its only image."""
        return self.backbone.image_tokens(height, width, self.image_processor)

    def prompt_tokens(self, sizes: Sequence[tuple[int, int]]) -> tuple[int, ...]:
        """Visual tokens of each of the images (height, width) of one prompt."""
        return self.backbone.prompt_tokens_of(self.model.config, sizes, self.image_processor)

    def digest(self) -> str:
        """sha256 over the content of all weight files, a separate tower's included: the identity of the weights."""
        return digest(self.weight_files)


def load(
    source: str | Path,
    *,
    dtype: str = "float32",
    device: str = "cpu",
    attention: str = "sdpa",
    quantization: str | None = None,
    device_map: str | None = None,
    reference_tokens: int | None = None,
    counts: Counts = "scaled",
    min_pixels: int | None = None,
    max_pixels: int | None = None,
    resolution: Resolution | None = None,
    allow_download: bool = False,
) -> Loaded:
    """Load a checkpoint in transformers' or in LLaVA's original layout.

    source: "mini:<name>", a folder, or a Hub id (from the local cache, unless `allow_download`).
    dtype: what the weights are cast to; "auto" keeps the stored type. attention: transformers' name of a kernel.
    quantization: "4bit" (NF4, double quantised) or "8bit" (LLM.int8) weights of the decoder's layers, by bitsandbytes;
    `dtype` is then what they are computed in. Tower, projector, embeddings and LM head keep their own type.
    device_map: how accelerate spreads the layers of a model that is too large for one device over all CUDA devices; on
    a CPU there is nothing to spread.

    reference_tokens: the visual tokens of the image that methods' absolute counts are of, where each image has its own
    number. counts: "scaled" keeps the same share of other images, "fixed" as many tokens.
    min_pixels, max_pixels: smaller images are enlarged and larger ones shrunk, in a family whose images keep their
    shape; by default as the checkpoint's image processor says. resolution: "fixed" gives every image about
    `reference_tokens` visual tokens.

    Raises UserError for whatever the user has to change: a missing or incomplete checkpoint, an unsupported
    architecture, tensors that are missing, extra or of the wrong shape, a device or kernel that is not there.
    Remote code is never run, and .bin files are read as tensors only.
    """
    from hidrop.runtime.feature_cache import FeatureCache

    check_kernel(attention, device, dtype, quantization, device_map)
    limits = PixelLimits.stated(min_pixels, max_pixels, resolution, reference_tokens)
    path = find(source, allow_download=allow_download)
    raw = read_config(path)
    with quiet():
        if is_original(raw):
            from hidrop.models.original import tensors

            for field, value in (("quantization", quantization), ("device_map", device_map)):
                if value is not None:
                    way = f"`{program()} convert {source} DST` first, and use what it writes"
                    raise UserError(f"{field}: {path} is in LLaVA's original layout: {way}")
            read = tensors.read(path, raw, dtype=dtype, attention=attention, allow_download=allow_download)
            model, tokenizer, image_processor, files = read.model, read.tokenizer, read.image_processor, read.files
            backbone, processor, reducer = backbone_of(model), read.processor, read.reducer
            check_ends(path, backbone.geometry.vocab)
            backbone.limit_pixels(model.config, image_processor, limits)
        else:
            family = family_of(raw, f"{path}/config.json")
            parts = whole(path, raw, family, limits)
            tokenizer, image_processor, processor = parts.tokenizer, parts.image_processor, parts.processor
            placed = device_map if device_map and device == "cuda" else {"": device}
            model = _weights(path, family, dtype, attention, quantization, placed)
            backbone = backbone_of(model)
            files = weight_files(path)
            reducer = trained_with(raw, path, backbone.geometry)
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    # What quantises or spreads a model has put it in place.
    model = (model if quantization or device_map else model.to(device)).eval()
    try:
        count_by(model, reference_tokens, counts)
    except ValueError as error:
        raise UserError(f"model '{source}': {error}") from None
    state_tokenizer(model, tokenizer)
    backbone = backbone_of(model)
    return Loaded(
        model=model,
        backbone=backbone,
        tokenizer=tokenizer,
        image_processor=image_processor,
        processor=processor,
        geometry=backbone.geometry,
        reducer=reducer,
        architecture=str(raw.get("model_type")),
        source=str(source),
        path=path,
        weight_files=files,
        ends=answer_ends(path),
        features=FeatureCache(),
        pixel_limits=limits,
    )


def tensor_files(source: str | Path) -> tuple[Path, ...]:
    """The files that a checkpoint's weights are in, a separate tower's or projector's included; nothing is read.

    Raises UserError like `load`, for files that are not there.
    """
    path = find(source)
    raw = read_config(path)
    if not is_original(raw):
        return weight_files(path)
    from hidrop.models.original import tensors

    return tensors.files(path, raw)


def checkpoint_files(source: str | Path) -> tuple[Path, ...]:
    """Every file that answers depend on: the weights, and the small files of a checkpoint's and its tower's folder.

    Raises UserError like `tensor_files`.
    """
    path = find(source)
    raw = read_config(path)
    folders = [path]
    if is_original(raw):
        from hidrop.models.original import tensors

        folders += tensors.other_folders(path, raw)
    return (*tensor_files(source), *(file for folder in folders for file in settings_files(folder)))


def peek(source: str | Path, *, allow_download: bool = False) -> Peeked:
    """Geometry and trained-in method of a checkpoint, read from its config; no weight is loaded.

    Raises UserError like `load`, for what a config can tell.
    """
    path = find(source, allow_download=allow_download, config_only=True)
    raw = read_config(path)
    architecture = str(raw.get("model_type"))
    if is_original(raw):
        from hidrop.models.original import config

        return Peeked(*config.peek(path, raw, allow_download=allow_download), architecture)
    family = family_of(raw, f"{path}/config.json")
    geometry = geometry_in(family, path, raw)
    return Peeked(geometry, trained_with(raw, path, geometry), architecture)


def check_kernel(
    attention: str, device: str, dtype: str, quantization: str | None = None, device_map: str | None = None
) -> None:
    """Raise UserError, before anything is read, for a kernel, device or type that this machine cannot run."""
    for field, value, known in (
        ("attention", attention, ATTENTIONS),
        ("dtype", dtype, DTYPES),
        ("quantization", quantization or QUANTIZATIONS[0], QUANTIZATIONS),
        ("device_map", device_map or DEVICE_MAPS[0], DEVICE_MAPS),
    ):
        if value not in known:
            hint = did_you_mean(value, known)
            raise UserError(f"{field}: unknown value '{value}'.{hint} Known: {', '.join(known)}")
    if not re.fullmatch(DEVICE, str(device)):
        raise UserError(f"device: unknown value '{shortened(str(device))}'. Known: cpu, cuda, cuda:<number>")
    kind, _, number = str(device).partition(":")
    if kind == "cuda":
        _check_cuda(device, int(number or 0))
    if device_map is not None and kind == "cuda" and number:
        raise UserError(
            f"device_map: {device_map} spreads a model over all CUDA devices; use device cuda, not {device}"
        )
    if quantization is not None and importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(
            f"quantization: {quantization} was asked for, but bitsandbytes is not installed. Leave it out, or install "
            "it: pip install bitsandbytes --no-deps"
        )
    if attention != "flash_attention_2":
        return
    if importlib.util.find_spec("flash_attn") is None:
        raise UserError(
            "attention: flash_attention_2 was asked for, but flash-attn is not installed. Use sdpa, "
            "or install it: pip install flash-attn --no-build-isolation"
        )
    if kind != "cuda":
        raise UserError(f"attention: flash_attention_2 runs on CUDA only, not on '{device}'. Use sdpa")
    if dtype == "float32":
        raise UserError("attention: flash_attention_2 has no float32 kernel. Use sdpa, or dtype float16 or bfloat16")


def _check_cuda(device: str, number: int) -> None:
    if not sees_cuda():
        raise UserError(f"device: '{device}' was asked for, but torch sees no CUDA device. Use --device cpu")
    import torch

    if number >= torch.cuda.device_count():
        raise UserError(f"device: '{device}' was asked for, but there are {torch.cuda.device_count()} CUDA devices")


def _weights(
    path: Path,
    family: type[Backbone],
    dtype: str,
    attention: str,
    quantization: str | None,
    placed: str | dict[str, str],
) -> Any:
    import transformers

    more: dict[str, Any] = {}
    if quantization is not None:
        more["quantization_config"] = _bits(quantization, dtype, family)
    if quantization is not None or isinstance(placed, str):
        more["device_map"] = placed
    with in_words(f"{path}: the weights cannot be loaded"):
        return pretrained(
            getattr(transformers, family.model_class), path, dtype=dtype, attn_implementation=attention, **more
        )


def _bits(quantization: str, dtype: str, family: type[Backbone]) -> Any:
    """The settings that LLaVA's own --load-4bit and --load-8bit use; only the decoder's layers are quantised."""
    from transformers import BitsAndBytesConfig

    whole = [family.tower_at, family.projector_at, family.head_at]
    if quantization == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=whole)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype="float16" if dtype == "auto" else dtype,
        llm_int8_skip_modules=whole,
    )
