"""The vision side of a model, as methods see it that work before the decoder's input exists."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch


@dataclass(frozen=True)
class Vision:
    """The images of a batch on their way to the decoder. `pixel_values` (images, 3, height, width).

    `layer` and `strategy` are LLaVA's: which hidden states of the tower are the features, and whether its class token
    is among them ("full") or not ("default").
    """

    model: Any
    pixel_values: torch.Tensor
    layer: int | list[int]
    strategy: str
    image_sizes: torch.Tensor | None = None

    @classmethod
    def of(
        cls,
        model: Any,
        pixel_values: torch.Tensor,
        layer: int | list[int] | None = None,
        strategy: str | None = None,
        image_sizes: torch.Tensor | None = None,
    ) -> Vision:
        """With the model's own layer and strategy where none is given."""
        config = model.config
        layer = config.vision_feature_layer if layer is None else layer
        return cls(model, pixel_values, layer, strategy or config.vision_feature_select_strategy, image_sizes)

    def only(self, image: int) -> Vision:
        """The same with one of its images, by number."""
        one = slice(image, image + 1)
        sizes = None if self.image_sizes is None else self.image_sizes[one]
        return replace(self, pixel_values=self.pixel_values[one], image_sizes=sizes)

    def features(self, pixel_values: torch.Tensor | None = None) -> list[torch.Tensor]:
        """Projected features of each image, (tokens, D); of other pixels than its own where some are given.

        Images of another size than the tower's have its position embeddings interpolated (bicubic, transformers' own).
        """
        pixels = self.pixel_values if pixel_values is None else pixel_values
        side = getattr(self.model.config.vision_config, "image_size", None)
        other = pixel_values is not None and pixels.shape[-2:] != (side, side)
        return list(
            self.model.model.get_image_features(
                pixel_values=pixels,
                vision_feature_layer=self.layer,
                vision_feature_select_strategy=self.strategy,
                image_sizes=self.image_sizes,
                return_dict=True,
                **({"interpolate_pos_encoding": True} if other else {}),
            ).pooler_output
        )

    def states(self) -> tuple[Any, torch.Tensor, torch.Tensor]:
        """The tower's layer whose output the features are, its input and its output: (images, 1 + patches, hidden).

        Raises ValueError for a tower that is not CLIP's (with a class token) or features of several layers.
        """
        tower = self.model.model.vision_tower
        if not isinstance(self.layer, int) or not hasattr(tower.embeddings, "class_embedding"):
            raise ValueError("this method needs a CLIP tower, with a class token, and features of one layer")
        states = tower(self.pixel_values, output_hidden_states=True, return_dict=True).hidden_states
        place = self.layer % len(states)
        if place == 0:
            raise ValueError("this method needs features that a layer of the tower has made")
        return tower.encoder.layers[place - 1], states[place - 1], states[place]

    def project(self, features: torch.Tensor) -> torch.Tensor:
        """Through the projector: (..., hidden) to (..., D)."""
        return self.model.model.multi_modal_projector(features)
