"""`run.py view`: what the server shows, and what it refuses."""

from __future__ import annotations

import http.client
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from evals.store.lock import locked
from evals.viewer import Server
from hidrop.errors import UserError

TRAINING = Path("results/bench/train-bench-400m-float32-amd-epyc-2-threads.json")
BENCH = next(Path("results/bench").glob("bench-400m-*-t500-*.json"))


@pytest.fixture(scope="module")
def base(little: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with its document, one without, and a file of bench."""
    base = tmp_path_factory.mktemp("view")
    shutil.copytree(little, base / "done")
    shutil.copytree(little, base / "begun")
    (base / "begun" / "leaderboard.json").unlink()
    for path in (BENCH, TRAINING):
        shutil.copy(path, base)
    (base / "gone.json").symlink_to(base / "nowhere.json")
    (base / "secret.txt").write_text("secret")
    return base


@pytest.fixture
def server(base: Path) -> Iterator[Server]:
    with Server(base, 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def asked(server: Server, path: str, method: str = "GET", **headers: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    found = answer.status, answer.read().decode()
    connection.close()
    return found


def test_the_list_leads_to_every_page(server: Server) -> None:
    status, text = asked(server, "/")
    assert status == 200 and "refresh" not in text
    assert f'<a href="/{BENCH.name}">{BENCH.name}</a>' in text and '<a href="/done/">done</a>' in text
    status, page = asked(server, "/done/")
    assert status == 200 and 'id="results"' in page and "Who is best" in page
    status, page = asked(server, f"/{BENCH.name}")
    assert status == 200 and "Is it worth it?" in page
    status, page = asked(server, f"/{TRAINING.name}")
    assert status == 200 and "Training steps of bench-400m" in page
    status, page = asked(server, "/begun/")
    assert status == 200 and "12 done, 0 begun, 0 failed" in page and "plain.fastv.gqa" in page


def test_a_run_that_goes_on_loads_itself_again(server: Server, base: Path) -> None:
    journal = next((base / "begun/samples").glob("plain.fastv.gqa.*.jsonl"))
    whole = journal.read_text()
    journal.write_text("\n".join(whole.splitlines()[:-1]) + "\n")
    with locked(base / "begun"):
        _, text = asked(server, "/")
        assert 'http-equiv="refresh"' in text and 'href="/begun/progress"' in text
        _, text = asked(server, "/begun/progress")
    assert "11 done, 1 begun" in text and 'http-equiv="refresh"' in text
    assert "<td>plain.fastv.gqa</td><td>-</td><td>goes on</td>" in text
    journal.write_text(whole)
    assert "12 done, 0 begun" in asked(server, "/begun/progress")[1]


def test_a_page_is_made_again_when_its_file_has_changed(server: Server, base: Path) -> None:
    document = base / "done/leaderboard.json"
    before = asked(server, "/done/")[1]
    assert "another name" not in before
    whole = document.read_text()
    document.write_text(whole.replace('"matrix": "little"', '"matrix": "another name"'))
    assert "another name" in asked(server, "/done/")[1]
    document.write_text("{")
    status, text = asked(server, "/done/")
    assert status == 500 and "leaderboard.json" in text
    document.write_text(whole)


def test_files_that_have_not_changed_are_read_once(server: Server, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked(server, "/"), asked(server, "/begun/")

    def read(*parts: Any) -> None:
        raise AssertionError("read again")

    for place in ("evals.store.folders.read_document", "evals.viewer.result_line", "evals.bench.files.document_of"):
        monkeypatch.setattr(place, read)
    text = asked(server, "/")[1]
    assert "little" in text and BENCH.name in text and asked(server, "/begun/")[0] == 200


@pytest.mark.parametrize(
    "path", ["/secret.txt", "/../secret.txt", "/done/leaderboard.json", "/%2e%2e/etc/passwd", "/no"]
)
def test_nothing_else_can_be_read(server: Server, path: str) -> None:
    status, text = asked(server, path)
    assert status == 404 and "secret" not in text.replace(path, "")


def test_only_this_machine_may_ask_and_only_to_read(server: Server) -> None:
    assert asked(server, "/", Host="evil.example:80")[0] == 403
    assert asked(server, "/", Host="localhost:8080")[0] == 200
    assert asked(server, "/", "POST")[0] == 501
    assert asked(server, "/", "HEAD") == (200, "")
    assert server.server_address[0] == "127.0.0.1"


def test_what_cannot_be_served_is_refused_in_words(server: Server, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a folder"):
        Server(tmp_path / "no", 0)
    with pytest.raises(UserError, match=f"--port {server.server_port}: .* 0 takes a free one"):
        Server(tmp_path, server.server_port)
