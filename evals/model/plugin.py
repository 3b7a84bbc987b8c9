"""The entry point by which lmms-eval finds our model. Imports nothing heavy: lmms-eval calls it at start-up."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def manifests() -> Iterable[Any]:
    """What `lmms-eval --model hidrop` loads."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return [ModelManifest(model_id="hidrop", simple_class_path="evals.model.lmms_model.HidropLlava")]
