"""How well patches match a question in CLIP's own space, as CDPruner's released code does it for LLaVA.

LLaVA's checkpoint has CLIP's vision tower with its last norm. The text tower and both projections come from a CLIP
checkpoint, such as openai/clip-vit-large-patch14-336. All but the vision tower is float32. Shapes: I images, N patches,
B rows, V visual slots, P size of CLIP's space.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hidrop.checkpoint_files import AGAIN, in_words
from hidrop.errors import UserError
from hidrop.pretrained import pretrained
from hidrop.prompts import SHORT_ANSWER
from hidrop.regular_files import file_state

if TYPE_CHECKING:
    import torch

    from hidrop.backbones import Backbone, Vision
    from hidrop.runtime.scoring import Prompt

EXAMPLE = "openai/clip-vit-large-patch14-336"
TURN_END = "ASSISTANT:"  # of LLaVA's conversations


def annotated(vision: Vision, source: str) -> list[torch.Tensor]:
    """The model's features of each image, with the unit vectors of their patches in CLIP's space after them.

    The patches are those of the layer that gives the features, through the tower's last norm and CLIP's projection.
    """
    import torch

    from hidrop.backbones.model_inputs import size_of
    from hidrop.runtime.fsdp import within

    states, tower = vision.states()[2], vision.backbone.tower
    patches = states[:, states.shape[1] - size_of(vision.grids[0]) :]  # without the class token, if features are
    with torch.no_grad():
        normed = within(tower, tower.post_layernorm, patches)
        unit_INP = load(source, normed.device).patches(normed)
    return list(torch.cat([vision.project(patches), unit_INP], -1))


def cosines(prompt: Prompt, source: str) -> torch.Tensor:
    """The mean cosine of each patch and the segments of its row's question, (B, V) float32. Waits for the device."""
    import torch

    if prompt.side_BVS is None:  # no row has an image
        return torch.zeros_like(prompt.visual_valid_BV, dtype=torch.float32)
    texts_BP = load(source, prompt.side_BVS.device).texts([asked(text) for text in prompt.questions()])
    return (prompt.side_BVS @ texts_BP[:, :, None])[..., 0]


def check(source: str, backbone: Backbone) -> None:
    """Raises UserError for a CLIP checkpoint that is missing or broken, or belongs to another tower than the model's.

    Reads configs, the tokenizer and the headers of the weights. The model's own weights need not be there.
    """
    if not backbone.class_token:
        raise UserError(
            f"relevance: clip needs a model with CLIP's vision tower, and {backbone.title} has another one. Use "
            "relevance: embeddings"
        )
    folder, state = located(source)
    width, own = checked(folder, state), backbone.model.config.vision_config.hidden_size
    if width != own:
        raise UserError(
            f"text_tower: {folder} belongs to a vision tower of width {width}, and the model's has {own}. Use the CLIP "
            f"that the model's tower comes from ({EXAMPLE} for LLaVA-1.5)"
        )


def located(source: str) -> tuple[Path, tuple[Any, ...]]:
    """The folder of a CLIP checkpoint (a folder, or a Hub id in the local cache), and the state of its files."""
    from hidrop.models import checkpoint_files
    from hidrop.models.sources import find

    try:
        return find(source), tuple((file, file_state(file)) for file in checkpoint_files(source))
    except UserError as error:
        raise UserError(f"text_tower: {error}") from None


@functools.lru_cache(maxsize=4)
def checked(folder: Path, state: tuple[Any, ...]) -> int:
    """The width of a CLIP's vision tower. Raises UserError for a folder without a whole CLIP."""
    from transformers import AutoTokenizer, CLIPConfig

    from hidrop.checkpoint_files import check_folder
    from hidrop.models.headers import check_weights
    from hidrop.models.saving import quiet
    from hidrop.models.sources import read_config

    if (found := read_config(folder).get("model_type")) != "clip":
        raise UserError(
            f"text_tower: {folder} has no text tower of CLIP (model_type {found!r}, not 'clip'). Use a whole CLIP, "
            f"such as {EXAMPLE}"
        )
    check_folder(folder)
    with quiet(), in_words(f"text_tower: {folder}: transformers cannot read it"):
        config = pretrained(CLIPConfig, folder)
        # Without its files transformers makes a tokenizer that knows a few special tokens.
        if not 256 <= len(pretrained(AutoTokenizer, folder)) <= config.text_config.vocab_size:
            raise UserError(f"text_tower: {folder}: CLIP's tokenizer is missing, or is another one. {AGAIN}")
    try:
        check_weights(folder, "CLIPModel", config, part=True)
    except UserError as error:
        raise UserError(f"text_tower: {error}") from None
    return int(config.vision_config.hidden_size)


@dataclass(frozen=True)
class Clip:
    """A CLIP without its vision tower. `segment`: tokens of a text that it reads at once, 77."""

    model: Any
    tokenizer: Any
    segment: int

    def patches(self, normed_IND: torch.Tensor) -> torch.Tensor:
        """Unit vectors of patches after the tower's last norm, (I, N, P)."""
        import torch

        return torch.nn.functional.normalize(self.model.visual_projection(normed_IND.float()), dim=-1)

    def texts(self, questions: list[str]) -> torch.Tensor:
        """A vector for each question, (B, P): its dot product with a unit vector is the mean cosine over segments.

        As released, nothing is truncated and ids are filled up with zeros to whole segments. So only the first segment
        has a start token, and only the last one an end token.
        """
        import torch

        found = []
        for question in questions:
            ids = torch.tensor(self.tokenizer(question, verbose=False).input_ids, device=self.model.device)
            ids = torch.nn.functional.pad(ids, (0, -len(ids) % self.segment)).view(-1, self.segment)
            pooled = self.model.text_projection(self.model.text_model(input_ids=ids).pooler_output)
            found.append(torch.nn.functional.normalize(pooled, dim=-1).mean(0))
        return torch.stack(found)


def load(source: str, device: torch.device) -> Clip:
    """The CLIP of a checkpoint. The last one stays in memory: about 0.5 GB of CLIP-L."""
    return _loaded(*located(source), device)


@functools.lru_cache(maxsize=1)
def _loaded(folder: Path, state: tuple[Any, ...], device: torch.device) -> Clip:
    import torch
    from transformers import AutoTokenizer, CLIPModel

    from hidrop.models.saving import quiet

    with quiet(), torch.inference_mode(False), in_words(f"text_tower: {folder}: cannot be loaded"):
        model = pretrained(CLIPModel, folder, dtype=torch.float32).eval().requires_grad_(False)
        del model.vision_model
        tokenizer = pretrained(AutoTokenizer, folder)
    return Clip(model.to(device), tokenizer, model.config.text_config.max_position_embeddings)


def asked(text: str) -> str:
    """What is asked, of the text after an image: without the turn's end and the request for a short answer."""
    return text.strip().removesuffix(TURN_END).replace(f"\n{SHORT_ANSWER}", "").strip()
