"""What bench is asked to time, before anything is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from evals.bench.models import default_dtype, sized
from evals.cli.bench import BenchOptions, asked_for
from hidrop.errors import UserError
from hidrop.geometry import PRESETS


def test_a_preset_is_sized_without_a_checkpoint() -> None:
    assert sized(None) == ("bench-400m", PRESETS["bench-400m"])
    assert sized("llava-1.5-7b") == ("llava-1.5-7b", PRESETS["llava-1.5-7b"])
    assert sized(None, "mini:vanilla")[1].layers == 12


@pytest.mark.parametrize(
    ("geometry", "model", "message"),
    [
        ("llava-1.5-7c", None, "--geometry llava-1.5-7c: unknown. Did you mean 'llava-1.5-7b'?"),
        ("llava-next-7b", None, "--geometry llava-next-7b: unknown."),
        ("bench-400m", "mini:vanilla", "give --geometry or --model, not both (got bench-400m and mini:vanilla)"),
    ],
)
def test_sizes_that_cannot_be_timed_are_refused(geometry: str, model: str | None, message: str) -> None:
    with pytest.raises(UserError) as caught:
        sized(geometry, model)
    assert str(caught.value).startswith(message)


def test_numbers_of_the_command_line_become_a_sweep() -> None:
    sweep, geometry, model = asked_for(BenchOptions(batch="1,4", text="30", new="2", repeats="3", warmup="1"))
    assert (sweep.batch, sweep.text, sweep.new, sweep.repeats, sweep.warmup) == ((1, 4), (30,), (2,), 3, 1)
    assert (geometry, model, sweep.steps) == (None, None, 8)
    with pytest.raises(UserError, match=r"--new: takes whole numbers of 1 or more, such as 1,128 \(got '0'\)"):
        asked_for(BenchOptions(new="0"))


def test_an_option_overrides_the_file(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text("bench: {geometry: llava-1.5-7b, methods: [fastv], budget: [64, 11%], batch: [1, 4], text: 500}")
    sweep, geometry, _ = asked_for(BenchOptions(file=path, batch="16"))
    assert (geometry, sweep.methods, sweep.budget) == ("llava-1.5-7b", ("fastv",), ("64", "11%"))
    assert (sweep.batch, sweep.text) == ((16,), (500,))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bench: {bach: 1}", "sweep.yaml: bench.bach: unknown field. Did you mean 'batch'?"),
        ("bench: {batch: [1, 1.5]}", "sweep.yaml: bench.batch: takes whole numbers of 1 or more, such as 1,4 (got [1,"),
        ("bench: {batch: true}", "sweep.yaml: bench.batch: takes whole numbers"),
        ("bench: {batch: []}", "sweep.yaml: bench.batch: takes one or more different values"),
        ("bench: {repeats: 0}", "sweep.yaml: bench.repeats: takes a whole number of 1 or more"),
        ("bench: {geometry: [a]}", "sweep.yaml: bench.geometry: takes a name (got ['a'])"),
        ("models: {}", "sweep.yaml: must have the one key bench"),
        ("bench: 3", "sweep.yaml: must have the one key bench"),
    ],
)
def test_a_mistake_in_a_file_is_named(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text(text)
    with pytest.raises(UserError) as caught:
        asked_for(BenchOptions(file=tmp_path / "sweep.yaml"))
    assert str(caught.value).startswith(message)


def test_the_default_type_follows_the_device() -> None:
    assert (default_dtype("cpu"), default_dtype("cuda:1")) == ("float32", "bfloat16")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["bench", "--methods", "nonsense"], "--methods: unknown method 'nonsense'. Known: vanilla,"),
        (["bench", "--methods", "fastv,pdropp"], "--methods: unknown method 'pdropp'. Did you mean 'pdrop'?"),
        (["bench", "--geometry", "nonsense"], "--geometry nonsense: unknown."),
        (["bench", "--batch", "two"], "--batch: takes whole numbers"),
        (["bench-train", "--geometry", "nonsense"], "--geometry nonsense: unknown."),
    ],
)
def test_a_word_that_bench_does_not_know_is_refused_before_libraries_are_loaded(
    line: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from evals.cli import main
    from evals.cli.options import Options

    def loading(self: Options, text: str) -> None:
        raise AssertionError("libraries are loaded")

    monkeypatch.setattr(Options, "loading", loading)
    assert main(line) == 2
    assert capsys.readouterr().err.startswith(message)
