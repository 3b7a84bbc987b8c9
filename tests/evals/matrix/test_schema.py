import re
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from evals.ablations.spec import Study
from evals.matrix.resolve import resolve
from evals.matrix.schema import Matrix, load_matrix
from evals.report.reference import Reference
from hidrop.errors import UserError
from hidrop.geometry import PRESETS, Geometry
from hidrop.methods import build
from hidrop.mini.training.recipe import Recipe
from hidrop.training.recipe import LlavaRecipe
from tests.baselines.test_every_method import WITH_A_RULE

SMALL = Geometry(
    layers=12, hidden=128, intermediate=344, heads=4, kv_heads=4, head_dim=32, vocab=600, visual_tokens=100
)

BASE = """
protocol: lmms-eval
models:
  a: {source: "mini:vanilla"}
methods:
  vanilla: {}
  fastv: {layer: 2, budget: [30, "25%"]}
tasks:
  gqa: {data: mini}
  pope: {data: mini}
"""


def write(folder: Path, text: str, name: str = "own.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def load(folder: Path, text: str = BASE) -> Matrix:
    return load_matrix(write(folder, text))


def mistakes(folder: Path, text: str) -> str:
    with pytest.raises(UserError) as caught:
        load(folder, text)
    return str(caught.value)


def plain(source):
    return SMALL, None


def test_a_matrix_expands_into_model_x_method_x_budget_x_task(tmp_path):
    assert [cell.key for cell in load(tmp_path).cells()] == [
        f"a/{label}/{task}" for label in ("vanilla", "fastv-30", "fastv-25%") for task in ("gqa", "pope")
    ]


def test_the_name_of_a_matrix_is_by_default_that_of_its_file(tmp_path):
    assert load(tmp_path).name == "own"


def test_a_single_budget_leaves_the_label_alone(tmp_path):
    matrix = load(tmp_path, BASE.replace('[30, "25%"]', "30"))
    assert {cell.label for cell in matrix.cells()} == {"vanilla", "fastv"}


def test_runs_say_what_goes_together_and_no_cell_comes_twice(tmp_path):
    matrix = load(tmp_path, BASE + "runs: [{methods: [vanilla], tasks: [gqa]}, {methods: [vanilla]}]")
    assert [cell.key for cell in matrix.cells()] == ["a/vanilla/gqa", "a/vanilla/pope"]


def test_a_list_of_seeds_makes_a_row_for_each(tmp_path):
    matrix = load(tmp_path, BASE.replace("vanilla: {}", "random: {budget: [40, 30], seed: [0, 7]}"))
    labels = list(dict.fromkeys(cell.label for cell in matrix.cells(only="random")))
    assert labels == ["random-40-s0", "random-40-s7", "random-30-s0", "random-30-s7"]
    rows, _ = resolve(matrix, matrix.cells(), peek=plain)
    assert rows["a", "random-30-s7"].reducer.seed == 7


@pytest.mark.parametrize(
    ("pattern", "count"), [("gqa", 3), ("a/fastv*", 4), ("vanilla/pope", 1), ("a/fastv-30/gqa", 1)]
)
def test_only_chooses_cells_by_pattern_or_by_part_of_their_key(tmp_path, pattern, count):
    assert len(load(tmp_path).cells(only=pattern)) == count


def test_only_with_a_cells_whole_key_chooses_that_cell_alone(tmp_path):
    matrix = load(tmp_path, BASE.replace("models:", "models:\n  aa: {source: other}"))
    assert len([cell for cell in matrix.cells() if "a/vanilla/gqa" in cell.key]) == 2
    for cell in matrix.cells():
        assert matrix.cells(only=cell.key) == [cell]


def test_only_that_matches_nothing_is_a_users_mistake(tmp_path):
    with pytest.raises(UserError, match=r"matches no cell of own\.yaml"):
        load(tmp_path).cells(only="nothing")


def test_limit_of_the_command_line_replaces_that_of_the_file(tmp_path):
    path = write(tmp_path, BASE + "limit: 8")
    assert load_matrix(path).limit == 8
    assert load_matrix(path, limit=3).cells()[0].limit == 3


def test_a_misspelt_field_of_a_method_is_named_with_its_place_and_the_right_spelling(tmp_path):
    text = mistakes(tmp_path, BASE.replace("layer: 2", "layr: 2"))
    assert text == "own.yaml: methods.fastv.layr: unknown field. Did you mean 'layer'?"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("protocol:", "protokol:", "own.yaml: protokol: unknown field. Did you mean 'protocol'?"),
        ("source:", "sorce:", "own.yaml: models.a.sorce: unknown field. Did you mean 'source'?"),
        ("gqa:", "gaq:", "own.yaml: tasks.gaq: unknown task. Did you mean 'gqa'?"),
        ("fastv: {layer", "x: {name: fastvv, layer", "methods.x.name: unknown method 'fastvv'. Did you mean 'fastv'?"),
        ("layer: 2", "layer: two", "methods.fastv.layer: input should be a valid integer"),
        ("layer: 2", 'layer: "2"', "methods.fastv.layer: input should be a valid integer"),
        ("lmms-eval", "llava2", "own.yaml: protocol: input should be 'llava', 'lmms-eval' or 'native', not 'llava2'"),
        ('"25%"', '"125%"', "methods.fastv.budget: a budget is"),
        ('"25%"', "-3", "methods.fastv.budget: a budget is"),
        ('"25%"', "30", "methods.fastv.budget: a list of budgets"),
        ('"25%"', '"30"', "methods.fastv.budget: a list of budgets"),
        ("vanilla: {}", "fastv-30: {name: vanilla}", "its row 'fastv-30' is also one of 'fastv-30'"),
        ("vanilla: {}", "vanilla: {name: checkpoint, layer: 2}", "vanilla.layer: the checkpoint sets this field"),
        ("vanilla: {}", "x: {name: fastv}", "methods.x: keep missing, or give a budget"),
        ("budget: [", "keep: 3, budget: [", "methods.fastv.keep: the budget sets this field"),
        ('"mini:vanilla"', "x, geometry: llava-7b", "models.a.geometry: unknown preset 'llava-7b'. Did you mean"),
        ('"mini:vanilla"', "x, reference: b", "models.a.reference: no model 'b' here"),
        ('"mini:vanilla"', "x, min_pixels: 9, max_pixels: 8", "models.a.min_pixels: 9 is above max_pixels (8)"),
        ('"mini:vanilla"', "x, resolution: fixed", "models.a.resolution: fixed needs reference_tokens"),
        ('"mini:vanilla"', "x, resolution: full", "models.a.resolution: input should be 'fixed'"),
        ("tasks:", "runs: []\ntasks:", "own.yaml: runs: is empty; it needs at least one entry"),
        ("tasks:", "runs: [{methods: []}]\ntasks:", "runs[0].methods: is empty; it needs at least one entry"),
        ("  gqa: {data: mini}\n  pope: {data: mini}", "  {}", "own.yaml: tasks: is empty; it needs at least one entry"),
        ('"25%"', '"1e2%"', "methods.fastv.budget: a budget is"),
        ('"25%"', '"\u0661\u0661%"', "methods.fastv.budget: a budget is"),
        ("tasks:", "device: mps\ntasks:", "own.yaml: device: "),
        ("tasks:", "batch_size: all\ntasks:", "own.yaml: batch_size: a whole number of at least 1 or auto, not 'all'"),
        ("tasks:", "batch_size: 0\ntasks:", "own.yaml: batch_size: a whole number of at least 1 or auto, not 0"),
        ("tasks:", "device: 'cuda:\u0661'\ntasks:", "own.yaml: device: "),
    ],
)
def test_each_mistake_is_named_with_its_place(tmp_path, old, new, message):
    assert old in BASE
    assert message in mistakes(tmp_path, BASE.replace(old, new, 1))


def test_the_batch_size_is_auto_unless_a_number_is_stated(tmp_path):
    assert {cell.batch_size for cell in load(tmp_path, BASE).cells()} == {"auto"}
    assert {cell.batch_size for cell in load(tmp_path, BASE + "batch_size: auto").cells()} == {"auto"}
    assert {cell.batch_size for cell in load(tmp_path, BASE + "batch_size: 1").cells()} == {1}


NUMBERS = [
    *("limit", "batch_size", "profile.repeats", "profile.warmup", "profile.batch", "profile.text_tokens"),
    *("profile.new_tokens", "profile.seed"),
]


@pytest.mark.parametrize("written", ["true", "8.0", '"8"', "8_0", "8e0"])
@pytest.mark.parametrize("field", NUMBERS)
def test_a_count_of_a_matrix_is_a_whole_number_and_nothing_like_one(tmp_path, field, written):
    *outer, inner = field.split(".")
    line = f"{inner}: {written}" if not outer else f"{outer[0]}: {{{inner}: {written}}}"
    said = mistakes(tmp_path, f"{BASE}{line}\n")
    assert f"own.yaml: {field}" in said or "write '8_0' without _" in said
    load(tmp_path, f"{BASE}{line.replace(written, '8')}\n")


def loose(schema):
    """The numbers and flags in a schema of pydantic that would take something else for one."""
    if isinstance(schema, dict):
        if schema.get("type") in ("int", "bool") and not schema.get("strict"):
            yield schema["type"]
        schema = [value for key, value in schema.items() if key != "metadata"]
    if isinstance(schema, (list, tuple)):
        for inner in schema:
            yield from loose(inner)


@pytest.mark.parametrize("model", [Matrix, LlavaRecipe, Recipe, Study, Reference])
def test_whole_numbers_and_flags_of_every_file_are_strict(model):
    assert list(loose(model.__pydantic_core_schema__)) == []
    assert list(loose(TypeAdapter(dict[str, int | bool]).core_schema)) == ["int", "bool"]


@pytest.mark.parametrize("count", [2, 3])
def test_models_that_refer_to_each_other_in_a_circle_are_named(tmp_path, count):
    names = "abc"[:count]
    entries = [f"  {n}: {{source: x, reference: {names[(i + 1) % count]}}}\n" for i, n in enumerate(names)]
    text = BASE.replace('  a: {source: "mini:vanilla"}\n', "  d: {source: x, reference: a}\n" + "".join(entries))
    way = " -> ".join([*names, "a"])
    assert mistakes(tmp_path, text) == (
        f"own.yaml: models.a.reference: the models refer to each other in a circle ({way})"
    )
    assert load(tmp_path, BASE.replace('"mini:vanilla"', "x, reference: a")).models["a"].reference == "a"


def test_all_mistakes_of_a_file_are_listed_at_once(tmp_path):
    text = BASE.replace("layer", "layr").replace("source", "sorce").replace("protocol: lmms-eval", "")
    lines = mistakes(tmp_path, text).splitlines()
    assert {line.split(": ")[1] for line in lines} == {
        "protocol",
        "models.a.source",
        "models.a.sorce",
        "methods.fastv.layr",
    }


def test_a_name_in_runs_that_is_nowhere_is_a_mistake(tmp_path):
    assert "runs[0].methods: no 'fast' here. Did you mean 'fastv'?" in mistakes(
        tmp_path, BASE + "runs: [{methods: [fast]}]"
    )


@pytest.mark.parametrize(
    "text", ["", "- 1", "a: [", "a: 1\na: 2", "\x00", "a: 2024-99-99", "[" * 3000, "? {a: b}\n: c"]
)
def test_what_is_not_a_mapping_in_yaml_is_a_users_mistake(tmp_path, text):
    assert mistakes(tmp_path, text).startswith("own.yaml: ")


def test_a_key_given_twice_is_refused_with_its_line(tmp_path):
    text = mistakes(tmp_path, BASE + "protocol: llava\n")
    assert "(line 11" in text and "'protocol' is given twice" in text


def test_a_yaml_file_cannot_make_objects(tmp_path):
    assert "not valid YAML" in mistakes(tmp_path, 'x: !!python/object/apply:os.system ["true"]')


def test_a_file_in_the_current_folder_comes_before_a_bundled_matrix(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_matrix("mini").name == "mini"
    write(tmp_path, "name: mine\n" + BASE, "mini.yaml")
    assert load_matrix("mini.yaml").name == "mine"
    assert load_matrix("mini").name == "mini"


def test_a_folder_does_not_hide_a_bundled_matrix_of_its_name(tmp_path, monkeypatch):
    """A checkout has a folder `baselines`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mini").mkdir()
    assert load_matrix("mini").name == "mini"
    (tmp_path / "own").mkdir()
    with pytest.raises(UserError, match="Is a directory"):
        load_matrix("own")


def test_an_unknown_matrix_is_answered_with_the_nearest_bundled_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"papr\.yaml: no such file.* Did you mean 'paper'"):
        load_matrix("papr.yaml")


def test_budgets_become_fields_and_averages_near_what_was_asked(tmp_path):
    matrix = load(tmp_path)
    rows, problems = resolve(matrix, matrix.cells(), peek=plain)
    assert problems == []
    assert rows["a", "fastv-30"].plan.average_tokens == pytest.approx(30, abs=0.5)
    assert rows["a", "fastv-25%"].reducer == build("fastv", {"layer": 2, "keep": 10})
    assert rows["a", "fastv-25%"].budget == "25%"
    assert rows["a", "vanilla"].budget is None


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("{layer: 2, budget: 5}", "methods.fastv.budget 5 on a: fastv: an average of 5 visual tokens is out of reach"),
        (
            "{layer: 12, keep: 5}",
            "methods.fastv on a: cut after layer 12: visual tokens are there in layers 1..12 only",
        ),
        ("{layer: 2, keep: 101}", "methods.fastv on a: keep 101 after layer 2: only 100 visual tokens are there"),
        ("{name: pdrop, layers: [4, 3, 5]}", "cuts must be in ascending order of layers"),
    ],
)
def test_a_method_that_does_not_fit_the_model_says_what_would(tmp_path, entry, message):
    matrix = load(tmp_path, BASE.replace('{layer: 2, budget: [30, "25%"]}', entry))
    rows, problems = resolve(matrix, matrix.cells(), peek=plain)
    assert len(problems) == 1 and problems[0].startswith("own.yaml: ") and message in problems[0]
    assert ("a", "vanilla") in rows


def test_a_row_is_trained_exactly_when_its_schedule_is_the_checkpoints(tmp_path):
    text = BASE.replace("fastv: {", "own: {name: checkpoint}\n  same: {name: fastv, keep: 9}\n  fastv: {")
    matrix = load(tmp_path, text)
    rows, problems = resolve(matrix, matrix.cells(), peek=lambda source: (SMALL, build("fastv", {"keep": 9})))
    assert problems == []
    assert {label for (_, label), row in rows.items() if row.trained} == {"own", "same"}
    assert rows["a", "own"].method == "fastv"


def test_ties_do_not_make_a_trained_row_untrained(tmp_path):
    schedule = {"inject": 2, "filters": [3], "keep": [4], "exit": 6}
    own = "{name: hidrop, inject: 2, filters: [3], keep: [4], exit: 6"
    text = BASE.replace("fastv: {", f"tied: {own}, ties: released}}\n  other: {own}, query: text}}\n  fastv: {{")
    matrix = load(tmp_path, text)
    rows, problems = resolve(matrix, matrix.cells(), peek=lambda source: (SMALL, build("hidrop", schedule)))
    assert problems == []
    assert {label for (_, label), row in rows.items() if row.trained} == {"tied"}


def test_the_checkpoints_method_needs_a_checkpoint_with_one(tmp_path):
    matrix = load(tmp_path, BASE.replace("vanilla: {}", "own: {name: checkpoint}"))
    _, problems = resolve(matrix, matrix.cells(), peek=plain)
    assert "methods.own on a: the checkpoint names no method that it was trained with" in problems[0]


def test_what_the_matrix_says_of_a_model_must_not_contradict_its_files(tmp_path):
    said = "{source: x, geometry: llava-1.5-7b, trained_with: {name: fastv, keep: 3}}"
    matrix = load(tmp_path, BASE.replace('{source: "mini:vanilla"}', said))
    _, problems = resolve(matrix, matrix.cells(), peek=lambda source: (SMALL, build("fastv", {"keep": 9})))
    assert [p.split(": ")[1] for p in problems] == ["models.a.geometry", "models.a.trained_with"]


def test_a_stated_geometry_gives_a_plan_without_the_files(tmp_path):
    matrix = load(
        tmp_path, BASE.replace('"mini:vanilla"', "nowhere, geometry: llava-1.5-7b").replace('[30, "25%"]', "64")
    )

    def absent(source):
        raise UserError("not there")

    for trust in (False, True):
        rows, problems = resolve(matrix, matrix.cells(), peek=absent, trust_presets=trust)
        assert rows["a", "vanilla"].plan.geometry == PRESETS["llava-1.5-7b"]
        assert [p.split(": ", 1)[1] for p in problems] == ([] if trust else ["models.a.source: not there"])


@pytest.mark.parametrize("name", ["smoke", "mini", "mini-full", "paper", "paper-full", "baselines", "qwen"])
def test_bundled_matrices_are_valid(name):
    matrix = load_matrix(name)
    assert matrix.name == name and matrix.cells()


def test_the_paper_matrix_gives_the_papers_averages_and_flops():
    matrix = load_matrix("paper")
    rows, problems = resolve(matrix, matrix.cells(), trust_presets=True)
    assert problems == []
    averages = {key[0]: round(row.plan.average_tokens, 2) for key, row in rows.items() if row.trained}
    assert averages == {"hidrop-7b-80": 80.03, "hidrop-7b-64": 64.00, "hidrop-7b-48": 48.00}
    macs = {
        "vanilla": rows["llava-1.5-7b", "vanilla"],
        "pdrop": rows["llava-1.5-7b", "pdrop-default"],
        "hidrop": rows["hidrop-7b-64", "trained"],
    }
    assert {k: round(row.plan.paper_macs() / 1e12, 2) for k, row in macs.items()} == {
        "vanilla": 3.82,
        "pdrop": 1.78,
        "hidrop": 0.42,
    }


def test_the_paper_matrix_has_every_method_and_null_baseline_at_its_budgets():
    """Within 2 %, except the squares of `downsample`, and SparseVLM, which cannot reach 48."""
    matrix = load_matrix("paper")
    rows, _ = resolve(matrix, matrix.cells(), trust_presets=True)
    for model in ("llava-1.5-7b", "llava-1.5-13b"):
        found: dict[str, set[str]] = {}
        for (name, _), row in rows.items():
            if name == model and row.budget:
                found.setdefault(row.method, set()).add(row.budget)
                near = 0.06 if row.method == "downsample" else 0.02
                assert row.plan.average_tokens == pytest.approx(float(row.budget), rel=near)
        budgets = {"192", "128", "64", "48"}
        assert found.pop("sparsevlm") == budgets - {"48"}
        assert all(of == budgets for of in found.values())
        assert set(found) == {"pdrop", "fastv", "divprune", "visionzip", "random", "uniform", "pool", "downsample"}
        assert rows[model, "text_only"].plan.average_tokens == 0


ELEVEN = ["mme", "mmbench_en_dev", "mmbench_cn_dev", "gqa", "vqav2_val", "scienceqa_img", "vizwiz_vqa_val"]
ELEVEN += ["textvqa_val", "pope", "seedbench", "mmstar"]


def test_the_matrix_of_the_papers_main_table_has_its_eleven_tasks_and_budgets():
    matrix = load_matrix("paper-full")
    assert list(matrix.tasks) == ELEVEN
    protocols = {name: matrix.task_spec(name).protocol for name in ELEVEN}
    assert protocols == {name: "lmms-eval" if name == "mmstar" else "llava" for name in ELEVEN}
    versions = {name: matrix.task_spec(name).version for name in ("mmbench_en_dev", "pope")}
    assert versions == {"mmbench_en_dev": "20230712", "pope": "llava"}
    rows, problems = resolve(matrix, matrix.cells(), trust_presets=True)
    assert problems == []
    for row in rows.values():
        stated = row.budget or (row.model.removeprefix("hidrop-7b-") if row.trained else None)
        tokens = float(stated) if stated else {"vanilla": 576, "text_only": 0}[row.label]
        assert row.plan.average_tokens == pytest.approx(tokens, rel=0.025)
    shorter = load_matrix("paper").models
    assert {name: shorter[name] for name in matrix.models} == matrix.models


# Rows named after what their papers call the setting, which is no average.
LABELS = {
    "dart": {"192": 219.75, "128": 159.75, "64": 99.75},
    "sparsevlm": {"192": 206.5, "128": 145.41, "64": 82.25},
}


def test_the_matrix_of_the_baselines_has_published_settings_and_the_averages_of_its_names():
    matrix = load_matrix("baselines")
    rows, problems = resolve(matrix, matrix.cells(), trust_presets=True)
    assert problems == []
    for (_, label), row in rows.items():
        average = row.plan.average_tokens
        if row.reducer.adaptive:
            assert label in {"prumerge-adaptive", "prumerge-plus-adaptive"} and average == 576
        elif "-label-" in label:
            assert round(average, 2) == LABELS[row.method][label.rsplit("-", 1)[1]]
        elif label in {"vanilla", "text_only"}:
            assert average == {"vanilla": 576, "text_only": 0}[label]
        else:
            tokens = float(row.group.rsplit("-", 1)[1])
            near = {"downsample": 0.06, "pdrop": 0.02, "sparsevlm": 0.02, "dart": 0.02, "fastv": 0.02}
            assert average == pytest.approx(tokens, rel=near.get(row.method, 0)), label
    published: dict[str, set[str]] = {}
    for one in matrix.methods.values():
        if "published" in one.params:
            published.setdefault(one.name, set()).add(one.params["published"])
    assert published == {
        "visionzip": {"192", "128", "64"},
        "vispruner": {"192", "128", "64", "32"},
        "fastervlm": {"144", "58", "29"},
        "holov": {"64"},
        "prumerge": {"adaptive", "adaptive-plus"},
        "divprune": {"128", "64", "32"},
        "dart": {"192", "128", "64"},
        "sparsevlm": {"192", "128", "64"},
    }
    budgets = {row.budget for row in rows.values() if row.method in {"random", "uniform", "pool"}}
    assert budgets == {"192", "128", "64", "32"}
    shorter = load_matrix("paper")
    assert (matrix.protocol, matrix.dtype, matrix.tasks) == (shorter.protocol, shorter.dtype, shorter.tasks)
    assert matrix.models == {"llava-1.5-7b": shorter.models["llava-1.5-7b"]}


# Methods with a rule that have no rows in results/mini.
NOT_IN_MINI = {"stack"}


def test_the_mini_matrix_reaches_its_budgets_on_the_mini_geometry():
    matrix = load_matrix("mini")
    pdrop = build("pdrop", {"layers": (1, 2, 4), "ratio": 0.2})
    rows, problems = resolve(matrix, matrix.cells(), peek=lambda source: (SMALL, pdrop))
    assert problems == []
    assert {row.method for row in rows.values()} >= WITH_A_RULE - NOT_IN_MINI
    for row in rows.values():
        if row.budget:
            assert 100 * row.plan.share == pytest.approx(float(row.budget.rstrip("%")), abs=1.0)


def test_the_matrix_of_compositions_holds_one_budget():
    matrix = load_matrix("compositions")
    rows, problems = resolve(matrix, matrix.cells(), peek=lambda source: (SMALL, None))
    assert problems == []
    stacks = {label: row for (_, label), row in rows.items() if row.method == "stack"}
    assert set(stacks) == {"duet", "vscan", "vitcop", "divprune-exit", "downsample-fastv"}
    for row in rows.values():
        assert row.method == "vanilla" or 100 * row.plan.share == pytest.approx(25, abs=0.5)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("{source: plain}", "{source: '~typo/x'}", "models.plain.source: .*no home folder is known for '~typo'"),
        ("{source: plain}", f"{{source: {'a' * 300}}}", "models.plain.source: .*File name too long"),
        ("gqa: {data: mini}", "gqa: {data: '~typo/x'}", "gqa.data: no home folder is known for '~typo'"),
        ("gqa: {data: mini}", f"gqa: {{data: {'a' * 300}}}", "gqa.data: not a path: File name too long"),
        ("keep: 4", "budget: '1e308'", "methods.fastv.budget: .*a budget is a number of visual tokens"),
        ("keep: 4", f"budget: '{'0' * 300}5%'", "methods.fastv.budget: .*a budget is a number of visual tokens"),
    ],
)
def test_a_text_that_no_file_or_budget_can_be_is_named_with_its_place(
    old: str, new: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from evals.cli import main
    from tests.evals.world import MATRIX

    path = tmp_path / "odd.yaml"
    path.write_text(MATRIX.replace(old, new))
    assert main(["validate", str(path)]) == 2
    printed = capsys.readouterr()
    assert re.search(message, printed.out + printed.err), printed


@pytest.mark.parametrize("name", ["a" * 300, "~typo/x", "a\0b", "a" * 5000])
def test_a_name_that_no_file_can_have_is_refused_in_words(name: str) -> None:
    with pytest.raises(UserError):
        load_matrix(name)
