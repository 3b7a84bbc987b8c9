"""A matrix of a user's own: a tiny random checkpoint on disk, three methods, tiny data."""

from __future__ import annotations

import pytest

METHODS = """
  vanilla: {}
  fastv: {layer: 1, keep: 4}
  hidrop: {inject: 2, filters: [2], keep: [3], exit: 4}
"""


@pytest.fixture
def checkpoint(tmp_path, tiny_llava, tokenizer, image_processor):
    """A tiny random LLaVA on disk, as a user's own checkpoint would be."""
    from hidrop.models import save

    model = tiny_llava(layers=4, seed=3)
    model.config.text_config.max_position_embeddings = 2048  # the test's tokenizer makes a token of each letter
    return save(model, tokenizer, image_processor, tmp_path / "checkpoint")


@pytest.fixture
def matrix(tmp_path, checkpoint, data_folder):
    """A matrix file on the tiny checkpoint and the tiny data; `methods` and fields can be replaced."""

    timed = "{repeats: 1, warmup: 0, new_tokens: 2, text_tokens: 8}"

    def write(methods=METHODS, source=checkpoint, data=data_folder, tasks=("gqa", "pope"), profile=timed, more=""):
        path = tmp_path / "tiny.yaml"
        lines = [
            "name: tiny",
            "protocol: lmms-eval",
            "dtype: float32",
            "device: cpu",
            "batch_size: 2",
            f"models: {{tiny: {{source: {source}}}}}",
            f"methods: {methods}",
            "tasks:",
            *(f"  {task}: {{data: {data}}}" for task in tasks),
            f"profile: {profile}",
            more,
        ]
        path.write_text("\n".join(lines))
        return str(path)

    return write
