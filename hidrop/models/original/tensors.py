"""LLaVA's original layout, its tensors: read them into transformers' LLaVA."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hidrop.backbones.llava import Llava
from hidrop.backbones.rehearsal import rehearse
from hidrop.backbones.runnable import check_runs
from hidrop.checkpoint_files import check_folder, in_words
from hidrop.errors import UserError
from hidrop.models.incomplete import listed
from hidrop.models.original.config import TOWER, Described, describe, tower_place
from hidrop.models.sources import find, weight_files
from hidrop.models.vocabulary import add_placeholder, grown
from hidrop.models.weight_files import BUFFERS, open_tensors
from hidrop.pretrained import pretrained
from hidrop.reducer import Reducer

if TYPE_CHECKING:
    import torch

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
# Original prefix -> name in memory, most specific first: the last rule takes what is left under "model.".
RENAMES = (
    (TOWER, f"{Llava.tower_at}."),
    ("model.mm_projector.0.", f"{Llava.projector_at}.linear_1."),
    ("model.mm_projector.2.", f"{Llava.projector_at}.linear_2."),
    ("lm_head.", f"{Llava.head_at}."),
    ("model.", f"{Llava.decoder_at}."),
)


@dataclass(frozen=True)
class Read:
    """A checkpoint in the original layout, read: a transformers model and the files it came from."""

    model: Any
    tokenizer: Any
    image_processor: Any
    processor: Any
    reducer: Reducer | None
    files: tuple[Path, ...]


@dataclass(frozen=True)
class Checked:
    """A checkpoint in the original layout before its model is made; `tensors` by their names in memory."""

    described: Described
    tokenizer: Any
    image_processor: Any
    processor: Any
    tensors: dict[str, torch.Tensor]
    files: tuple[Path, ...]


def read(folder: Path, raw: dict[str, Any], *, dtype: str, attention: str, allow_download: bool = False) -> Read:
    """Load a checkpoint in the original layout as transformers' LlavaForConditionalGeneration.

    The vocabulary grows by the image token; the rows that are new are the mean of the old ones, so their logit is
    the mean logit and a greedy step never picks them. Raises UserError naming missing, extra or misshapen tensors.
    """
    from transformers import GenerationConfig, LlavaForConditionalGeneration

    checked = check(folder, raw, allow_download=allow_download)
    described, tokenizer, state = checked.described, checked.tokenizer, checked.tensors
    config = described.config
    for name in (EMBEDDING, HEAD):
        state[_in_memory(name)] = _with_mean_rows(state[_in_memory(name)], config.text_config.vocab_size)
    stored = str(raw.get("torch_dtype") or raw.get("dtype") or "float16")
    with in_words(f"{folder}: the weights cannot be loaded"):
        model = pretrained(
            LlavaForConditionalGeneration,
            None,
            config=config,
            state_dict=state,
            dtype=stored if dtype == "auto" else dtype,
            attn_implementation=attention,
        )
    # Vicuna's own generation config asks for sampling, which no benchmark here means.
    text = config.text_config
    model.generation_config = GenerationConfig(
        bos_token_id=text.bos_token_id, eos_token_id=text.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    return Read(model, tokenizer, checked.image_processor, checked.processor, described.reducer, checked.files)


def check(folder: Path, raw: dict[str, Any], *, allow_download: bool = False) -> Checked:
    """All of a checkpoint that is there before its model: raises UserError for everything that `read` refuses.

    Tensors are mapped into memory and not read.
    """
    described = describe(folder, raw, allow_download=allow_download)
    check_folder(folder)
    tokenizer = _tokenizer(folder, described)
    tensors, files = _gather(folder, described, allow_download=allow_download)
    with in_words(f"{folder}/config.json: transformers cannot build this model"):
        state = _translate(tensors, described, folder)
    check_runs(Llava, described.config, f"{folder}/config.json")
    with in_words(f"{described.tower or folder}: the image processor cannot be loaded"):
        image_processor = _image_processor(described)
        processor = Llava.processor_of(described.config, tokenizer, image_processor)
    rehearse(Llava.of_config(described.config), tokenizer, image_processor, processor, str(described.tower or folder))
    return Checked(described, tokenizer, image_processor, processor, state, files)


def files(folder: Path, raw: dict[str, Any]) -> tuple[Path, ...]:
    """All files that hold tensors of the checkpoint in `folder`, in whatever folder they are."""
    return _gather(folder, describe(folder, raw), allow_download=False)[1]


def other_folders(folder: Path, raw: dict[str, Any]) -> list[Path]:
    """The vision tower's own folder, which has the image processor's settings; none if there is no such folder."""
    try:
        return [tower_place(folder, raw)[1]]
    except UserError:
        return []


def _gather(
    folder: Path, described: Described, *, allow_download: bool
) -> tuple[dict[str, torch.Tensor], tuple[Path, ...]]:
    """All tensors under their original names: checkpoint, then a separate projector, then the tower's own folder."""
    files = list(weight_files(folder))
    tensors = dict(open_tensors(files))
    separate = folder / "mm_projector.bin"
    if not any(name.startswith("model.mm_projector.") for name in tensors) and separate.is_file():
        tensors.update(open_tensors([separate]))
        files.append(separate)
    if not any(name.startswith(TOWER) for name in tensors):
        if described.tower is None:
            raise UserError(f"{folder}: holds no vision tower, and its own folder was not found")
        own = weight_files(find(described.tower, allow_download=allow_download))
        for name, tensor in open_tensors(own):
            bare = name.removeprefix("vision_model.")
            # A whole CLIP holds a text model as well.
            if bare != name or bare.startswith(("embeddings.", "encoder.", "pre_layrnorm.", "post_layernorm.")):
                tensors[TOWER + bare] = tensor
        files += own
    return tensors, tuple(files)


def _translate(tensors: dict[str, torch.Tensor], described: Described, folder: Path) -> dict[str, torch.Tensor]:
    """Original names -> names in memory. Shapes fit the model, except for the rows that the vocabulary grows by."""
    import torch
    from transformers import LlavaForConditionalGeneration

    tensors = {name: value for name, value in tensors.items() if not name.endswith(BUFFERS)}
    if EMBEDDING not in tensors:
        raise UserError(
            f"{folder}: holds no language model ({EMBEDDING} is missing). Merge it with its base model first"
        )
    if described.config.tie_word_embeddings:
        tensors.setdefault(HEAD, tensors[EMBEDDING])
    with torch.device("meta"):
        expected = {
            name: tuple(t.shape) for name, t in LlavaForConditionalGeneration(described.config).state_dict().items()
        }
    old_rows = {
        _in_memory(name): (described.rows, described.config.text_config.hidden_size) for name in (EMBEDDING, HEAD)
    }

    found = {_in_memory(name): value for name, value in tensors.items()}
    wrong = [
        f"{_original(name)} is {tuple(found[name].shape)}, the config asks for {old_rows.get(name, shape)}"
        for name, shape in expected.items()
        if name in found and tuple(found[name].shape) != old_rows.get(name, shape)
    ]
    kinds = {
        "missing tensors": [_original(name) for name in expected.keys() - found.keys()],
        "extra tensors": [_original(name) for name in found.keys() - expected.keys()],
        "wrong shapes": wrong,
    }
    if problems := [f"{kind}: {listed(names)}" for kind, names in kinds.items() if names]:
        raise UserError(f"{folder}: {'; '.join(problems)}. The weights do not belong to this config.json")
    if whole := [_original(name) for name, value in found.items() if not value.is_floating_point()]:
        raise UserError(
            f"{folder}: weights that are not floating-point numbers: {listed(whole)}. Take the original ones"
        )
    return found


def _with_mean_rows(weight: torch.Tensor, rows: int) -> torch.Tensor:
    """`weight` (old rows, hidden) with rows of its mean appended up to `rows`."""
    import torch

    mean = weight.float().mean(dim=0, keepdim=True).to(weight.dtype)
    return torch.cat([weight, mean.expand(rows - weight.shape[0], -1)])


def _in_memory(name: str) -> str:
    for old, new in RENAMES:
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


def _original(name: str) -> str:
    for old, new in RENAMES:
        if name.startswith(new):
            return old + name.removeprefix(new)
    return name


def _tokenizer(folder: Path, described: Described) -> Any:
    """The checkpoint's tokenizer with an `<image>` token; the config learns that token's id."""
    from transformers import AutoTokenizer

    with in_words(
        f"{folder}: the tokenizer cannot be loaded",
        "A folder with tokenizer.model alone needs: pip install sentencepiece protobuf",
    ):
        tokenizer = pretrained(AutoTokenizer, folder, config=described.config.text_config)
    image = add_placeholder(tokenizer)
    config = described.config
    config.image_token_index = image
    config.text_config.vocab_size = max(config.text_config.vocab_size, grown(image + 1))
    return tokenizer


def _image_processor(described: Described) -> Any:
    """The tower's image processor; without its folder CLIP's own values at the tower's resolution."""
    from transformers import CLIPImageProcessorPil

    if described.tower is not None:
        folder = find(described.tower, config_only=True)
        if (folder / "preprocessor_config.json").is_file():
            check_folder(folder)
            return pretrained(CLIPImageProcessorPil, folder)
    side = described.config.vision_config.image_size
    return CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
