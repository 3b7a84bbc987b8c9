"""What a family's checkpoints hold, answered from their files without weights: config, tokenizer, processors.

Everything here belongs to a family, which is a class. `Backbone` (base.py) adds what a loaded model answers.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from hidrop.backbones import processing
from hidrop.backbones.asking import Asking
from hidrop.backbones.config_fields import ConfigFields, refuse, size_problems
from hidrop.backbones.pixel_limits import PixelLimits
from hidrop.backbones.rehearsal import rehearse, side_problems
from hidrop.checkpoint_files import check_folder, in_words
from hidrop.errors import UserError
from hidrop.geometry import Geometry
from hidrop.pretrained import pretrained
from hidrop.videos import Sampling

if TYPE_CHECKING:
    from hidrop.backbones.base import Backbone


class CheckpointFamily(ABC):
    """Names with `_class` are classes of transformers."""

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

    @classmethod
    @abstractmethod
    def of_config(cls, config: Any) -> Backbone:
        """A backbone without a model, which answers what follows from the config alone, such as `pixel_shape`."""

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

    @classmethod
    def with_settings(cls, image_processor: Any, settings: Mapping[str, Any]) -> Any:
        """An image processor that counts tokens as the given one does when it is called with these `settings`."""
        changed = copy.copy(image_processor)
        for name, value in settings.items():
            setattr(changed, name, value)
        return changed

    @staticmethod
    def token_pixels(config: Any) -> int:
        """Pixels of one visual token, in a family with limits of pixels."""
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
