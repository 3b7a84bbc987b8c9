from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from evals.model.requests import cut
from evals.tasks import TASKS, TaskSpec, evaluate, get_task
from hidrop.errors import UserError
from hidrop.methods import build

GREEDY = {"max_new_tokens": 6, "do_sample": False, "until": ["\n\n"]}


def instance(context: str, doc_id: int, visuals: Any, settings: dict[str, Any] | None = None, **metadata: Any) -> Any:
    arguments = (context, settings or GREEDY, visuals, doc_id, "toy", "test")
    return SimpleNamespace(args=arguments, metadata=metadata)


def picture(doc: dict[str, Any]) -> list[Any]:
    from PIL import Image

    return [Image.new("RGB", (40, 32), colour) for colour in doc["colours"]]


DOCS = [{"colours": [(20 * i, 255 - 30 * i, 7 * i)]} for i in range(6)]
QUESTIONS = ["What is it?", "Is it red or is it blue?", "How many are there?", "Why?", "Is it big?", "Who?"]


def toy(docs: list[dict[str, Any]] = DOCS) -> list[Any]:
    return [instance(QUESTIONS[i], i, picture) for i in range(len(docs))]


def model(loaded: Any, docs: list[dict[str, Any]] = DOCS, **options: Any) -> Any:
    from evals.model.lmms_model import HidropLlava

    lm = HidropLlava.from_loaded(loaded, **options)
    lm.task_dict["toy"] = {"test": docs}
    return lm


def texts(results: list[Any]) -> list[str]:
    return [result.text for result in results]


@pytest.mark.parametrize("protocol", ["llava", "lmms-eval"])
@pytest.mark.parametrize("method", ["vanilla", "random"])
def test_answers_stand_in_request_order_and_do_not_depend_on_the_batch(loaded: Any, protocol: str, method: str) -> None:
    reducer = build("random", {"layer": 2, "keep": 5}) if method == "random" else None
    single = texts(model(loaded, reducer=reducer, protocol=protocol).generate_until(toy()))
    batched = texts(model(loaded, reducer=reducer, protocol=protocol, batch_size=4).generate_until(toy()))
    assert len(set(single)) > 1
    assert batched == single


def test_answers_are_those_of_plain_generate(loaded: Any) -> None:
    import torch

    lm = model(loaded)
    for request, answer in zip(toy(), lm.generate_until(toy()), strict=True):
        images = picture(DOCS[request.args[3]])
        ids = lm.protocol.ids(loaded.tokenizer, request.args[0], [16], image_token_id=99)
        out = loaded.model.generate(
            input_ids=torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            **lm.protocol.pixels(loaded.image_processor, images),
            max_new_tokens=6,
            do_sample=False,
            eos_token_id=2,
            pad_token_id=3,
        )
        expected = loaded.tokenizer.decode(out[0, len(ids) :], skip_special_tokens=True)
        assert answer.text == cut(expected, ["\n\n"])
        assert answer.token_counts.input_tokens == len(ids)


def test_one_record_a_sample_with_its_cost(loaded: Any) -> None:
    records: list[dict[str, Any]] = []
    lm = model(loaded, record=records.extend, batch_size=2)
    answers = texts(lm.generate_until(toy()))
    assert sorted(r["doc_id"] for r in records) == list(range(6))
    for record in records:
        assert record["task"] == "toy" and record["error"] is None
        assert record["answer"] == answers[record["doc_id"]]
        assert record["visual_tokens"] == 16 < record["prompt_tokens"]
        assert 1 <= record["new_tokens"] <= 6
        assert record["milliseconds"] > 0
    assert len({r["prompt_hash"] for r in records}) == 6
    assert lm.trace is not None and not lm.failures


def test_tokens_are_recorded_where_they_are_not_the_methods_plan(loaded: Any) -> None:
    records: list[dict[str, Any]] = []
    docs = [{"colours": [(9, 9, 9)] * n} for n in (1, 2, 0)]
    reducer = build("fastv", {"layer": 1, "keep": 4})
    model(loaded, docs, reducer=reducer, record=records.extend, batch_size=2).generate_until(toy(docs))
    assert {r["doc_id"]: r["entering"] for r in records} == {0: None, 1: [32, 8, 8, 8], 2: [0, 0, 0, 0]}
    records.clear()
    beams = [instance(QUESTIONS[i], i, picture, {**GREEDY, "num_beams": 2}) for i in range(3)]
    model(loaded, docs, reducer=reducer, record=records.extend, batch_size=3).generate_until(beams)
    assert {r["doc_id"]: r["entering"] for r in records} == {0: None, 1: [32, 8, 8, 8], 2: [0, 0, 0, 0]}
    records.clear()
    adaptive = build("sparsevlm", {"version": "1.0", "layers": [1, 2], "scale": 90.0})
    model(loaded, docs[:1], reducer=adaptive, record=records.extend).generate_until(toy(docs[:1]))
    (entering,) = (r["entering"] for r in records)
    assert entering[0] == 16 > entering[1] >= entering[2] == entering[3] > 0


def test_records_of_a_batch_are_there_before_the_next_batch_runs(loaded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    records: list[dict[str, Any]] = []
    lm, seen = model(loaded, record=records.extend, batch_size=2), []
    inner = lm._generate

    def watched(prompts: Any) -> Any:
        seen.append(len(records))
        return inner(prompts)

    monkeypatch.setattr(lm, "_generate", watched)
    lm.generate_until(toy())
    assert seen == [0, 2, 4]


def test_a_broken_image_fails_its_sample_only(loaded: Any) -> None:
    def broken(doc: dict[str, Any]) -> list[Any]:
        raise OSError("truncated file")

    requests = toy()
    requests[2] = instance(QUESTIONS[2], 2, broken)
    records: list[dict[str, Any]] = []
    lm = model(loaded, record=records.extend, batch_size=3)
    answers = texts(lm.generate_until(requests))
    assert answers[2] == "" and all(answers[:2] + answers[3:])
    assert lm.failures == {("toy", 2): "OSError: truncated file"}
    [failed] = [r for r in records if r["error"]]
    assert failed["doc_id"] == 2 and failed["answer"] == "" and failed["prompt_hash"] is None
    assert len(records) == 6


def test_a_prompt_beyond_the_positions_fails_its_sample(loaded: Any) -> None:
    long = [instance("long " * 1000, 0, picture), *toy()[1:]]
    lm = model(loaded)
    assert lm.generate_until(long)[0].text == ""
    assert "has only 4096 positions" in lm.failures["toy", 0]


def test_errors_of_generation_are_not_swallowed(loaded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def out_of_memory(**_: Any) -> None:
        raise RuntimeError("out of memory")

    lm = model(loaded)
    monkeypatch.setattr(loaded.model, "generate", out_of_memory)
    with pytest.raises(RuntimeError, match="out of memory"):
        lm.generate_until(toy())


@pytest.mark.parametrize("whole_records", [True, False])
def test_resuming_asks_only_what_is_missing_and_gives_the_same(loaded: Any, whole_records: bool) -> None:
    records: list[dict[str, Any]] = []
    answers = texts(model(loaded, record=records.extend, batch_size=2).generate_until(toy()))
    # An interruption in the second batch, after its first record.
    done = {(r["task"], r["doc_id"]): (r if whole_records else r["answer"]) for r in records[:3]}
    again: list[dict[str, Any]] = []
    lm = model(loaded, record=again.extend, batch_size=2, done=done)
    widths: list[int] = []
    inner = lm._generate
    lm._generate = lambda prompts: widths.append(len(prompts)) or inner(prompts)
    assert texts(lm.generate_until(toy())) == answers
    assert [r["doc_id"] for r in again] == [r["doc_id"] for r in records[3:]]
    assert widths == [2, 2], "the cut batch runs whole again, the finished one not at all"


def test_resuming_remembers_failures(loaded: Any) -> None:
    done = {("toy", 0): {"answer": "", "error": "OSError: broken"}}
    lm = model(loaded, done=done)
    assert lm.generate_until(toy())[0].text == ""
    assert lm.failures == {("toy", 0): "OSError: broken"}


def test_padding_clones_leave_no_record(loaded: Any) -> None:
    records: list[dict[str, Any]] = []
    requests = [*toy(), instance(QUESTIONS[5], 5, picture, __padding_only__=True)]
    answers = texts(model(loaded, record=records.extend, batch_size=4).generate_until(requests))
    assert len(answers) == 7 and len(records) == 6
    assert answers[6] == answers[5]


def test_documents_with_no_or_several_images(loaded: Any) -> None:
    docs = [{"colours": [(255, 0, 0)]}, {"colours": []}, {"colours": [(0, 255, 0), (0, 0, 255)]}, DOCS[3]]
    records: list[dict[str, Any]] = []
    reducer = build("random", {"layer": 2, "keep": 5})
    batched = model(loaded, docs, record=records.extend, batch_size=4, reducer=reducer).generate_until(toy(docs))
    assert {r["doc_id"]: r["visual_tokens"] for r in records} == {0: 16, 1: 0, 2: 32, 3: 16}
    assert texts(batched) == texts(model(loaded, docs, reducer=reducer).generate_until(toy(docs)))


def test_text_only_answers_the_same_whatever_is_in_the_image(loaded: Any) -> None:
    others = [{"colours": [(1, 2, 3)]}] * 6
    answers = [
        [texts(model(loaded, docs, reducer=build(method)).generate_until(toy(docs))) for docs in (DOCS, others)]
        for method in ("text_only", "vanilla")
    ]
    assert answers[0][0] == answers[0][1]
    assert answers[1][0] != answers[1][1]


def test_beams_sampling_and_length_are_honoured(loaded: Any) -> None:
    settings = {"num_beams": 3, "max_new_tokens": 4, "until": [], "image_aspect_ratio": "original"}
    requests = [instance(QUESTIONS[i], i, picture, settings) for i in range(3)]
    records: list[dict[str, Any]] = []
    lm = model(loaded, record=records.extend, batch_size=3)
    lm.generate_until(requests)
    assert max(r["new_tokens"] for r in records) <= 4
    longer: list[dict[str, Any]] = []
    model(loaded, record=longer.extend, max_new_tokens=2).generate_until(requests)
    assert max(r["new_tokens"] for r in longer) <= 2


def test_sampled_answers_depend_on_their_batch_and_on_none_before_it(loaded: Any) -> None:
    settings = {"do_sample": True, "temperature": 1.0, "max_new_tokens": 6, "until": []}
    asked = [instance(QUESTIONS[i], i, picture, settings) for i in range(3)]
    whole = texts(model(loaded).generate_until(asked))
    assert texts(model(loaded).generate_until(asked[1:])) == whole[1:]
    assert len(set(whole)) > 1


def test_greedy_generation_warns_about_nothing(loaded: Any, caplog: pytest.LogCaptureFixture) -> None:
    loaded.model.generation_config.temperature = 0.9
    loaded.model.generation_config.top_p = 0.6
    settings = {"temperature": 0.0, "top_p": 1.0, "num_beams": 1, "do_sample": False, "until": ["\n\n"]}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lm = model(loaded, max_new_tokens=2)
        lm.generate_until([instance("What?", 0, picture, settings)])
    assert "generation flags" not in caplog.text


def test_an_instance_can_be_used_for_task_after_task(loaded: Any) -> None:
    lm = model(loaded)
    first = texts(lm.generate_until(toy()))
    lm.clean()
    assert texts(lm.generate_until(toy())) == first


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_a_batch_that_memory_does_not_hold_is_told_with_a_smaller_one(
    loaded: Any, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any, **kwargs: Any) -> Any:
        raise error

    monkeypatch.setattr(loaded.model, "generate", full)
    with pytest.raises(UserError, match="out of memory with batch_size 4: state a smaller one, such as batch_size: 2"):
        model(loaded, batch_size=4).generate_until(toy())
    with pytest.raises(UserError, match="one sample alone does not fit: use dtype: float16"):
        model(loaded, batch_size=1).generate_until(toy())


def test_the_time_of_a_task_is_that_of_preparing_and_of_generating(
    loaded: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    records: list[dict[str, Any]] = []
    lm = model(loaded, record=records.extend, batch_size=2)
    prepare = lm._images_of
    monkeypatch.setattr(lm, "_images_of", lambda request: (time.sleep(0.02), prepare(request))[1])
    started = time.perf_counter()
    asked = len(lm.generate_until(toy()))
    whole = 1000 * (time.perf_counter() - started)
    generating, preparing = (sum(record[name] for record in records) for name in ("milliseconds", "preparing_ms"))
    assert 20 * asked <= preparing <= whole - generating <= 1.2 * preparing


def test_other_errors_of_a_batch_are_left_as_they_are(loaded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loaded.model, "generate", lambda **inputs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model(loaded).generate_until(toy())


def test_tasks_of_several_rounds_are_refused_in_words(loaded: Any) -> None:
    with pytest.raises(NotImplementedError, match="not several rounds"):
        model(loaded).generate_until_multi_round([])


# ---- with lmms-eval ------------------------------------------------------------------------------------------------


def test_a_broken_image_in_a_data_set_is_counted_and_wrong(
    loaded: Any, tmp_path: Path, make_rows: Callable[..., Any], write_parquet: Callable[..., None]
) -> None:
    rows = make_rows("pope")
    rows[0]["image"] = {"bytes": b"not an image", "path": None}
    write_parquet(rows, tmp_path / "pope/test.parquet")
    records: list[dict[str, Any]] = []
    lm = model(loaded, record=records.extend, batch_size=4, max_new_tokens=2)
    result = evaluate(lm, TaskSpec("pope", str(tmp_path)))
    assert (result.n, result.n_failed) == (6, 1)
    assert result.samples[0]["score"] == 0 and result.samples[0]["answer"] == ""
    begin = "ImageError: not an image"
    assert [r["error"][: len(begin)] for r in records if r["error"]] == [begin]


def test_two_runs_record_the_same_of_images_that_cannot_be_used(
    loaded: Any, tmp_path: Path, make_rows: Callable[..., Any], write_parquet: Callable[..., None]
) -> None:
    rows = make_rows("pope")
    whole = rows[0]["image"]["bytes"]
    for row, content in zip(rows, (b"not an image", whole[:60], whole[:40] + b"\0" * 50), strict=False):
        row["image"] = {"bytes": content, "path": None}
    write_parquet(rows, tmp_path / "pope/test.parquet")
    runs = []
    for _ in range(2):
        records: list[dict[str, Any]] = []
        evaluate(model(loaded, record=records.extend, max_new_tokens=2), TaskSpec("pope", str(tmp_path)))
        runs.append([{**record, "milliseconds": 0.0, "preparing_ms": 0.0} for record in records])
    assert runs[0] == runs[1] and sum(bool(record["error"]) for record in runs[0]) == 3


def test_a_task_whose_samples_all_fail_is_an_error_and_no_score(
    loaded: Any, tmp_path: Path, make_rows: Callable[..., Any], write_parquet: Callable[..., None]
) -> None:
    rows = [{**row, "image": {"bytes": b"not an image", "path": None}} for row in make_rows("gqa")]
    write_parquet(rows, tmp_path / "gqa/testdev.parquet")
    with pytest.raises(RuntimeError, match="not one sample"):
        evaluate(model(loaded), TaskSpec("gqa", str(tmp_path)))


@pytest.mark.parametrize("name", [name for name in TASKS if not get_task(name).source.videos])
def test_every_task_of_images_runs_reduced(name: str, loaded: Any, data_folder: Path) -> None:
    lm = model(loaded, reducer=build("random", {"layer": 2, "keep": 4}), batch_size=2, max_new_tokens=3)
    result = evaluate(lm, TaskSpec(name, str(data_folder), get_task(name).protocols[0]))
    task = get_task(name)
    assert (result.value is None) == (task.unscored is not None) and result.n_failed == 0
    assert result.value is None or 0 <= result.value <= task.top
    assert lm.trace.entering == (16, 16, 4, 4)


def test_answers_by_graphs_are_the_same(loaded: Any) -> None:
    from hidrop.runtime.cuda_graphs import Graphs
    from tests.hidrop.runtime.test_cuda_graphs import FxRecorder

    reducer, recorder = build("random", {"layer": 2, "keep": 5}), FxRecorder()
    plain = texts(model(loaded, reducer=reducer, batch_size=3).generate_until(toy()))
    graphs = Graphs(recorder, bucket=256)
    assert texts(model(loaded, reducer=reducer, batch_size=3, graphs=graphs).generate_until(toy())) == plain
    assert recorder.recorded == 2 and recorder.replayed > 4


def test_logits_that_are_no_numbers_fail_the_cell(loaded: Any) -> None:
    import torch

    with torch.no_grad():
        loaded.model.lm_head.weight[3] = torch.nan
    with pytest.raises(FloatingPointError, match="logits are NaN or infinite in float32"):
        model(loaded).generate_until(toy())


def test_questions_without_an_image_are_answered_next_to_others(
    loaded: Any, tmp_path: Path, make_rows: Callable[..., Any], write_parquet: Callable[..., None]
) -> None:
    rows = make_rows("scienceqa_img")
    rows[1]["image"] = None
    write_parquet(rows, tmp_path / "scienceqa/test.parquet")
    records: list[dict[str, Any]] = []
    reducer = build("random", {"layer": 2, "keep": 4})
    lm = model(loaded, reducer=reducer, batch_size=3, max_new_tokens=3, record=records.extend)
    result = evaluate(lm, TaskSpec("scienceqa_img", str(tmp_path)))
    tokens = {record["doc_id"]: record["visual_tokens"] for record in records}
    assert result.n == 3 and result.n_failed == 0 and tokens == {0: 16, 1: 0, 2: 16}
