"""What bench is asked to time, before anything is loaded."""

from __future__ import annotations

import pytest

from evals.cli.bench import BenchOptions, default_dtype, settings_of, sized
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


def test_numbers_of_the_command_line_become_settings() -> None:
    settings = settings_of(BenchOptions(batch="1,4", text=30, new=2, repeats=3, warmup=1))
    assert (settings.batch, settings.text_tokens, settings.new_tokens) == ((1, 4), 30, 2)
    assert (settings.repeats, settings.warmup) == (3, 1)
    with pytest.raises(UserError, match=r"--new: input should be greater than or equal to 1 \(got 0\)"):
        settings_of(BenchOptions(new=0))


def test_the_default_type_follows_the_device() -> None:
    assert (default_dtype("cpu"), default_dtype("cuda:1")) == ("float32", "bfloat16")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["bench", "--methods", "nonsense"], "--methods: unknown method 'nonsense'. Known: vanilla,"),
        (["bench", "--methods", "fastv,pdropp"], "--methods: unknown method 'pdropp'. Did you mean 'pdrop'?"),
        (["bench", "--geometry", "nonsense"], "--geometry nonsense: unknown."),
        (["bench", "--batch", "two"], "--batch takes whole numbers"),
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
