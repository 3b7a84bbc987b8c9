"""Whatever stands in a matrix file or a journal, a user gets a message that names it, and never a traceback.

Each test runs on some inputs; the long ones, on ten thousand and more, with `-m slow`.
"""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evals.matrix.resolve import resolve
from evals.matrix.schema import BUNDLED, load_matrix
from evals.store import doctor
from evals.store.journal import Journal
from evals.store.records import parsed
from evals.store.sealed_lines import canonical, sealed
from hidrop.errors import UserError
from hidrop.methods import build
from tests.evals.world import ANSWER, GEOMETRY, MATRIX, SCORE, World, result_of

SOME = settings(max_examples=150, deadline=None)
MANY = settings(max_examples=12_000, deadline=None, suppress_health_check=list(HealthCheck))
few_and_many = pytest.mark.parametrize(
    "effort", [SOME, pytest.param(MANY, marks=pytest.mark.slow)], ids=["some", "many"]
)

MARKS = [b"\n", b": ", b"- ", b"&a ", b"*a", b"{", b"!!x "]
WORDS = ["vanilla", "fastv", "hidrop", "mini", "gqa", "checkpoint", "name", "keep", "layer", "budget", "seed", "1e999"]
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.sampled_from(WORDS),
    st.text(max_size=8),
    st.sampled_from(["11%", "0%", "-3%", "nan", "../x", "a/b", "a b", "=1", "2026-11-25", "~"]),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.one_of(st.sampled_from(WORDS), SCALARS.filter(lambda x: x == x)), inner, max_size=4),
    ),
    max_leaves=12,
)
WHOLE = [yaml.safe_load(MATRIX), *(yaml.safe_load(path.read_text()) for path in sorted(BUNDLED.glob("*.yaml")))]


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in nested mappings and lists."""
    found = [path]
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        found += places(inner, (*path, key))
    return found


def changed(draw: Callable[..., Any], data: Any) -> Any:
    """A copy with up to three places set, removed or added to."""
    data = copy.deepcopy(data)
    for _ in range(draw(st.integers(1, 3))):
        found = places(data)[1:]
        if not found:
            break
        *path, last = draw(st.sampled_from(found))
        owner = data
        for key in path:
            owner = owner[key]
        match draw(st.sampled_from(["set", "remove", "add"])):
            case "set":
                owner[last] = draw(VALUES)
            case "remove":
                del owner[last]
            case "add" if isinstance(owner, dict):
                owner[draw(st.sampled_from(WORDS))] = draw(VALUES)
    return data


@st.composite
def changed_matrices(draw: Callable[..., Any]) -> str:
    """A real matrix with up to three places changed, removed or added to."""
    data = changed(draw, draw(st.sampled_from(WHOLE)))
    return yaml.safe_dump(data, allow_unicode=True, sort_keys=False)


@st.composite
def damaged_texts(draw: Callable[..., Any]) -> bytes:
    """A real matrix as a text, with bytes put in, taken out or doubled."""
    return damage(draw, yaml.safe_dump(draw(st.sampled_from(WHOLE)), sort_keys=False).encode())


def damage(draw: Callable[..., Any], data: bytes) -> bytes:
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(0, 30)))
        new = draw(
            st.one_of(st.binary(max_size=6), st.sampled_from([b"\n", b": ", b"- ", b"&a ", b"*a", b"{", b"!!x "]))
        )
        data = data[:start] + draw(st.sampled_from([new, data[start:end] * 2, b""])) + data[end:]
    return data


MATRICES = st.one_of(
    changed_matrices().map(str.encode),
    damaged_texts(),
    VALUES.map(lambda value: yaml.safe_dump(value, allow_unicode=True).encode()),
    st.binary(max_size=200),
    st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")),
)


def loads(content: bytes, folder: Path) -> None:
    """Load a matrix as the commands do; anything but UserError, with words that name the file, is a mistake."""
    path = folder / "fuzzed.yaml"
    path.write_bytes(content)
    try:
        matrix = load_matrix(path)
        cells = matrix.cells()
    except UserError as error:
        assert all(line.startswith("fuzzed.yaml") or line.startswith(" ") for line in str(error).splitlines()[:1])
        assert len(str(error)) < 100_000
        return
    _, problems = resolve(matrix, cells, peek=lambda source: (GEOMETRY, build("pdrop", {"layers": (1, 2, 3)})))
    assert all(isinstance(problem, str) and problem for problem in problems)


@few_and_many
def test_a_matrix_file_is_read_or_refused_in_words(effort: settings) -> None:
    with tempfile.TemporaryDirectory() as folder:

        @effort
        @given(MATRICES)
        def run(content: bytes) -> None:
            loads(content, Path(folder))

        run()


def test_a_small_file_that_stands_for_a_huge_one_is_refused(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    path = tmp_path / "laughs.yaml"
    large, around = "\n".join(lines), "models: &m {a: *m}"
    for text in (
        large,
        f"{large}\nmodels: *a11",
        f"{MATRIX.replace('profile: {repeats: 1}', large)}",
        around,
        "methods: &m [*m]",
    ):
        path.write_text(text)
        with pytest.raises(UserError, match="laughs.yaml") as caught:
            load_matrix(path)
        assert len(str(caught.value)) < 2000


IDENTITY = {"task": "gqa", "weights": "abc", "protocol": ["llava", 1]}
ANSWERS = [{"kind": "answer", **ANSWER, "doc_id": i, "kept": [[2, "8AA="]]} for i in range(4)]
SCORES = [{"kind": "score", **SCORE, "doc_id": i} for i in range(4)]
SESSION = {"kind": "provenance", "hardware": {"cpu": "x"}, "versions": {"torch": "2"}, "commit": None, "date": "today"}
LINES = [
    {"schema": 3, "kind": "cell", "id": Journal(Path("nowhere"), IDENTITY).id, "identity": IDENTITY},
    SESSION,
    *ANSWERS,
    *SCORES,
    {"kind": "result", **result_of(4, seconds=2.0)},
]


@st.composite
def journals(draw: Callable[..., Any]) -> bytes:
    """A finished journal with fields changed, lines lost, doubled or swapped, and bytes damaged.

    Some get right checksums afterwards, as a program of another author could write them.
    """
    lines = copy.deepcopy(LINES)
    for _ in range(draw(st.integers(0, 2))):
        record = draw(st.sampled_from(lines))
        key = draw(st.sampled_from([*record, "x", "kept", "target"]))
        if draw(st.booleans()):
            record[key] = draw(VALUES)
        else:
            record.pop(key, None)
    order = list(range(len(lines)))
    if draw(st.booleans()):
        order = draw(st.lists(st.sampled_from(order), min_size=1, max_size=14))
    try:
        text, _ = sealed([lines[i] for i in order], LINES[0]["id"])
    except (TypeError, ValueError):  # what JSON does not have
        text = "".join(json.dumps(lines[i], default=str) + "\n" for i in order).encode()
    return damage(draw, text) if draw(st.booleans()) else text


def reads(content: bytes, folder: Path) -> None:
    """Open a journal as a run does, and repair what is refused."""
    path = folder / "samples" / "a.jsonl"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    found = doctor.examine(folder)
    try:
        log = Journal(path, IDENTITY)
        log.check()
    except UserError as error:
        assert str(path) in str(error)
        other = "belongs to a different cell" in str(error)  # a sound journal, at another one's place
        assert found or other, "what a run refuses, the doctor finds"
        for finding in found:
            assert finding.text()
            finding.repair()
        assert doctor.examine(folder) == [] if path.exists() or not found else True
        if path.exists() and not other:
            Journal(path, IDENTITY).check()
        return
    assert not found, "what a run takes, the doctor has nothing against"
    assert all(canonical(answer) for answer in log.answers.values())
    if log.result is not None:
        assert len(log.scores) == log.result["n"] and log.answers.keys() >= {s["doc_id"] for s in log.scores}


@few_and_many
def test_a_journal_is_read_or_refused_in_words_and_can_be_repaired(effort: settings) -> None:
    with tempfile.TemporaryDirectory() as folder:

        @effort
        @given(st.one_of(journals(), st.binary(max_size=300)))
        def run(content: bytes) -> None:
            reads(content, Path(folder))

        run()


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("answer", {"answer": "\ud800"}),
        ("answer", {"kept": 5}),
        ("answer", {"kept": [[2, "8A"]]}),
        ("answer", {"kept": [[2, "8A=="], [3]]}),
        ("answer", {"doc_id": True}),
        ("answer", {"milliseconds": 1e999}),
        ("score", {"target": None, "score": "1"}),
    ],
)
def test_a_record_that_would_be_a_traceback_later_is_refused(kind: str, change: dict[str, Any]) -> None:
    record = next(line for line in LINES if line["kind"] == kind)
    assert parsed(json.dumps(record).encode()) == record
    with pytest.raises(ValueError):
        parsed(json.dumps({**record, **change}).encode())
    with pytest.raises(ValueError, match="target is missing"):
        parsed(json.dumps({name: value for name, value in SCORES[0].items() if name != "target"}).encode())


def test_a_run_over_damaged_journals_fails_their_cells_in_words(go: Any, tmp_path: Path) -> None:
    go(World())
    paths = sorted((tmp_path / "out/samples").glob("*.jsonl"))
    whole = {path: path.read_bytes() for path in paths}

    @settings(max_examples=40, deadline=None)
    @given(st.data())
    def run(data: st.DataObject) -> None:
        for path, content in whole.items():
            path.write_bytes(content)
        path = data.draw(st.sampled_from(paths))
        path.write_bytes(damage(data.draw, whole[path]))
        document = go(World())
        for failure in document["failed"]:
            assert str(path) in failure["error"]
        assert len(document["cells"]) + len(document["failed"]) == len(paths)

    run()
