"""What the project asks of a model family. A family is one subclass in one file; everything else is shared.

Class attributes and class methods need no weights: they answer for a checkpoint's config. An instance answers for one
loaded model. Nothing outside of this package asks for a model's type or for the path of one of its parts.

Shapes: B batch, S input length, N slots of the sequence in a layer, P axes of a RoPE position (1, or more with M-RoPE),
D hidden size of the decoder. A medium is an image, a video or a tile (model_inputs.py).
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar, Self

from hidrop.backbones import processing
from hidrop.backbones.asking import Asking
from hidrop.backbones.config_fields import ConfigFields, refuse, size_problems
from hidrop.backbones.model_inputs import IMAGE, TEXT, Grid, Places, Rope, Vision, counted_places
from hidrop.backbones.pixel_limits import PixelLimits
from hidrop.backbones.rehearsal import rehearse, side_problems
from hidrop.cache_name import cache_name
from hidrop.checkpoint_files import check_folder, in_words
from hidrop.errors import UserError
from hidrop.geometry import Counts, Geometry
from hidrop.pretrained import pretrained
from hidrop.videos import Sampling, Video

if TYPE_CHECKING:
    import torch
    from torch import nn

    from hidrop.backbones.attended import Attended
    from hidrop.backbones.filming import Filmed


class Backbone(ABC):
    """One family (class) and one loaded model of it (instance).

    Names with `_class` are classes of transformers; those with `_at` are attribute paths of a model's parts.
    """

    model_type: ClassVar[str]  # as in config.json
    title: ClassVar[str]  # as its authors call it
    config_class: ClassVar[str]
    model_class: ClassVar[str]
    processor_class: ClassVar[str]
    image_processor_class: ClassVar[str]  # that works on PIL images, and ends in "Pil"
    image_processor_folder: ClassVar[str]  # the folder of transformers.models that has it
    image_processor_aliases: ClassVar[tuple[str, ...]] = ()  # other names that checkpoints give it
    decoders: ClassVar[tuple[str, ...]]  # model types of decoders that are supported
    towers: ClassVar[tuple[str, ...]]  # and of vision towers
    fields: ClassVar[type[ConfigFields]] = ConfigFields  # of config.json: their types and limits

    decoder_at: ClassVar[str]  # has `layers`, `embed_tokens`, `norm` and `rotary_emb`
    head_at: ClassVar[str]
    tower_at: ClassVar[str]
    projector_at: ClassVar[str]

    # What the model's forward takes for images and videos, which of it are pixels, and how features are read off the
    # tower.
    image_inputs: ClassVar[tuple[str, ...]] = ("pixel_values",)
    pixel_inputs: ClassVar[tuple[str, ...]] = ("pixel_values",)
    vision_settings: ClassVar[tuple[str, ...]] = ()
    # Inputs of the model's forward that follow from the token ids, so that a reduced model does not read them.
    derived_inputs: ClassVar[tuple[str, ...]] = ()
    # Inputs of the model's forward with which a reduced model cannot do anything. `mm_encoder_outputs` came to
    # transformers after 5.17: features of images that generate() has encoded before the prefill.
    refused_inputs: ClassVar[tuple[str, ...]] = ("mm_encoder_outputs",)
    # The kinds of placeholders, by the config's name for their id.
    placeholders: ClassVar[Mapping[str, int]] = {"image_token_id": IMAGE}
    # The axis of images in `Vision.inputs`.
    media_axis: ClassVar[int] = 0
    # Whether the tower's features come with the states of a class token (see `tower_states`).
    class_token: ClassVar[bool] = False
    # Whether the tower takes images of another size than its own (see `Vision.with_pixels`).
    interpolates: ClassVar[bool] = False
    # Whether an image's tokens cover all of it, squeezed into its grid. Else a protocol pads or crops it to a square.
    sees_whole: ClassVar[bool] = True
    # Whether rows of an image's tiles, and the image itself, end with a token that is no place of it.
    line_ends: ClassVar[bool] = False
    # Whether the tokens of one image see each other both ways.
    both_ways: ClassVar[bool] = False
    # How lmms-eval's own model class asks. None: as its class llava_hf does, by LLaVA's tokenizer and image processor.
    asking: ClassVar[Asking | None] = None
    # Whether the family is shown videos, and whether their frames are images like others then (otherwise see `film`).
    shows_videos: ClassVar[bool] = False
    frames_are_images: ClassVar[bool] = False
    # Which frames of a video are shown where neither a model class of lmms-eval nor the user says it.
    native_sampling: ClassVar[Sampling] = Sampling()
    # Whether LLaVA's own evaluation (its conversation, padded squares) means something for the family.
    llava_conversation: ClassVar[bool] = False
    # What a config may say of images that are no squares (LLaVA's own key; transformers does not know it).
    aspects: ClassVar[tuple[str | None, ...]] = (None, "pad", "square")

    def __init__(self, model: nn.Module) -> None:
        self.model: Any = model
        self.reference_tokens: int | None = None
        self.counts: Counts = "scaled"

    @classmethod
    def of_config(cls, config: Any) -> Self:
        """A backbone without a model, which answers what follows from the config alone, such as `pixel_shape`."""
        return cls(SimpleNamespace(config=config))  # type: ignore[arg-type]

    # ---- a checkpoint's config, without weights ---------------------------------------------------------------------

    @classmethod
    def check_config(cls, config: Mapping[str, Any], place: str, supported: str) -> None:
        """Raises UserError, naming `place` and what is `supported`, for a decoder or a tower of another kind."""
        decoder = (config.get("text_config") or {}).get("model_type", cls.decoders[0])
        tower = (config.get("vision_config") or {}).get("model_type", cls.towers[0])
        for part, found, supports in (("decoder", decoder, cls.decoders), ("tower", tower, cls.towers)):
            if found not in supports:
                raise UserError(
                    f"{place}: {cls.title} with a '{found}' {part} is not supported. Supported: {supported}"
                )
        if (aspect := config.get("image_aspect_ratio")) not in cls.aspects:
            known = ", ".join(repr(one) for one in cls.aspects if one)
            raise UserError(f"{place}: image_aspect_ratio {aspect!r} is not supported for {cls.title}, only {known}")

    @classmethod
    @abstractmethod
    def geometry_of(cls, config: Any) -> Geometry:
        """The sizes in a config of transformers."""

    @classmethod
    def size_problems(cls, config: Any) -> Iterator[str]:
        """What is wrong with sizes in a config of transformers that do not go together, a line for each."""
        return size_problems(config)

    @classmethod
    @abstractmethod
    def image_tokens_of(cls, config: Any, height: int, width: int, image_processor: Any) -> int:
        """Visual tokens of an image of `height` x `width` pixels, as many as it has placeholders in a prompt.

        `image_processor` is the checkpoint's. It decides, where tokens depend on more than the model.
        """

    @classmethod
    def prompt_tokens_of(cls, config: Any, sizes: Sequence[tuple[int, int]], image_processor: Any) -> tuple[int, ...]:
        """Visual tokens of each of the images (height, width) of one prompt."""
        return tuple(cls.image_tokens_of(config, *size, image_processor) for size in sizes)

    @classmethod
    def processor_settings(cls, config: Any) -> dict[str, Any]:
        """Arguments of the processor that follow from the model."""
        return {}

    @classmethod
    def processor_of(cls, config: Any, tokenizer: Any, image_processor: Any, **settings: Any) -> Any:
        """transformers' processor for images: it writes one placeholder for each visual token.

        `settings` replace some of `processor_settings`.
        """
        return processing.images_only(cls.processor_class, cls.processor_class)(
            image_processor=image_processor,
            tokenizer=tokenizer,
            chat_template=tokenizer.chat_template,
            **{**cls.processor_settings(config), **settings},
        )

    @classmethod
    def processor_problems(cls, config: Any, image_processor: Any) -> Iterator[str]:
        """What is wrong with the settings of an image processor, before it is tried: a line for each problem."""
        return side_problems(image_processor)

    @classmethod
    def limit_pixels(cls, config: Any, image_processor: Any, limits: PixelLimits) -> None:
        """Set an image processor's limits. Raises UserError for a family without limits, and for impossible ones."""
        if limits.field is not None:
            raise UserError(
                f"{limits.field}: {cls.title} has no limits of pixels, as its image processor decides the sizes. Leave "
                "it out"
            )

    @staticmethod
    def token_pixels(config: Any) -> int:
        """Pixels of one visual token, in a family with limits of pixels."""
        raise NotImplementedError

    def film(self, processor: Any, video: Video, asking: Asking, limits: PixelLimits) -> Filmed:
        """What stands for a video in a prompt instead of the template's `processor.video_token`, and its inputs.

        `limits`: those of a frame that the user states.
        """
        raise NotImplementedError

    @classmethod
    def prompt_placeholder(cls, tokenizer: Any, processor: Any) -> str:
        """What stands for an image in the text that the processor is given."""
        return processor.image_token

    @classmethod
    def placeholder_of(cls, tokenizer: Any, processor: Any) -> str:
        """The token that stands for one visual token in the text that the processor makes."""
        return processor.image_token

    @classmethod
    def read_config(cls, path: Path) -> Any:
        """The config in a folder. Raises UserError for one that transformers refuses, and for impossible sizes."""
        import transformers

        with in_words(f"{path}/config.json: transformers cannot read it"):
            config = pretrained(getattr(transformers, cls.config_class), path)
            refuse(cls.size_problems(config), f"{path}/config.json")
        return config

    @classmethod
    def read_processing(cls, path: Path, config: Any) -> tuple[Any, Any, Any]:
        """Tokenizer, image processor and processor out of a folder in transformers' layout (see processing.py).

        Tokenizer and processor get one and the same chat template: the processor's if it has one, by transformers' own
        rule (processor_config.json, chat_template.json, chat_template.jinja), else the tokenizer's.
        Raises UserError when the folder lacks one of them, or they do not fit each other and the config.
        """
        import transformers

        check_folder(path)
        with in_words(f"{path}: tokenizer or image processor cannot be loaded"):
            template = getattr(transformers, cls.processor_class).get_processor_dict(path)[0].get("chat_template")
            tokenizer, image_processor, processor = cls.read_parts(path, config)
            # A tokenizer does not read chat_template.json, where older checkpoints have the template.
            tokenizer.chat_template = template or tokenizer.chat_template
            processor.chat_template = template or processor.chat_template or tokenizer.chat_template
        rehearse(cls.of_config(config), tokenizer, image_processor, processor, str(path))
        return tokenizer, image_processor, processor

    @classmethod
    def read_parts(cls, path: Path, config: Any) -> tuple[Any, Any, Any]:
        """Tokenizer, image processor and processor as their files have them."""
        return processing.read(cls, path, config)

    # ---- a model's parts --------------------------------------------------------------------------------------------

    @property
    def decoder(self) -> Any:
        return attrgetter(self.decoder_at)(self.model)

    @property
    def head(self) -> Any:
        return attrgetter(self.head_at)(self.model)

    @property
    def tower(self) -> Any:
        return attrgetter(self.tower_at)(self.model)

    @property
    def projector(self) -> Any:
        return attrgetter(self.projector_at)(self.model)

    @property
    def geometry(self) -> Geometry:
        """The sizes in the model's config, with the image that counts are of (`counting`)."""
        return self.geometry_of(self.model.config).counted(self.reference_tokens, self.counts)

    def counting(self, reference_tokens: int | None, counts: Counts = "scaled") -> Self:
        """State the image that absolute counts of methods are of. Raises ValueError like `Geometry.counted`."""
        self.geometry_of(self.model.config).counted(reference_tokens, counts)
        self.reference_tokens, self.counts = reference_tokens, counts
        return self

    def unsupported(self) -> str | None:
        """Why this very model cannot be reduced, in words; None when it can."""
        text, layer = self.decoder.config, self.decoder.layers[0]
        needed = [getattr(layer, "input_layernorm", None)]
        needed += [getattr(layer.self_attn, name, None) for name in ("q_proj", "k_proj")]
        kinds = set(getattr(text, "layer_types", None) or ["full_attention"])
        # transformers gives such layers another cache, even for a window of 0.
        windows = [getattr(text, name, None) for name in ("sliding_window", "attention_chunk_size")]
        full = kinds == {"full_attention"} and windows == [None, None]
        if None in needed or not full:
            return f"decoder '{text.model_type}' is not supported: it needs LLaMA's layers with full attention"
        return None

    def signature(self) -> inspect.Signature:
        """The signature of the model's own forward, without `self`."""
        own = inspect.signature(type(self.model).forward)
        return own.replace(parameters=[p for name, p in own.parameters.items() if name != "self"])

    @property
    def levels(self) -> int:
        """DeepStack: after so many of the first layers, something of the tower's is added to the visual tokens."""
        return 0

    @property
    def window(self) -> int | None:
        """The longest sequence, in tokens, in which every layer sees everything. None: there is no such limit."""
        return None

    # ---- images and videos ------------------------------------------------------------------------------------------

    @property
    def placeholder_id(self) -> int:
        """The token id that stands for one visual token of an image in a prompt."""
        return self.model.config.image_token_id

    def kinds(self, ids_BS: torch.Tensor) -> torch.Tensor:
        """TEXT, IMAGE or VIDEO for each place of the input, (B, S)."""
        import torch

        found = torch.full_like(ids_BS, TEXT)
        for name, kind in self.placeholders.items():
            found = found.masked_fill(ids_BS == getattr(self.model.config, name), kind)
        return found

    def image_tokens(self, height: int, width: int, image_processor: Any = None) -> int:
        """Visual tokens of an image of `height` x `width` pixels; see `image_tokens_of`."""
        return self.image_tokens_of(self.model.config, height, width, image_processor)

    def vision(self, inputs: Mapping[str, Any]) -> Vision | None:
        """The images and videos among the arguments of a forward; None without any."""
        images = {name: inputs[name] for name in self.image_inputs if inputs.get(name) is not None}
        if not set(self.pixel_inputs) & set(images):
            return None
        config = self.model.config
        asked = {name: inputs.get(name) for name in self.vision_settings}
        settings = {name: getattr(config, name) if value is None else value for name, value in asked.items()}
        return Vision(self, images, settings)

    def media(self, inputs: Mapping[str, torch.Tensor]) -> tuple[int, int]:
        """The numbers of images and of videos among these inputs."""
        return len(inputs["pixel_values"]), 0

    def medium(self, inputs: Mapping[str, torch.Tensor], number: int) -> dict[str, torch.Tensor]:
        """The inputs of one medium; images come before videos."""
        return {name: value[number : number + 1] for name, value in inputs.items()}

    def chosen(self, inputs: Mapping[str, torch.Tensor], numbers: Sequence[int]) -> dict[str, torch.Tensor]:
        """The inputs of these media (some of them more than once) as one batch, for `vision` to read again."""
        import torch

        media = [self.medium(inputs, number) for number in numbers]
        found = {name: [one[name] for one in media if name in one] for name in inputs}
        return {name: torch.cat(parts, self.media_axis) for name, parts in found.items() if parts}

    def pixels(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The pixels of one medium."""
        return next(inputs[name] for name in self.pixel_inputs if name in inputs)

    @abstractmethod
    def grids(self, vision: Vision) -> tuple[tuple[Grid, ...], ...]:
        """See `Vision.grids`. Their tokens are those of `features`."""

    @abstractmethod
    def features(self, vision: Vision) -> list[torch.Tensor]:
        """See `Vision.features`."""

    def tower_states(self, vision: Vision) -> tuple[Any, torch.Tensor, torch.Tensor]:
        """The tower's layer whose output the features are, its input and its output: (I, 1 + patches, hidden).

        Raises ValueError for a tower without a class token.
        """
        raise ValueError(f"this method needs a vision tower with a class token, which {self.title} does not have")

    def attended(self, vision: Vision) -> list[Attended]:
        """Features of each medium, and what the tower's attention says of its tokens: see attended.py.

        Raises ValueError for a family whose tokens are no plain grid of patches.
        """
        raise ValueError(f"{self.title}: this method needs images that are one grid of patches each")

    def content(self, image: Vision) -> list[torch.Tensor]:
        """What tells one image from another: tensors that are equal for equal images, padding of a batch left out."""
        return list(image.inputs.values())

    def joined(self, images: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """The inputs of several prompts' images as one batch, image after image."""
        import torch

        return {name: torch.cat([one[name] for one in images]) for name in images[0]} if images else {}

    @property
    def token_side(self) -> int | None:
        """Pixels on a side of a visual token, if the processor leaves images of whole tokens as they are. Else None."""
        return None

    @property
    def pixel_grid(self) -> tuple[int, int]:
        """Rows and columns of visual tokens of an image of `pixel_shape`, in a family with a `token_side`."""
        raise NotImplementedError

    @classmethod
    def token_grid(cls, config: Any, height: int, width: int, image_processor: Any) -> tuple[int, int]:
        """Rows and columns of visual tokens of an image, in a family with a `token_side`."""
        raise NotImplementedError

    @property
    def patch_size(self) -> int:
        """Pixels on a side of one of the tower's patches."""
        return self.model.config.vision_config.patch_size

    @property
    @abstractmethod
    def pixel_shape(self) -> tuple[int, ...]:
        """The shape of one image in `pixel_values`, of the most tiles where the number depends on the image."""

    @property
    def pixel_unit(self) -> tuple[int, ...]:
        """The last axes of `pixel_values`, which are the same for every image."""
        return self.pixel_shape[-3:]

    @property
    def pixel_rows(self) -> int:
        """Axes that `pixel_values` have before those of `pixel_shape`: that of images, or none if they are joined."""
        return 1

    @property
    def trial_size(self) -> tuple[int, int]:
        """Height and width of a small image to try an image processor on. It is no square."""
        height, width = self.pixel_unit[-2:]
        return height, 2 * width

    @property
    def shapes_images(self) -> bool:
        """Whether the image processor brings an image to a shape by itself, so that no protocol pads it before.

        `image_aspect_ratio: square` is LLaVA's word for a model that was trained on the middle of each image.
        """
        return getattr(self.model.config, "image_aspect_ratio", None) == "square"

    def inputs_for(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
        """The model's inputs for images of `pixel_shape`: with random pixels for timings, empty ones in training."""
        return {"pixel_values": pixel_values}

    @property
    def pixel_tokens(self) -> int:
        """Visual tokens of an image of `pixel_shape`."""
        return self.geometry.visual_tokens

    # ---- the decoder's input ----------------------------------------------------------------------------------------

    def places(self, valid_BS: torch.Tensor, kind_BS: torch.Tensor, vision: Vision | None) -> Places:
        """RoPE positions of the whole input; `valid_BS`: no padding, `kind_BS`: see `kinds`."""
        return counted_places(valid_BS)

    def rope(self, hidden: torch.Tensor, position_PBN: torch.Tensor) -> Rope:
        """cos and sin of positions, (B, N, head size); type and device are those of `hidden`."""
        return self.decoder.rotary_emb(hidden, position_ids=position_PBN[0])

    def layer_rope(self, rope: Rope, layer: int) -> Rope:
        """What `layer` (1-based) takes of the `rope` of positions, where layers differ."""
        return rope

    def mask(
        self,
        hidden_BND: torch.Tensor,
        valid_BN: torch.Tensor | None,
        cache: Any | None,
        layer: int,
        block_BN: torch.Tensor | None = None,
    ) -> torch.Tensor | None:
        """The attention mask of layers that see this sequence from `layer` (1-based) on; None: plainly causal.

        With fillers (`valid_BN`) no shortcut is looked for: that would wait for the device. `block_BN`: slots of one
        block (a number from 0 on; -1: none) see each other both ways.
        """
        from transformers.masking_utils import create_causal_mask

        return create_causal_mask(
            config=self.decoder.config,
            inputs_embeds=hidden_BND,
            attention_mask=valid_BN,
            **{cache_name(): cache},
            position_ids=None,
            layer_idx=layer - 1,
            block_sequence_ids=block_BN,
            allow_is_causal_skip=valid_BN is None,
        )
