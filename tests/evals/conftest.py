"""Small stand-ins for the evaluation tests: a tokenizer in LLaMA's manner, data sets of a few rows, an oracle."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

IMAGE_ID = 99
CHARACTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,:;?'-()\n▁"


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """One id a character; spaces and the start of each text become the boundary sign, as in sentencepiece."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    tokens = ["<unk>", "<s>", "</s>", "<pad>", *CHARACTERS]
    tokens += [f"<unused{i}>" for i in range(IMAGE_ID - len(tokens))]
    inner = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=[], unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
    inner.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="first", split=False)
    inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    inner.add_special_tokens([AddedToken("<image>", special=True, normalized=False)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )
    assert fast.convert_tokens_to_ids("<image>") == IMAGE_ID
    return fast


@pytest.fixture(scope="session")
def image_processor() -> Any:
    from transformers import CLIPImageProcessorPil

    return CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})


@pytest.fixture
def go(tmp_path: Path) -> Any:
    """See `tests.evals.world.going`."""
    from tests.evals.world import going

    return going(tmp_path)


@pytest.fixture
def loaded(tiny_llava: Callable[..., Any], tokenizer: Any, image_processor: Any) -> Any:
    """A tiny random LLaVA with what `hidrop.models.load` puts beside it."""
    from dataclasses import replace

    from hidrop.backbones import backbone_of
    from hidrop.runtime.feature_cache import FeatureCache

    model = tiny_llava(layers=4, seed=3)
    geometry = replace(backbone_of(model).geometry, max_positions=4096)
    return SimpleNamespace(
        model=model,
        backbone=backbone_of(model),
        tokenizer=tokenizer,
        image_processor=image_processor,
        geometry=geometry,
        reducer=None,
        image_tokens=lambda height, width: 16,
        features=FeatureCache(),
    )


def png(colour: tuple[int, int, int], size: tuple[int, int] = (40, 32)) -> dict[str, Any]:
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


PICTURES = [png((40 * i, 200 - 30 * i, 90)) for i in range(4)]


def rows(task: str) -> list[dict[str, Any]]:
    """A few documents with the official columns."""
    if task == "gqa":
        return [
            {"id": str(i), "imageId": f"n{i // 2}", "question": q, "answer": a, "image": PICTURES[i // 2]}
            for i, (q, a) in enumerate([("What colour is it?", "red"), ("Is it big?", "no"), ("How many?", "2")])
        ]
    if task == "pope":
        return [
            {
                "question_id": str(i),
                "question": "Is there a cup in the image?",
                "answer": answer,
                "category": category,
                "image_source": f"COCO_{i % 2}",
                "image": PICTURES[i % 2],
            }
            for i, (category, answer) in enumerate(
                (c, a) for c in ("adversarial", "popular", "random") for a in ("yes", "no")
            )
        ]
    if task == "textvqa_val":
        answers = [["nokia"] * 8 + ["the nokia", "sony"], ["12"] * 2 + ["13"] * 8]
        return [
            {
                "question_id": i,
                "image_id": f"t{i}",
                "question": "What does IT say?",
                "answers": said,
                "ocr_tokens": ["NOKIA", "12"],
                "image": PICTURES[i],
            }
            for i, said in enumerate(answers)
        ]
    # Two MMBench questions; as in the official file the copies come after all questions.
    texts = {7: ["red", "blue", "green"], 9: ["cat", "dog"]}
    found = []
    for turn in range(3):
        for index, options in texts.items():
            if turn >= len(options):
                continue
            turned = options[turn:] + options[:turn]
            found.append(
                {
                    "index": index + turn * 1_000_000,
                    "question": "Which one?",
                    "hint": "look closely" if index == 7 else "nan",
                    "answer": "ABCD"[turned.index(options[0])],
                    **{letter: (turned[n] if n < len(turned) else None) for n, letter in enumerate("ABCD")},
                    "category": "colour" if index == 7 else "animal",
                    "L2-category": "attribute" if index == 7 else "object",
                    "source": "test",
                    "split": "dev",
                    "image": PICTURES[index % 4],
                }
            )
    return found


MINI_FILES = {
    "gqa": "gqa/testdev.parquet",
    "mmbench_en_dev": "mmbench/dev.parquet",
    "textvqa_val": "textvqa/validation.parquet",
    "pope": "pope/test.parquet",
}


def write(documents: list[dict[str, Any]], path: Path) -> None:
    """Documents as a parquet file whose `image` is a datasets.Image; bytes are stored as they are, broken or not."""
    import datasets

    path.parent.mkdir(parents=True, exist_ok=True)
    data = datasets.Dataset.from_list(documents)
    if "image" in data.column_names:
        data = data.cast_column("image", datasets.Image(decode=False)).cast_column("image", datasets.Image())
    data.to_parquet(str(path))


@pytest.fixture
def make_rows() -> Callable[[str], list[dict[str, Any]]]:
    return rows


@pytest.fixture
def write_parquet() -> Callable[[list[dict[str, Any]], Path], None]:
    return write


@pytest.fixture(autouse=True)
def own_dataset_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep converted data sets out of the user's cache."""
    monkeypatch.setenv("LMMS_EVAL_DATASETS_CACHE", str(tmp_path_factory.getbasetemp() / "datasets-cache"))


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All four tasks in the embedded benchmark's layout."""
    folder = tmp_path_factory.mktemp("data")
    for task, name in MINI_FILES.items():
        write(rows(task), folder / name)
    return folder


@pytest.fixture
def oracle() -> Callable[..., Any]:
    """oracle(say): an lmms-eval model that answers `say(doc, context)`; by default what the document says."""
    from lmms_eval.api.model import lmms

    def right(doc: dict[str, Any], context: str) -> str:
        return str(doc["answers"][0] if "answers" in doc else doc["answer"])

    class Oracle(lmms):
        is_simple = True

        def __init__(self, say: Callable[[dict[str, Any], str], str] = right) -> None:
            super().__init__()
            self.say, self.contexts, self.sizes = say, [], []

        def clean(self) -> None: ...

        def loglikelihood(self, requests: Any) -> Any:
            raise NotImplementedError

        def generate_until_multi_round(self, requests: Any) -> Any:
            raise NotImplementedError

        def generate_until(self, requests: Any) -> list[str]:
            answers = []
            for request in requests:
                context, settings, visuals, doc_id, task, split = request.args
                doc = self.task_dict[task][split][doc_id]
                self.settings = settings
                self.contexts.append(context)
                self.sizes += [image.size for image in visuals(doc)]
                answers.append(self.say(doc, context))
            return answers

    return Oracle
