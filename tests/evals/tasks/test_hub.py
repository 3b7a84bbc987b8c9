"""Data in the Hub's cache: `data: hub` without the network, and folders of the cache as data."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants

from evals.tasks import TASKS, TaskSpec, data_digest, evaluate, get_task, missing, prepare, remarks
from evals.tasks import hub as hub_cache
from evals.tasks.data import locate
from hidrop.errors import UserError
from tests.evals.tasks.table import CASES
from tests.evals.tasks.test_every_task import as_on_the_hub

Write = Callable[[list[dict[str, Any]], Path], None]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    hub_cache.fetch.cache_clear()
    yield
    hub_cache.fetch.cache_clear()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty Hub cache, without the network."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def filled(name: str, cache: Path, write: Write, commit: str = COMMIT, *, main: bool = True) -> Path:
    """Add a task's repository to the cache, with a snapshot of links into blobs/. Returns its folder."""
    folder = cache / f"datasets--{get_task(name).source.repository.replace('/', '--')}"
    snapshot = folder / "snapshots" / commit
    as_on_the_hub(name, snapshot, write)
    (folder / "blobs").mkdir(exist_ok=True)
    for number, path in enumerate(sorted(snapshot.rglob("*.parquet"))):
        blob = folder / "blobs" / f"{commit[:6]}{number}"
        path.rename(blob)
        path.symlink_to(os.path.relpath(blob, path.parent))
    if main:
        (folder / "refs").mkdir(exist_ok=True)
        (folder / "refs/main").write_text(commit)
    return folder


@pytest.mark.parametrize("name", [name for name in TASKS if not get_task(name).source.videos])
def test_the_hubs_data_come_from_a_filled_cache_without_the_network(
    name: str, cache: Path, write_parquet: Write, oracle: Any
) -> None:
    filled(name, cache, write_parquet)
    spec = TaskSpec(name, "hub", get_task(name).protocols[0])
    assert missing(spec) == []
    assert evaluate(oracle(), spec).value == pytest.approx(CASES[name].value)


def test_an_empty_cache_without_the_network_names_the_command(cache: Path) -> None:
    spec = TaskSpec("pope", "hub")
    [problem] = missing(spec)
    assert "not in the Hub's cache" in problem and "HF_HUB_OFFLINE" in problem
    assert problem.endswith('lmms-lab-encoder/POPE --include "data/test-*.parquet" (about 255 MB)')
    with pytest.raises(UserError, match="cannot be downloaded"):
        prepare(spec)


def test_a_shard_that_did_not_arrive_is_told_without_the_network(cache: Path, write_parquet: Write) -> None:
    folder = filled("pope", cache, write_parquet)
    [link] = folder.rglob("test-*.parquet")
    link.rename(link.with_name("test-00000-of-00002.parquet"))
    [problem] = missing(TaskSpec("pope", "hub"))
    assert "Missing: 00001" in problem
    for blob in (folder / "blobs").iterdir():
        blob.unlink()
    link.with_name("test-00001-of-00002.parquet").symlink_to("nowhere")
    assert all("cannot read" in problem for problem in missing(TaskSpec("pope", "hub")))


@pytest.mark.parametrize("place", ["cache", "home", "repository", "snapshots", "snapshot"])
def test_every_folder_of_the_cache_works_as_data_and_is_the_same_data(
    place: str, cache: Path, write_parquet: Write, tmp_path: Path
) -> None:
    folder = filled("gqa", cache, write_parquet)
    filled("pope", cache, write_parquet)
    snapshots = folder / "snapshots"
    places = {
        "cache": cache,
        "home": tmp_path,
        "repository": folder,
        "snapshots": snapshots,
        "snapshot": snapshots / COMMIT,
    }
    spec = TaskSpec("gqa", str(places[place]))
    assert missing(spec) == [] and len(locate(spec).images) == 1
    assert data_digest(spec) == data_digest(TaskSpec("gqa", "hub"))


def test_the_snapshot_of_main_is_taken(cache: Path, write_parquet: Write) -> None:
    folder = filled("pope", cache, write_parquet)
    filled("pope", cache, write_parquet, "f" * 40, main=False)
    assert locate(TaskSpec("pope", str(cache))).start == folder / "snapshots" / COMMIT


def test_a_folder_of_the_cache_without_the_data_is_explained(cache: Path, write_parquet: Write) -> None:
    folder = filled("gqa", cache, write_parquet)

    def problem(place: Path) -> str:
        [found] = missing(TaskSpec("pope", str(place)))
        return found

    assert "the Hub cache's folder of lmms-lab-encoder/GQA, not of lmms-lab-encoder/POPE" in problem(folder)
    assert "it has no lmms-lab-encoder/POPE (it has lmms-lab-encoder/GQA)" in problem(cache)
    assert f"--cache-dir {cache} (about 255 MB)" in problem(cache)
    own = filled("pope", cache, write_parquet, main=False)
    filled("pope", cache, write_parquet, "f" * 40, main=False)
    assert "with 2 snapshots and no refs/main. Name a snapshot" in problem(own)
    assert "with 2 snapshots and no refs/main. Name a snapshot" in problem(cache)
    assert missing(TaskSpec("pope", str(own / "snapshots" / COMMIT))) == []


def test_with_the_network_the_task_s_files_are_downloaded_once(
    cache: Path, write_parquet: Write, monkeypatch: pytest.MonkeyPatch, oracle: Any
) -> None:
    asked: list[tuple[str, str, list[str]]] = []

    def download(repository: str, *, repo_type: str, revision: str | None, allow_patterns: list[str]) -> str:
        assert revision is None
        asked.append((repository, repo_type, allow_patterns))
        return str(filled("gqa", cache, write_parquet))

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    spec = TaskSpec("gqa", "hub")
    assert missing(spec) == [] and asked == [], "the check before a run needs no network"
    assert remarks(spec)[0].startswith("gqa: will be downloaded with: hf download")
    assert evaluate(oracle(), spec).value == evaluate(oracle(), spec).value == 100
    assert asked == [
        (
            "lmms-lab-encoder/GQA",
            "dataset",
            ["testdev_balanced_instructions/*.parquet", "testdev_balanced_images/*.parquet"],
        )
    ]


def test_a_network_that_fails_leaves_what_is_in_the_cache(
    cache: Path, write_parquet: Write, monkeypatch: pytest.MonkeyPatch, oracle: Any
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(UserError, match=r"OSError: no route to host.*Get it with: hf download"):
        prepare(TaskSpec("pope", "hub"))
    folder = filled("pope", cache, write_parquet)
    assert evaluate(oracle(), TaskSpec("pope", "hub")).value == 100
    [link] = folder.rglob("test-*.parquet")
    link.rename(link.with_name("test-00000-of-00002.parquet"))
    assert missing(TaskSpec("pope", "hub")) == [], "the run would download the other one"
    with pytest.raises(UserError, match="Missing: 00001"):
        evaluate(oracle(), TaskSpec("pope", "hub"))


def test_images_named_by_a_path_may_be_links_inside_their_repository_only(cache: Path, write_parquet: Write) -> None:
    folder = filled("pope", cache, write_parquet)
    files = locate(TaskSpec("pope", str(folder / "snapshots" / COMMIT)))
    assert files.root == folder and files.start == folder / "snapshots" / COMMIT
