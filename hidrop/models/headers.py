"""What the headers of weight files say, against a config: every tensor, its shape and its type, with nothing read.

transformers itself compares them, on a model without memory. So a file that is cut off, a wrong config and a missing
shard are found in seconds, before anything is loaded, and sizes that no file has never become memory.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hidrop.checkpoint_files import AGAIN, in_words, read_object
from hidrop.errors import UserError
from hidrop.models.incomplete import listed
from hidrop.models.saving import quiet
from hidrop.models.sources import read_index, weight_files
from hidrop.models.weight_files import BUFFERS, open_tensors
from hidrop.pretrained import pretrained

if TYPE_CHECKING:
    import torch

FLOATS = ("F64", "F32", "F16", "BF16")  # safetensors' names


def check_weights(folder: Path, model_class: str, config: Any, *, part: bool = False) -> None:
    """Compare the weight files in `folder` with a config and a class of transformers.

    part: the files may hold more than this model, as a whole CLIP's do. Raises UserError for a broken file, an index
    that differs from its shards, weights that are not floating-point numbers, and tensors that are missing, extra or
    of another shape.
    """
    import transformers

    tensors = headers(folder)
    layers = getattr(config, "text_config", config).num_hidden_layers
    if layers > len(tensors):  # before so many are built
        raise UserError(f"{folder}: config.json has {layers} layers, but the weight files hold {len(tensors)} tensors")
    with quiet(), in_words(f"{folder}/config.json: transformers cannot build this model"):
        _, info = pretrained(
            getattr(transformers, model_class),
            None,
            config=config,
            state_dict=tensors,
            device_map="meta",
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    # transformers only warns about these, and fills what is missing with random numbers.
    wrong = [f"{name} is {tuple(found)}, not {tuple(want)}" for name, found, want in info["mismatched_keys"]]
    extra = [name for name in info["unexpected_keys"] if not part and not name.endswith(BUFFERS)]
    kinds = {"missing tensors": info["missing_keys"], "extra tensors": extra, "wrong shapes": wrong}
    if problems := [f"{kind}: {listed(names)}" for kind, names in kinds.items() if names]:
        raise UserError(f"{folder}: {'; '.join(problems)}. The weights do not belong to this config.json")


def headers(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint by name, on torch's device "meta": they have shapes and no values.

    Raises UserError for a file that is cut off or has an impossible header, for an index that differs from its files,
    and for weights that are whole numbers or quantised.
    """
    files = weight_files(folder)
    found: dict[str, torch.Tensor] = {}
    where: dict[str, set[str]] = defaultdict(set)
    for file in files:
        for name, tensor in _of_file(file):
            found[name] = tensor
            where[name].add(file.name)
    index = folder / ("model" if files[0].suffix == ".safetensors" else "pytorch_model")
    index = index.with_name(f"{index.name}{files[0].suffix}.index.json")
    if index.is_file():
        stated = read_index(index)
        if not isinstance(read_object(index).get("metadata"), dict):
            raise UserError(f'{index}: transformers does not read it without "metadata". Add "metadata": {{}}')
        absent = [f"{name} in {file}" for name, file in stated.items() if Path(file).name not in where[name]]
        unknown = [f"{name} in {file}" for name in found for file in where[name] if stated.get(name) != file]
        kinds = {"tensors that it lists and the shards lack": absent, "tensors that it does not list": unknown}
        if problems := [f"{kind}: {listed(names)}" for kind, names in kinds.items() if names]:
            raise UserError(f"{index}: differs from its shards: {'; '.join(problems)}. {AGAIN}")
    return found


def _of_file(file: Path) -> list[tuple[str, torch.Tensor]]:
    import torch

    if file.suffix != ".safetensors":
        tensors = [(name, tensor.to("meta")) for name, tensor in open_tensors([file])]
        whole = [name for name, tensor in tensors if not tensor.is_floating_point() and not name.endswith(BUFFERS)]
    else:
        from safetensors import safe_open

        tensors, whole = [], []
        # The library compares all offsets with the size of the file.
        with in_words(f"{file}: cannot be read"), safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118  # it is not a mapping
                part = opened.get_slice(name)
                tensors.append((name, torch.empty(part.get_shape(), device="meta")))
                if part.get_dtype() not in FLOATS and not name.endswith(BUFFERS):
                    whole.append(f"{name} ({part.get_dtype()})")
    if whole:
        raise UserError(
            f"{file}: weights that are not floating-point numbers: {listed(whole)}. Quantised checkpoints are not "
            "read; take the original one, and quantization: 4bit or 8bit in the matrix"
        )
    return tensors
