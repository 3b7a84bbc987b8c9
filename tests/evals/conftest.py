"""Small stand-ins for the evaluation tests: a tokenizer in LLaMA's manner, data sets of a few rows, an oracle."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from evals.tasks import evaluation, get_task
from evals.tasks.rehearsal import problems_of
from hidrop.videos import Sampling, VideoFile
from tests.evals.tasks.layout import put, write
from tests.evals.tasks.table import CASES

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
    """A tiny random LLaVA with the tokenizer and processors that `hidrop.models.load` adds."""
    from dataclasses import replace

    from hidrop.backbones import backbone_of
    from hidrop.backbones.pixel_limits import NO_LIMITS
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
        ends=(),
        image_tokens=lambda height, width: 16,
        features=FeatureCache(),
        pixel_limits=NO_LIMITS,
    )


@pytest.fixture
def make_rows() -> Callable[[str], list[dict[str, Any]]]:
    """A few documents of a task, with the official columns: see `tests.evals.tasks.table`."""
    return lambda task: [dict(document) for document in CASES[task].documents]


@pytest.fixture
def write_parquet() -> Callable[[list[dict[str, Any]], Path], None]:
    return write


@pytest.fixture(autouse=True)
def own_dataset_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep converted data sets and question files out of the user's cache, and build each test's tasks anew."""
    evaluation._shared.cache_clear()
    monkeypatch.setenv("LMMS_EVAL_DATASETS_CACHE", str(tmp_path_factory.getbasetemp() / "datasets-cache"))
    converted = tmp_path_factory.getbasetemp() / "converted"
    monkeypatch.setattr("evals.tasks.mvbench.cache_folder", lambda: converted)


@pytest.fixture(scope="session", autouse=True)
def tried_here() -> Iterator[None]:
    """Try tasks in this process: another one imports lmms-eval first, for seconds. test_rehearsal.py starts one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("evals.tasks.rehearsal._in_child", functools.cache(problems_of))
        yield


@pytest.fixture
def short_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """End answers after 8 tokens: those of a random model go on for as many as the protocol allows, up to 1024."""
    from evals.model.lmms_model import HidropLlava

    longest = HidropLlava._longest
    monkeypatch.setattr(HidropLlava, "_longest", lambda *given: min(8, longest(*given)))


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All tasks in the embedded benchmark's layout."""
    folder = tmp_path_factory.mktemp("data")
    for task in CASES:
        put(task, folder / get_task(task).source.folder)
    return folder


def colour_of(visual: Any) -> Any:
    """One pixel of an image, or of a video's first frame."""
    if isinstance(visual, VideoFile):
        visual = visual.read(Sampling(1)).frames[0]
    return visual.getpixel((visual.width - 1, visual.height - 1) if visual.height > 40 else (0, 0))


@pytest.fixture
def oracle() -> Callable[..., Any]:
    """oracle(say): an lmms-eval model that answers `say(doc, context)`; by default it is right."""
    from lmms_eval.api.model import lmms

    def right(task: str, doc: dict[str, Any]) -> str:
        # An exported task is called hidrop_<data>_<task>.
        return next(case.right(doc) for name, case in CASES.items() if f"_{task}".endswith(f"_{name}"))

    class Oracle(lmms):
        is_simple = True

        def __init__(self, say: Callable[[dict[str, Any], str], str] | None = None) -> None:
            super().__init__()
            self.say, self.contexts, self.colours = say, [], []

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
                self.colours += [colour_of(visual) for visual in visuals(doc)]
                answers.append(self.say(doc, context) if self.say else right(task, doc))
            return answers

    return Oracle
