"""What the project asks of a model family. A family is one subclass in one file; everything else is shared.

What answers for a checkpoint's files is in checkpoint_family.py; an instance answers for one loaded model. Nothing
outside of this package asks for a model's type or for the path of one of its parts.

Shapes: B batch, S input length, N slots of the sequence in a layer, P axes of a RoPE position (1, or more with M-RoPE),
D hidden size of the decoder. A medium is an image, a video or a tile (model_inputs.py).
"""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from operator import attrgetter
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar, Self

from hidrop.backbones.asking import Asking
from hidrop.backbones.checkpoint_family import CheckpointFamily
from hidrop.backbones.model_inputs import IMAGE, TEXT, Grid, Places, Rope, Vision, counted_places
from hidrop.backbones.pixel_limits import PixelLimits
from hidrop.backbones.tokenizers import tokenizer_of
from hidrop.cache_name import cache_name
from hidrop.geometry import Counts, Geometry
from hidrop.videos import Video

if TYPE_CHECKING:
    import torch
    from torch import nn

    from hidrop.backbones.attended import Attended
    from hidrop.backbones.filming import Filmed


class Backbone(CheckpointFamily):
    """One family (class) and one loaded model of it (instance).

    Names with `_at` are attribute paths of a model's parts.
    """

    decoder_at: ClassVar[str]  # has `layers`, `embed_tokens`, `norm` and `rotary_emb`
    head_at: ClassVar[str]
    tower_at: ClassVar[str]
    projector_at: ClassVar[str]

    # What the model's forward takes for images and videos, which of it are pixels, and how features are read off the
    # tower.
    image_inputs: ClassVar[tuple[str, ...]] = ("pixel_values",)
    pixel_inputs: ClassVar[tuple[str, ...]] = ("pixel_values",)
    # What pixels cannot be read without, by the name of the pixels.
    sized_by: ClassVar[Mapping[str, str]] = {}
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
    # Whether rows of an image's tiles, and the image itself, end with a token that belongs to no part of it.
    line_ends: ClassVar[bool] = False
    # Whether the tokens of one image see each other both ways.
    both_ways: ClassVar[bool] = False

    def __init__(self, model: nn.Module) -> None:
        self.model: Any = model
        self.reference_tokens: int | None = None
        self.counts: Counts = "scaled"

    @classmethod
    def of_config(cls, config: Any) -> Self:
        """A backbone without a model, which answers what follows from the config alone, such as `pixel_shape`."""
        return cls(SimpleNamespace(config=config))  # type: ignore[arg-type]

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
    def tokenizer(self) -> Any:
        """See `tokenizer_of`."""
        return tokenizer_of(self.model)

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
        """The images and videos among the arguments of a forward; None without any.

        Raises ValueError for pixels without what says their sizes.
        """
        images = {name: inputs[name] for name in self.image_inputs if inputs.get(name) is not None}
        if not set(self.pixel_inputs) & set(images):
            return None
        for pixels, sizes in self.sized_by.items():
            if pixels in images and sizes not in images:
                raise ValueError(f"{pixels} without {sizes}: give the model everything that its processor makes")
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

    def film(self, processor: Any, video: Video, asking: Asking, limits: PixelLimits) -> Filmed:
        """What stands for a video in a prompt instead of the template's `processor.video_token`, and its inputs.

        `limits`: those of a frame that the user states.
        """
        raise NotImplementedError

    def tower_states(self, vision: Vision) -> tuple[Any, torch.Tensor, torch.Tensor]:
        """The tower's layer whose output the features are, its input and its output: (I, 1 + patches, hidden).

        Raises ValueError for a tower without a class token.
        """
        raise ValueError(f"this method needs a vision tower with a class token, which {self.title} does not have")

    def layer_after_features(self, vision: Vision) -> Any | None:
        """The tower's layer after the one of `tower_states`, whose input the features are; None if there is none."""
        return None

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
        """Height and width of a small image to try an image processor on; they differ."""
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
