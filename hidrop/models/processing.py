"""Tokenizer, image processor and processor of a checkpoint.

torchvision may be absent, or broken, or present: images go through PIL everywhere, so that pixels are the same.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hidrop.backbones.llava import LLAVA, Family
from hidrop.errors import UserError


def read_processing(path: Path, config: Any, family: Family) -> tuple[Any, Any, Any]:
    """Tokenizer, image processor and processor out of a folder in transformers' layout.

    Raises UserError when the folder lacks one of them.
    """
    import transformers
    from transformers import AutoProcessor, AutoTokenizer

    try:
        if (path / "processor_config.json").is_file():
            processor = AutoProcessor.from_pretrained(path, backend="pil")
            return processor.tokenizer, processor.image_processor, processor
        tokenizer = AutoTokenizer.from_pretrained(path)
        image_processor = getattr(transformers, family.image_processor).from_pretrained(path)
    except (OSError, ValueError, ImportError) as error:
        raise UserError(
            f"{path}: tokenizer or image processor cannot be loaded ({' '.join(str(error).split())})"
        ) from None
    return tokenizer, image_processor, processor_for(config, tokenizer, image_processor, family)


def processor_for(config: Any, tokenizer: Any, image_processor: Any, family: Family = LLAVA) -> Any:
    """transformers' processor for a model's config: it writes one `<image>` for each visual token."""
    import transformers

    return getattr(transformers, family.processor)(
        image_processor=image_processor,
        tokenizer=tokenizer,
        patch_size=config.vision_config.patch_size,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
        chat_template=tokenizer.chat_template,
        image_token=tokenizer.convert_ids_to_tokens(config.image_token_id),
        num_additional_image_tokens=1,
    )
