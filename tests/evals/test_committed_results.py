"""What is committed below results/ can be read, and every file made from it is up to date."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from evals.ablations.document import ABLATIONS
from evals.analysis.document import ANALYSIS
from evals.bench.document import BENCH, TRAINING
from evals.committed_results import SHOWN_BENCH, SHOWN_FIGURE, regenerate
from evals.report.readme import BLOCK, PAGES, rendered
from evals.store import sample_table
from evals.store.folders import read_document
from evals.store.json_files import FileKind
from evals.store.result_document import RESULTS, cell_key, protocol_of

ROOT = Path(__file__).parents[2]


def git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("no git repository: nothing is committed")
    return done.stdout


@pytest.fixture(scope="module")
def committed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """results/ and the pages with tables as committed or staged: a run of your own may have changed them since."""
    folder = tmp_path_factory.mktemp("committed")
    git("checkout-index", f"--prefix={folder}/", "--", *PAGES, SHOWN_FIGURE, *git("ls-files", "results").splitlines())
    return folder


def rounded(text: str) -> str:
    """Numbers of a drawing to a hundredth: the last digits of a place are the machine's."""
    return re.sub(r"(\d+\.\d\d)\d+", r"\1", text)


def kinds(folder: Path) -> Iterator[tuple[Path, FileKind[Any]]]:
    """Every committed JSON file, with the kind that its name says."""
    by_name = {"leaderboard.json": RESULTS, "ablations.json": ABLATIONS, "analysis.json": ANALYSIS}
    for path in sorted(folder.glob("results/**/*.json")):
        bench = TRAINING if path.name.startswith("train-") else BENCH
        yield path, bench if path.parent.name == "bench" else by_name[path.name]


def test_every_committed_document_is_read_as_it_is(committed: Path) -> None:
    found = list(kinds(committed))
    assert {kind.name for _, kind in found} == {kind.name for kind in (RESULTS, ABLATIONS, ANALYSIS, BENCH, TRAINING)}
    for path, kind in found:
        written = json.loads(path.read_text(encoding="utf-8"))
        # A file of an earlier schema is read with what it lacks.
        assert kind.read(path) == written or written["schema"] < kind.schema, path


def test_committed_samples_are_those_of_their_document(committed: Path) -> None:
    tables = sorted(committed.glob(f"results/*/{sample_table.NAME}"))
    assert [path.parent.name for path in tables] == ["mini"]
    for path in tables:
        document, table = read_document(path.parent), sample_table.read(str(path.parent))
        assert table is not None
        for cell in document["cells"]:
            samples = table.of(cell, protocol_of(document, cell["task"]))
            assert samples is not None and len(samples) == cell["n"], cell_key(cell)


@pytest.mark.parametrize("page", PAGES)
def test_the_tables_of_a_page_are_those_of_the_committed_results(page: str, committed: Path) -> None:
    text = (committed / page).read_text(encoding="utf-8")
    assert BLOCK.search(text)
    assert rendered(text, f"{committed}/") == text, "run `make readme`"


def test_every_file_that_follows_from_committed_documents_is_up_to_date(committed: Path) -> None:
    before = {path: path.read_bytes() for path in sorted(committed.rglob("*")) if path.is_file()}
    written = regenerate(committed, git("ls-files", "results").splitlines())
    assert set(written) <= set(before), "a file is made that is not committed"
    assert (committed / SHOWN_BENCH).is_file() and committed / SHOWN_FIGURE in written
    names = {path.relative_to(committed).as_posix() for path in written}
    for folder in ("mini", "ablations", "suggested", "analysis/mini-vanilla"):
        made = {
            name
            for name in git("ls-files", f"results/{folder}").splitlines()
            if Path(name).name not in ("matrix.yaml", sample_table.NAME)
        }
        assert made <= names, folder
    for path in written:
        if path.suffix != ".pdf":
            text = path.read_text(encoding="utf-8")
            assert rounded(text) == rounded(before[path].decode()), f"run `make readme`: {path.name}"


def test_a_page_without_journals_keeps_the_samples_of_its_own_cells(
    committed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from evals.report import page
    from evals.store.folders import read_document

    monkeypatch.setattr(page, "_figures", lambda document: [])  # drawing them takes most of the time
    document = read_document(committed / "results/mini")
    folder = tmp_path / "mini"
    folder.mkdir()
    assert "no samples" in page.html(document, folder), "without an earlier page there is nothing to keep"
    whole = (committed / "results/mini/report.html").read_text(encoding="utf-8")
    (folder / page.NAME).write_text(whole, encoding="utf-8")
    assert 'id="samples"' in page.html(document, folder)
    document["cells"][5]["id"] = "another run's"
    text = page.html(document, folder)
    assert "no samples" in text and 'id="samples"' not in text
    broken = whole.replace('"identities"', '"other"'), whole.replace('id="data">{', 'id="data">')
    for other in ("<html></html>", *broken):
        (folder / page.NAME).write_text(other, encoding="utf-8")
        assert "no samples" in page.html(read_document(committed / "results/mini"), folder)
