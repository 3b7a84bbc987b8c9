"""What README.md shows is run: its shell commands in their cheapest form, its Python blocks, the recipe of a method.

COMMANDS says for each shell command how it is run cheaply. A command of the README that is not in it fails.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path

import pytest

from evals.cli import main
from evals.matrix.schema import load_matrix
from evals.tasks import TASKS, get_task

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {path.name: path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").rglob("*.md"))}
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PROGRAM = re.compile(r"^(python run\.py|torchrun .*?run\.py) ")


def blocks(language: str, page: str = README) -> list[str]:
    return [content for found, content in BLOCK.findall(page) if found == language]


def commands(page: str = README) -> list[str]:
    """The lines of all shell blocks, continued ones joined, without comments."""
    lines = "".join(blocks("sh", page)).replace("\\\n", " ").splitlines()
    found = (re.split(r"(?:^|\s\s)#", line)[0].strip() for line in lines)
    return [line for line in found if line]


@dataclass(frozen=True)
class Run:
    """Run `arguments` of run.py instead of a command, and expect one of the exit `codes` and `shown` in the output.

    {out} is a new folder. `small`: the sizes of the 400 M model are replaced by tiny ones.
    """

    arguments: str
    shown: str
    codes: tuple[int, ...] = (0,)
    small: bool = False


@dataclass(frozen=True)
class Skip:
    """Not run, and why."""

    why: str


ONE_CELL = "--limit 2 --only mini-vanilla/fastv-11%/gqa --out {out}"
COMMANDS: dict[str, Run | Skip] = {
    # What the Makefile runs is compared below.
    "make mini": Run(f"--matrix mini.yaml {ONE_CELL}", "fastv-11%"),
    "make test": Skip("runs this test"),
    "source .venv/bin/activate": Skip("belongs to the user's shell"),
    "python run.py validate paper": Run("validate paper", "hf download", codes=(2,)),
    "python run.py plan paper": Run("plan paper", "3.82 T"),
    "python run.py --matrix paper": Run("--matrix paper --out {out}", "hf download", codes=(2,)),  # stops before work
    "torchrun --nproc_per_node=8 run.py --matrix paper": Skip(
        "needs the checkpoints; tests/evals/run/test_processes.py runs a matrix with torchrun"
    ),
    "python run.py bench --methods fastv --text 500 --new 64": Run(
        "bench --methods fastv --text 100 --new 64 --repeats 2 --warmup 0 --steps 2 --out {out}",
        "whole request",
        small=True,
    ),
    "python run.py bench-train --bars": Run(
        "bench-train --bars --repeats 1 --warmup 1 --out {out}", "hidrop", (0, 1), small=True
    ),
    "python run.py train mini-hidrop --out trained/": Run(
        "validate mini-hidrop", "ok"
    ),  # the training itself takes over an hour
    "python run.py validate llava-1.5-7b-hidrop-pretrain": Run("validate llava-1.5-7b-hidrop-pretrain", "data", (2,)),
    "torchrun --nproc_per_node=8 run.py train llava-1.5-7b-hidrop-pretrain": Skip(
        "needs GPUs and LLaVA's data; validated above"
    ),
    # With few samples it may decline to suggest a schedule; the slow test below runs it as it is.
    "python run.py analyze --model mini:vanilla --samples 400 --budget 20% --explain": Run(
        "analyze --model mini:vanilla --samples 8 --budget 20% --explain --no-inject-sweep --shares 1 --out {out}",
        "injection:",
        codes=(0, 1),
    ),
}


def test_every_command_of_the_readme_has_its_cheap_form() -> None:
    assert len(commands()) == len(set(commands())) > 10
    assert set(commands()) == set(COMMANDS)


@pytest.mark.parametrize("command", [name for name, how in COMMANDS.items() if isinstance(how, Run)])
def test_a_command_of_the_readme_runs(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    how = COMMANDS[command]
    assert isinstance(how, Run)
    if how.small:
        from evals.profiling.random_model import TOWERS
        from hidrop.backbones.llava import Tower
        from hidrop.geometry import PRESETS

        sizes = dict(hidden=32, intermediate=64, heads=2, kv_heads=2, head_dim=16, vocab=512, visual_tokens=18 * 18)
        monkeypatch.setitem(PRESETS, "bench-400m", replace(PRESETS["bench-400m"], **sizes))
        monkeypatch.setitem(TOWERS, "bench-400m", Tower(hidden=32, intermediate=64, layers=2, heads=2, patch=14))
    monkeypatch.chdir(tmp_path)  # no data, no checkpoints, no earlier results
    code = main(shlex.split(how.arguments.format(out=tmp_path / "out")))
    printed = "".join(capsys.readouterr())
    assert code in how.codes, printed
    assert how.shown in printed


def test_make_mini_runs_the_matrix_mini() -> None:
    done = subprocess.run(["make", "--dry-run", "mini"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "run.py --matrix mini.yaml" in done.stdout


@pytest.mark.parametrize("name", ["README.md", *PAGES])
def test_the_commands_of_a_page_are_ones_that_the_command_line_takes(name: str) -> None:
    from evals.cli import with_command
    from evals.cli.app import parse

    for command in commands(PAGES.get(name, README)):
        if started := PROGRAM.match(command):
            assert callable(parse(with_command(shlex.split(command[started.end() :]))))


def test_the_sweep_of_the_bench_page_is_one(tmp_path: Path) -> None:
    from evals.bench.sweep import Sweep, read_file

    [text] = blocks("yaml", PAGES["bench.md"])
    (tmp_path / "sweep.yaml").write_text(text)
    settings = read_file(tmp_path / "sweep.yaml")
    assert settings.pop("geometry") == "llava-1.5-7b"
    assert len(Sweep.of(settings, str).points()) == 3 * 3 * 2


@pytest.mark.slow
def test_the_analysis_of_the_readme_ends_with_a_schedule(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    [command] = [command for command in commands() if " analyze " in command]
    monkeypatch.chdir(tmp_path)
    assert main(shlex.split(command)[2:]) == 0
    assert "hidrop-suggested: {name: hidrop, inject: " in capsys.readouterr().out


def test_the_backbones_of_the_pages_are_those_of_the_tests_table() -> None:
    from hidrop.backbones import backbone_class
    from tests.hidrop.backbones.families import FAMILIES

    listed = re.findall(r"^\| ([\w .-]+) \(`(\w+)`\) \|", PAGES["backbones.md"], re.MULTILINE)
    for one, other in zip_longest([model_type for _, model_type in listed[1:]], FAMILIES):  # after the heading
        assert one == other, f"the table of docs/backbones.md has {one!r} where BACKBONES has {other!r}"
    [table] = re.findall(r"^\| Backbone \| Example \|\n(.*?)\n\n", README, re.MULTILINE | re.DOTALL)
    for name in FAMILIES:
        kind = backbone_class(name)
        assert kind is not None
        assert kind.title in table, "README.md, Backbones and benchmarks"


def test_the_benchmarks_page_has_every_first_class_task_with_its_protocols_and_scale() -> None:
    rows = [line for line in PAGES["benchmarks.md"].splitlines() if line.startswith("| `")]
    split = ([cell.strip() for cell in line.strip("|").split("|")] for line in rows)
    cells = {name.strip("`"): rest for name, *rest in split}
    assert list(cells) == list(TASKS)
    for name, (_, protocols, value, drawn) in cells.items():
        task = get_task(name)
        assert protocols == " ".join(f"`{one}`" for one in task.protocols)
        assert (task.unscored is not None) == (value == "to submit") == (drawn == "-")
        assert task.top == 100 or f"0 to {task.top:g}" in value


def test_the_matrix_of_the_benchmarks_page_is_one(tmp_path: Path) -> None:
    """With a model, a method, and the file that it names."""
    text = blocks("yaml", PAGES["benchmarks.md"])[0]
    assert "yaml: ./mine.yaml" in text
    (tmp_path / "mine.yaml").write_text("dataset_path: a/b\ntest_split: test\ndoc_to_text: question\n")
    text = text.replace("./mine.yaml", str(tmp_path / "mine.yaml"))
    (tmp_path / "own.yaml").write_text(f"{text}models: {{m: {{source: 'mini:vanilla'}}}}\nmethods: {{vanilla: {{}}}}\n")
    found = load_matrix(tmp_path / "own.yaml")
    assert len(found.groups["mvbench"]) == 20 and len(found.cells()) == 4 + 20
    assert {cell.protocol for cell in found.cells()} == {"llava", "lmms-eval"}


def test_the_task_of_the_benchmarks_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image

    from evals.tasks import registry
    from evals.tasks.rehearsal import problems_of

    monkeypatch.setattr(registry, "_own", {})
    monkeypatch.setattr("evals.tasks.rehearsal._in_child", problems_of)  # here, without importing lmms-eval again
    monkeypatch.chdir(tmp_path)
    (tmp_path / "counts/photos").mkdir(parents=True)
    Image.new("RGB", (64, 48), (200, 30, 30)).save(tmp_path / "counts/photos/cats.jpg")
    page = PAGES["benchmarks.md"]
    functions, rows = blocks("python", page)
    (tmp_path / "counts/counts.yaml").write_text(blocks("yaml", page)[1])
    (tmp_path / "counts/functions.py").write_text(functions)
    with contextlib.chdir(tmp_path / "counts"):
        exec(rows, {})
    entry = re.findall(r"`(counts: {yaml: .*?})`", page)[0]
    head = "protocol: lmms-eval\ndevice: cpu\ndtype: float32\nmodels: {m: {source: 'mini:vanilla'}}\nprofile: null\n"
    (tmp_path / "own.yaml").write_text(f"{head}methods: {{vanilla: {{}}}}\ntasks: {{{entry}}}\n")
    assert main(["run", "own.yaml", "--out", "out"]) == 0
    assert "m/vanilla/counts: exact_match 0.00 on 1" in capsys.readouterr().out


def test_the_models_of_the_backbones_page_are_ones_of_a_matrix() -> None:
    from evals.matrix.schema import ModelEntry
    from hidrop import strict_yaml

    [text] = blocks("yaml", PAGES["backbones.md"])
    for entry in strict_yaml.value(text, "backbones.md")["models"].values():
        assert ModelEntry.model_validate(entry).reference_tokens == 1296


def test_every_link_to_a_file_leads_somewhere() -> None:
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    links = [
        (page, link)
        for page in pages
        for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
        if "://" not in link
    ]
    assert len(links) > 50
    assert [f"{page.name}: {link}" for page, link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "docs/architecture.md", "docs/bench.md", "docs/methods/README.md"])
def test_every_file_and_name_that_a_page_tells_to_change_is_there(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    paths = set(re.findall(r"`((?:hidrop|evals|baselines|tests|docs)/[\w./]*)`", text))
    assert paths and [path for path in paths if not (ROOT / path).exists()] == []
    for constant, path in re.findall(r"`([A-Z_]{3,})` in\s`([\w./]+)`", text):
        assert re.search(rf"^{constant}\b", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE), constant


# ---- Python and YAML ------------------------------------------------------------------------------------------------


def test_the_python_block_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As it is, with an embedded checkpoint in place of the 7B on a GPU."""
    from PIL import Image

    code, recipe = blocks("python")
    assert recipe.startswith("# largest.py\n")
    given = 'load("llava-hf/llava-1.5-7b-hf", dtype="float16", device="cuda")'
    assert code.count(given) == 1
    Image.effect_noise((300, 200), 60).convert("RGB").save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    exec(code.replace(given, 'load("mini:vanilla")'), {})
    printed = capsys.readouterr().out
    assert "What is in the image?" in printed
    assert "(100, 100, 57, 57, " in printed  # 64 on average: all of them in two layers, then 57


def test_the_python_blocks_of_the_library_page_run(capsys: pytest.CaptureFixture[str]) -> None:
    found = blocks("python", PAGES["library.md"])
    assert len(found) > 2
    for code in found:
        exec(code, {})
    assert "(100, 100, 20, 20, " in capsys.readouterr().out


def test_the_python_blocks_of_the_page_on_own_methods_run(capsys: pytest.CaptureFixture[str]) -> None:
    """One after the other: the second one's slow rule is that of the first one's method."""
    names: dict[str, object] = {}
    for code in blocks("python", PAGES["own-method.md"]):
        exec(compile(code, "own-method.md", "exec", dont_inherit=True), names)  # with real types, as in a file
    printed = capsys.readouterr().out
    assert printed.count("Largest (largest): every property holds") == 2
    assert "MeanOfTheRest (mean_of_the_rest): every property holds" in printed
    assert "LargestFeatures (largest_features): every property holds" in printed
    listed = {line.split("  ")[0] for line in printed.splitlines()}
    rows = re.findall(r"^\| ([\w =,]+) \| [^|]+ \|$", PAGES["own-method.md"], re.MULTILINE)
    properties = {name for row in rows for name in row.split(", ")}
    assert {"batch = single", "no wait", "slow rule"} <= listed
    assert listed & {*properties} >= listed - {"property", "slow rule"} - {
        one for one in listed if "every property" in one
    }


def test_the_matrix_of_the_usage_page_is_one(tmp_path: Path) -> None:

    [text] = blocks("yaml", PAGES["usage.md"])
    (tmp_path / "own.yaml").write_text(text, encoding="utf-8")
    labels = {cell.label for cell in load_matrix(tmp_path / "own.yaml").cells()}
    assert labels == {"vanilla", "fastv-64", "fastv-11%", "random-s0", "random-s1", "random-s2", "trained"}


def test_the_tables_show_the_rows_and_columns_that_they_name() -> None:
    from evals.report.readme import selected
    from evals.report.tables import Entry, Sheet
    from hidrop.errors import UserError

    def row(*texts: str) -> tuple[Entry, ...]:
        return tuple(Entry(text, best=True) for text in texts)

    sheet = Sheet("", ("Model", "Method", "GQA"), (("A", (row("m", "x", "1"),)), ("B", (row("m", "y", "2"),))))
    assert selected(sheet) == sheet
    short = selected(sheet, rows="*/y,m/x", columns="Method,GQA")
    assert short.headers == ("Method", "GQA") and short.text_columns == 1
    assert short.sections == (("", ((Entry("y"), Entry("2")), (Entry("x"), Entry("1")))),)
    with pytest.raises(UserError, match="columns: no column 'GQB'. Did you mean 'GQA'?"):
        selected(sheet, columns="GQB")
    with pytest.raises(UserError, match=r"rows: no row matches '\*/z'"):
        selected(sheet, rows="*/z")


# ---- the recipe of a method -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def contributed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with the README's method in it: its file, its line in METHODS, its row in the tests."""
    root = tmp_path_factory.mktemp("contributed")
    for folder in ("hidrop", "baselines", "evals", "tests"):
        ignored = shutil.ignore_patterns("__pycache__", "weights")
        shutil.copytree(ROOT / folder, root / folder, ignore=ignored)
    (root / "hidrop/mini/weights").symlink_to(ROOT / "hidrop/mini/weights")
    for name in ("pyproject.toml", "run.py"):
        shutil.copy2(ROOT / name, root / name)
    if (ROOT / ".mypy_cache").is_dir():  # a first run of mypy takes ten seconds longer
        shutil.copytree(ROOT / ".mypy_cache", root / ".mypy_cache")

    path, code = own_method()
    (root / "baselines" / path).write_text(code, encoding="utf-8")
    insert(root / "hidrop/methods.py", "METHODS: dict[str, str] = {\n", '    "largest": "baselines.largest:Largest",\n')
    row = '    "largest": ("largest", dict(layer=2, keep=5), (16, 16, 5, 5, 5, 5)),\n'
    table = "METHODS: dict[str, tuple[str, dict[str, Any], tuple[int, ...]]] = {\n"
    insert(root / "tests/baselines/test_every_method.py", table, row)
    return root


def own_method() -> tuple[str, str]:
    """The README's method: the name of its file, and the code."""
    path, _, code = blocks("python")[1].removeprefix("# ").partition("\n")
    return path, code


def insert(path: Path, after: str, line: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count(after) == 1
    path.write_text(text.replace(after, after + line), encoding="utf-8")


def python(root: Path, *arguments: str) -> str:
    """The output of a Python module or script that runs in the copy and has to succeed."""
    settings = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=root, env=os.environ | settings, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_recipe_of_a_method_passes_lint(contributed: Path) -> None:
    changed = ("baselines/largest.py", "hidrop/methods.py", "tests/baselines/test_every_method.py")
    python(contributed, "-m", "ruff", "check", *changed)
    python(contributed, "-m", "ruff", "format", "--check", *changed)
    assert "no issues found" in python(contributed, "-m", "mypy", *changed[:2])


def test_the_recipe_of_a_method_passes_the_generic_tests(contributed: Path) -> None:
    printed = python(
        contributed, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/baselines/test_every_method.py",
        "-k", "largest or second_implementation",
    )  # fmt: skip
    [passed] = re.findall(r"(\d+) passed", printed)
    assert int(passed) > 12


@pytest.fixture
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder elsewhere with the README's method in it, which is the working folder."""
    path, code = own_method()
    (tmp_path / path).write_text(code, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    return tmp_path


def test_a_matrix_takes_the_method_from_its_file(own_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    [method] = re.findall(r"`(largest: \{.*?\})`", README)
    [model] = re.findall(r"`(mine: \{.*?\})`", README)
    lines = [
        "protocol: lmms-eval",
        "models: {" + model.replace("FOLDER", "'mini:vanilla'") + "}",
        "methods: {" + method + "}",
        "tasks: {gqa: {data: mini}}",
    ]
    (own_folder / "own.yaml").write_text("\n".join(lines), encoding="utf-8")
    assert main(["plan", "own.yaml"]) == 0
    printed = capsys.readouterr().out
    assert "largest-25%" in printed and "largest-30" in printed


def test_the_example_of_the_page_on_own_methods_runs(own_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With a few samples. Its printed table has the rows of its matrix."""
    matrix, recipe = blocks("yaml", PAGES["own-method.md"])
    (own_folder / "own-train.yaml").write_text(recipe, encoding="utf-8")
    assert main(["validate", "own-train.yaml"]) == 0
    (own_folder / "own.yaml").write_text(matrix, encoding="utf-8")
    assert main(["--matrix", "own.yaml", "--limit", "8", "--out", "out"]) == 0
    printed = capsys.readouterr().out
    assert "Methods outside of hidrop: largest: largest.py:Largest, source " in printed
    [table] = [text for text in blocks("text", PAGES["own-method.md"]) if "Differences" in text]
    labels = re.findall(r"^mini +(\S+)", table, re.MULTILINE)
    assert labels == re.findall(r"^  (\w+): \{(?!.*data)", matrix.split("methods:")[1].split("tasks:")[0], re.MULTILINE)
    for label in labels:
        assert re.search(rf"^mini +{label} ", printed, re.MULTILINE)


def test_the_file_is_a_method_in_python_too(own_folder: Path) -> None:
    from hidrop import load, reduce
    from hidrop.methods import method_class
    from hidrop.testing import check_method

    assert check_method(method_class("./largest.py:Largest")(keep=5), families=("llava",)).ok
    with reduce(load("mini:vanilla").model, "./largest.py:Largest", keep=30) as reduction:
        assert reduction.plan.entering == (100, 100, *(30,) * 10)
