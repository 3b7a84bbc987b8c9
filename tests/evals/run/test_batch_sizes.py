"""`batch_size: auto`: found once by the memory that is free, part of the identity, and kept by a run that goes on."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from evals import report
from evals.matrix.schema import load_matrix
from evals.profiling.free_memory import free_in_main_memory
from evals.profiling.memory import peak_bytes
from evals.profiling.point import Point
from evals.profiling.prompt import build_request
from evals.report.caption import caption
from evals.report.compare import compare
from evals.run import shared_run
from evals.run.batch_sizes import (
    MOST,
    TEXT_TOKENS,
    Prompt,
    agreed,
    batch_sizes,
    counts_padding,
    free_bytes,
    largest,
    largest_prompt,
    sample_bytes,
)
from evals.run.processes import Processes
from evals.run.shared_run import SharedRunner
from evals.store.lock import InUse
from evals.tasks import TaskSpec
from hidrop.backbones import backbone_of
from hidrop.backbones.qwen2_vl import Qwen2_5VL
from hidrop.geometry import PRESETS
from hidrop.methods import build
from hidrop.models import load
from hidrop.runtime import reduce
from tests.conftest import make_llava
from tests.evals.world import SAMPLES, World


@pytest.fixture
def auto(go: Any, tmp_path: Path) -> Any:
    """The made-up matrix with `batch_size: auto`."""
    state(tmp_path, "auto")
    return go


def state(folder: Path, size: str) -> None:
    file = folder / "tiny.yaml"
    lines = [f"batch_size: {size}" if line.startswith("batch_size") else line for line in file.read_text().splitlines()]
    file.write_text("\n".join(lines))


def told(document: Any) -> str:
    return dict(caption(document))["Protocol"]


# ---- a run -----------------------------------------------------------------------------------------------------------


def test_the_size_is_found_once_for_each_model_and_told(auto: Any) -> None:
    world = World(holds=16)
    document = auto(world)
    assert [call for call in world.calls if call.startswith(("load", "size"))] == [
        *("load plain", "size plain"),
        *("load tuned", "size tuned"),
    ]
    assert set(world.batches.values()) == {16} and len(world.batches) == 6
    assert {cell["batch_size"] for cell in document["cells"]} == {16} and document["batch_size"] == "auto"
    assert "batch size 16 (auto)" in told(document)
    assert "plain: batch size 16 (auto)" in auto.log.getvalue()


def test_a_run_that_goes_on_keeps_the_size_whatever_memory_it_finds(auto: Any) -> None:
    with pytest.raises(KeyboardInterrupt):
        auto(World(holds=16, stop_after=7))
    world = World(holds=2)
    document = auto(world)
    assert world.batches["plain/vanilla/pope"] == 16 and "size plain" not in world.calls
    # Of a model that was not begun, nothing is known.
    assert world.batches["tuned/own/gqa"] == 2
    assert told(document).endswith("batch size 16 (auto, 2 for tuned/gqa, tuned/pope)")


def test_finished_cells_do_not_run_again_on_another_machine(auto: Any) -> None:
    first, world = auto(World(holds=16)), World(holds=2)
    document = auto(world)
    assert world.calls == [] and told(document) == told(first)


def test_runs_that_share_a_folder_have_the_size_that_the_first_one_found(auto: Any, tmp_path: Path) -> None:
    """Also for tasks of which it has not begun a cell, and if the others find more or less memory."""
    first = World(holds=16)
    document = auto(first, kind=SharedRunner, only="plain/vanilla/gqa")
    assert document["failed"] == [] and first.batches == {"plain/vanilla/gqa": 16}
    worlds = [World(holds=holds) for holds in (2, 4, 32)]
    with ThreadPoolExecutor(3) as pool:
        documents = list(pool.map(lambda world: auto(world, kind=SharedRunner), worlds))
    sizes: dict[str, set[int]] = {}
    for key, size in (pair for world in worlds for pair in world.batches.items()):
        sizes.setdefault("/".join(key.split("/")[::2]), set()).add(size)
    assert sizes["plain/gqa"] == {16} and all(len(found) == 1 for found in sizes.values())
    assert not any(document["failed"] for document in documents)
    assert len([call for world in worlds for call in world.calls if call == "size tuned"]) == 2, "once for each task"
    whole = World(holds=1)
    auto(whole)
    assert not whole.asked, "a run without --share has the same cells"


def test_another_type_of_the_same_weights_has_a_size_of_its_own(auto: Any, tmp_path: Path) -> None:
    class Sized(World):
        def sizes(self, loaded: Any, cells: Any, processes: int) -> dict[str, int]:
            return {cell.task: 4 if loaded.name == "tuned" else 32 for cell in cells}

    path = tmp_path / "tiny.yaml"
    text = path.read_text().replace("{source: tuned,", "{source: plain, dtype: bfloat16,")
    path.write_text(text.replace("{models: [tuned], methods: [own]}", "{models: [tuned], methods: [vanilla]}"))
    world = Sized()
    assert auto(world, kind=SharedRunner)["failed"] == []
    assert {key.split("/")[0]: size for key, size in world.batches.items()} == {"plain": 32, "tuned": 4}


def test_a_shared_run_has_the_size_of_an_earlier_run_alone(auto: Any) -> None:
    auto(World(holds=16), only="plain/vanilla")
    world = World(holds=2)
    auto(world, kind=SharedRunner, only="plain/fastv")
    assert world.batches == {"plain/fastv/gqa": 16, "plain/fastv/pope": 16}


def test_a_shared_run_waits_while_another_machine_finds_the_size(
    auto: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a file system that grants the same lock on each machine the owner is told by its beats alone."""
    real, refused = shared_run.locked, list[str]()

    def locked(folder: Path, **settings: Any) -> Any:
        if "size" in settings["name"] and len(refused) < 2:
            refused.append(settings["name"])
            raise InUse("in use by process 7 on another machine")
        return real(folder, **settings)

    monkeypatch.setattr(shared_run, "locked", locked)
    monkeypatch.setattr(shared_run, "PAUSE", 0.01)
    world = World(holds=16)
    assert auto(world, kind=SharedRunner, only="plain/vanilla/gqa")["failed"] == []
    assert world.batches == {"plain/vanilla/gqa": 16} and len(refused) == 2
    monkeypatch.setattr(shared_run, "WAITING", 0.0)
    refused.clear()
    late = World()
    document = auto(late, kind=SharedRunner, only="tuned/own/gqa")
    assert not late.asked and not document["failed"], "the cell is left to the other run"


def test_a_new_method_has_the_size_of_the_tasks_other_cells(auto: Any) -> None:
    auto(World(holds=16), only="plain/vanilla")
    world = World(holds=2)
    auto(world, only="plain/fastv")
    assert world.batches == {"plain/fastv/gqa": 16, "plain/fastv/pope": 16}


def test_force_finds_the_size_anew_unless_other_cells_have_one(auto: Any) -> None:
    auto(World(holds=16))
    one = World(holds=2)
    auto(one, only="plain/fastv", force=True)
    assert set(one.batches.values()) == {16}
    every = World(holds=2)
    auto(every, force=True)
    assert set(every.batches.values()) == {2} and len(every.asked) == 6 * SAMPLES


def test_a_stated_size_is_the_same_cell_and_another_one_is_not(auto: Any, tmp_path: Path) -> None:
    auto(World(holds=16))
    for size, asked in (("16", 0), ("1", 6 * SAMPLES)):
        state(tmp_path, size)
        world = World()
        document = auto(world)
        assert len(world.asked) == asked and f"batch size {size}" in told(document)
        assert "batch_size" not in document["cells"][0]
    state(tmp_path, "auto")
    assert set(cell["batch_size"] for cell in auto(World())["cells"]) == {16}, "the larger one of two"


def test_cells_of_two_sizes_are_told_one_by_one(auto: Any, tmp_path: Path) -> None:
    state(tmp_path, "4")
    auto(World(), only="plain/fastv/gqa")
    state(tmp_path, "16")
    auto(World(), only="plain/vanilla")
    state(tmp_path, "auto")
    document = auto(World(holds=16))
    assert "batch size 16 (auto, 4 for plain/fastv/gqa)" in told(document)


def test_a_model_that_cannot_be_loaded_fails_its_cells_once(auto: Any) -> None:
    world = World(broken={"load plain": RuntimeError("no weights")})
    document = auto(world)
    assert world.calls.count("load plain") == 1
    assert {(f["model"], f["error"]) for f in document["failed"]} == {("plain", "RuntimeError: no weights")}
    assert len(document["cells"]) == 2


def test_keep_cells_takes_those_of_earlier_code_with_their_size(auto: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    auto(World(holds=16))
    monkeypatch.setattr("evals.run.cell_journals.NUMERIC_VERSION", 99)
    world = World(holds=2)
    assert {cell["batch_size"] for cell in auto(world, keep_cells=True)["cells"]} == {16} and world.asked == []


def test_compare_names_other_sizes(auto: Any, tmp_path: Path) -> None:
    for out, holds in (("a", 16), ("b", 2)):
        report.write(auto(World(holds=holds), out=out), tmp_path / out)
    assert compare(str(tmp_path / "a"), str(tmp_path / "b")).differing == ["batch_size (16 / 2)"]


class Beside(Processes):
    """The first of two processes; the second one finds room for 4 samples."""

    def wait(self) -> None: ...

    def gather(self, thing: Any) -> list[Any]:
        found = {task: 4 for task in thing} if thing and set(thing) <= {"gqa", "pope"} else thing
        return [thing, found]


def test_several_processes_take_the_smallest_of_their_sizes(auto: Any) -> None:
    world = World(holds=16)
    auto(world, only="plain/vanilla", processes=Beside(0, 2))
    assert set(world.batches.values()) == {4}
    assert agreed([{"gqa": 8}, {"gqa": 2, "pope": 4}, {}]) == {"gqa": 2, "pope": 4}


# ---- the estimate ----------------------------------------------------------------------------------------------------


def test_the_size_is_the_largest_power_of_two_for_which_there_is_room() -> None:
    assert [largest(10, free) for free in (0, 10, 25, 26, 99, 100, 10**9)] == [1, 1, 2, 2, 4, 8, MOST]


def test_a_prompt_has_no_more_tokens_than_the_model_positions() -> None:
    prompt = Prompt(600, 512, 1024)
    assert prompt.within(4096) == prompt
    assert prompt.within(2048) == Prompt(600, 512, 936)
    assert prompt.within(700) == Prompt(600, 100, 0) and prompt.within(500) == Prompt(500, 0, 0)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_estimate_is_at_least_what_a_sample_needs_and_at_most_three_times(attention: str) -> None:
    model = make_llava(layers=6, attention=attention)
    geometry = backbone_of(model).geometry
    peaks = []
    for batch in (1, 5):
        prompt = build_request(model, geometry, Point(batch, text_tokens=300, new_tokens=4))
        with torch.inference_mode(), reduce(model, build("vanilla")):
            peaks.append(peak_bytes(model, lambda asked=prompt: generated(model, asked)))
    measured = (peaks[1] - peaks[0]) / 4
    estimated = sample_bytes(geometry, Prompt(geometry.visual_tokens, 300, 4), 4, eager=attention == "eager")
    assert measured <= estimated <= 3 * measured


def generated(model: Any, asked: Any) -> None:
    """With a row that is padded, because only then there is a mask."""
    mask_BS = asked.attention_mask_BS.clone()
    mask_BS[0, 0] = 0
    model.generate(input_ids=asked.input_ids_BS, attention_mask=mask_BS, **asked.images, max_new_tokens=4)


def cell_of(tmp_path: Path, **changes: Any) -> Any:
    file = tmp_path / "one.yaml"
    file.write_text(
        'protocol: lmms-eval\nmodels: {m: {source: "mini:vanilla"}}\nmethods: {vanilla: {}}\ntasks: {gqa: {data: mini}}'
    )
    (cell,) = load_matrix(file).cells()
    assert cell.batch_size == "auto"
    return replace(cell, **changes)


def test_each_graph_that_is_kept_holds_keys_and_values_of_its_own() -> None:
    geometry, prompt = PRESETS["llava-1.5-7b"], Prompt(576, 64, 16)
    more = sample_bytes(geometry, prompt, 2, graphs=2) - sample_bytes(geometry, prompt, 2)
    assert more == 2 * 32 * geometry.layer_kv_bytes(656, 2)


def test_an_embedded_model_has_the_most_and_one_in_full_memory_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, cell = load("mini:vanilla"), cell_of(tmp_path)
    assert largest_prompt(loaded, cell.task_spec, None) == Prompt(100, TEXT_TOKENS, 1024)
    free = free_bytes(loaded)
    assert free is not None and abs(free_bytes(loaded, 2) * 2 - free) < 2**28  # type: ignore[operator]
    assert batch_sizes(loaded, [cell]) == {"gqa": MOST}
    monkeypatch.setattr("evals.run.batch_sizes.free_in_main_memory", lambda: 1)
    assert batch_sizes(loaded, [cell]) == {"gqa": 1}
    monkeypatch.setattr("evals.run.batch_sizes.free_in_main_memory", lambda: None)
    assert batch_sizes(loaded, [cell]) == {"gqa": 1}, "a system that does not say what is free"


def test_a_repetition_penalty_that_counts_padding_keeps_samples_apart() -> None:
    def with_penalty(penalty: float | None) -> Any:
        model = SimpleNamespace(generation_config=SimpleNamespace(repetition_penalty=penalty))
        return SimpleNamespace(model=model, backbone=Qwen2_5VL)

    assert counts_padding(with_penalty(1.05), "lmms-eval")
    assert not counts_padding(with_penalty(1.0), "lmms-eval") and not counts_padding(with_penalty(None), "lmms-eval")
    assert not counts_padding(with_penalty(1.05), "native")


def test_a_task_that_cannot_be_read_does_not_end_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*parts: Any) -> Any:
        raise RuntimeError("a task's own function")

    monkeypatch.setattr("evals.run.batch_sizes.largest_prompt", broken)
    assert batch_sizes(load("mini:vanilla"), [cell_of(tmp_path)]) == {"gqa": 1}


def test_films_are_asked_one_by_one(tmp_path: Path) -> None:
    cell = cell_of(tmp_path, task="videomme")
    assert TaskSpec("videomme", "mini", "lmms-eval").task.filmed
    assert batch_sizes(load("mini:vanilla"), [cell]) == {"videomme": 1}


# ---- free memory -----------------------------------------------------------------------------------------------------


def test_free_memory_is_the_least_of_the_machines_and_of_each_limit_around_the_process(tmp_path: Path) -> None:
    meminfo, own, groups = tmp_path / "meminfo", tmp_path / "own", tmp_path / "groups"
    assert free_in_main_memory(meminfo, own, groups) is None
    meminfo.write_text("MemTotal: 9000 kB\nMemAvailable:    8000 kB\n")
    assert free_in_main_memory(meminfo, own, groups) == 8000 * 1024
    # Version 2: the job's group has no limit, the one around it has.
    own.write_text("0::/outer/job\n")
    put(groups / "outer", {"memory.max": "5000\n", "memory.current": "3000\n", "memory.stat": "inactive_file 500\n"})
    put(groups / "outer/job", {"memory.max": "max\n", "memory.current": "3000\n"})
    assert free_in_main_memory(meminfo, own, groups) == 2500
    # Version 1, next to other kinds of groups.
    own.write_text("3:cpu:/other\n4:memory:/box\n")
    put(groups / "memory/box", {"memory.limit_in_bytes": "1000\n", "memory.usage_in_bytes": "1200\n"})
    assert free_in_main_memory(meminfo, own, groups) == 0


def put(folder: Path, files: dict[str, str]) -> None:
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name).write_text(text)
