"""The entry point that registers hidrop's model in lmms-eval. Imports nothing heavy: lmms-eval calls it at start-up."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def manifests() -> Iterable[Any]:
    """The class that `lmms-eval --model hidrop` loads."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return [ModelManifest(model_id="hidrop", simple_class_path="evals.model.lmms_model.HidropLlava")]
