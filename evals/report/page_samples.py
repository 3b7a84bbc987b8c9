"""The samples of a page: question, image, each row's answer, and the tokens it kept.

Samples are chosen from the journals, so that every row has samples on which it differs from vanilla. Questions and
images come from the task's data. If journals or data are missing, the page shows less and a note gives the reason.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evals.report.flip_lists import Lists, lists_of
from evals.report.page_data import KINDS, size
from evals.store.folders import samples_file, samples_of
from evals.store.journal import header_of
from evals.store.records import ScoredAnswer
from evals.store.result_document import CellEntry, ResultDocument, cell_key, protocol_of
from evals.tasks.base import RIGHT
from evals.tasks.data import TaskSpec, data_digest
from evals.tasks.protocol import protocol
from hidrop.errors import UserError

SIDE = 192  # pixels of an image on the page
LONGEST = 600  # characters of a question or an answer


@dataclass(frozen=True)
class ShownSample:
    """The question and image of a sample, as data URLs, or "" without an image.

    image: the part that the protocol shows to a model with a square of patches. whole: all of it.
    """

    question: str
    image: str
    whole: str = ""


@dataclass
class PageSamples:
    """The data of the page's script before it is packed (see `page_data`). `notes`: what is not shown, and why.

    flips: of each cell, all samples that it lost or gained.
    """

    tasks: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    images: list[str] = field(default_factory=list)
    identities: dict[str, dict[str, Any]] = field(default_factory=dict)
    flips: Lists = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def page_samples(
    document: ResultDocument,
    folder: Path,
    *,
    samples: int,
    room: int,
    answers_room: int,
    places: Mapping[str, tuple[Path, CellEntry]] | None = None,
) -> PageSamples:
    """At most `samples` samples per task, `room` bytes of images and `answers_room` characters of answers.

    places: by cell key, the folder of its journal and the cell as it is named there; by default `folder` has all.
    Raises UserError for a damaged journal.
    """
    found = PageSamples()
    cells = {cell_key(cell): cell for cell in document["cells"]}
    tasks = dict.fromkeys(cell["task"] for cell in document["cells"])
    for task in tasks:
        own = {key: cell for key, cell in cells.items() if cell["task"] == task}
        where = {key: places[key] if places else (folder, cell) for key, cell in own.items()}
        answers = {key: rows for key in own if (rows := samples_of(*where[key])) is not None}
        if not answers:
            continue
        found.identities |= {key: _identity(*where[key]) for key in answers}
        kinds = {
            key: kinds_of(rows, answers.get(str(own[key]["base"]), ()), lower=own[key].get("lower_is_better", False))
            for key, rows in answers.items()
        }
        found.flips |= lists_of(kinds)
        docs = chosen(kinds, samples)
        asked = _asked(document, task, found.identities, answers, docs, found.notes)
        squares = {key: own[key]["image_tokens"] for key in answers}
        rooms = room // len(tasks), answers_room // len(tasks)
        found.tasks[task] = _listed(docs, answers, kinds, squares, asked, found, rooms)
    if not found.tasks and document["cells"]:
        found.notes.append(f"no samples: {folder / 'samples'} is missing. Run the matrix, then write the report again")
    return found


def chosen(kinds: Mapping[str, Mapping[int, str]], count: int) -> list[int]:
    """`count` doc_ids, picked for one row after the other: first lost, then gained, then changed samples."""
    docs = dict.fromkeys(doc for row in kinds.values() for doc in row)
    wanted = {key: [d for kind in KINDS[:3] for d in docs if row.get(d) == kind] for key, row in kinds.items()}
    found: dict[int, None] = {}
    while len(found) < count and any(wanted.values()):
        for queue in wanted.values():
            while queue and queue[0] in found:
                queue.pop(0)
            if queue and len(found) < count:
                found[queue.pop(0)] = None
    for doc in docs:  # then fill up with samples that did not change
        if len(found) >= count:
            break
        found.setdefault(doc)
    return list(found)


def kind_of(own: ScoredAnswer, base: ScoredAnswer, *, lower: bool = False) -> str:
    """The entry of KINDS for an answer and vanilla's answer to the same sample.

    lower: smaller scores are better. No score is then right or wrong, and nothing is gained or lost.
    """
    score, before = own["score"], base["score"]
    if not lower and score is not None and before is not None and (score >= RIGHT) != (before >= RIGHT):
        return "gained" if score >= RIGHT else "lost"
    return "same" if own["reading"] == base["reading"] else "changed"


def kinds_of(rows: Sequence[ScoredAnswer], base: Sequence[ScoredAnswer], *, lower: bool) -> dict[int, str]:
    """`kind_of` each sample, by doc_id; "uncompared" where `base` has no answer."""
    before = {row["doc_id"]: row for row in base}
    return {
        r["doc_id"]: kind_of(r, before[r["doc_id"]], lower=lower) if r["doc_id"] in before else KINDS[-1] for r in rows
    }


def _identity(folder: Path, cell: CellEntry) -> dict[str, Any]:
    """The identity in the header of the cell's journal, with its hash as `id`."""
    path = samples_file(folder, cell)
    assert path is not None  # its samples were read
    header = header_of(path)
    return {"id": header["id"], **header["identity"]}


def _asked(
    document: ResultDocument,
    task: str,
    identities: Mapping[str, Mapping[str, Any]],
    answers: Mapping[str, Sequence[ScoredAnswer]],
    docs: Sequence[int],
    notes: list[str],
) -> dict[int, ShownSample]:
    """Question and image of each sample, by doc_id. If the data is missing or differs: empty, and a note is added."""
    digests = {str(identities[key]["data"]) for key in answers}
    version = document.get("data_versions", {}).get(task)
    try:
        spec = TaskSpec(task, str(document["data"].get(task)), protocol_of(document, task), version)
        if spec.data == "None":
            raise UserError("the document does not name the data of this task")
        if digests != {data_digest(spec)}:
            raise UserError(f"'{spec.data}' differs from the data that the run read")
        return dict(_read(spec, docs))
    except (UserError, OSError) as error:
        notes.append(f"{task}: no questions and images: {error}")
        return {}


def _read(spec: TaskSpec, docs: Sequence[int]) -> Iterator[tuple[int, ShownSample]]:
    from evals.tasks.build import build, quiet

    with quiet():
        task = build(spec)
        for number in docs:
            doc = task.eval_docs[number]
            try:
                image = next(iter(task.doc_to_visual(doc) or ()), None)
                whole = None if image is None else image.convert("RGB")
                shown = [] if whole is None else [_data_url(protocol(spec.protocol).seen(whole)), _data_url(whole)]
            except Exception:  # PIL raises many types for a broken file; the sample's record has the error
                shown = []
            yield number, ShownSample(_short(str(task.doc_to_text(doc))), *(shown or ("", "")))


def _data_url(image: Any) -> str:
    image.thumbnail((SIDE, SIDE))
    file = io.BytesIO()
    image.save(file, "WEBP", quality=80)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def _listed(
    docs: Sequence[int],
    answers: Mapping[str, Sequence[ScoredAnswer]],
    kinds: Mapping[str, Mapping[int, str]],
    squares: Mapping[str, int | None],
    asked: Mapping[int, ShownSample],
    found: PageSamples,
    rooms: tuple[int, int],
) -> list[dict[str, Any]]:
    """A task's samples, until their images or their answers fill the `rooms`, in characters.

    `answers`: the samples of each cell by its key; `squares`: the tokens of each cell's image, see `_panels`.
    """
    room, answers_room = rooms
    by_doc = {key: {row["doc_id"]: row for row in rows} for key, rows in answers.items()}
    listed: list[dict[str, Any]] = []
    for doc in docs:
        rows = {key: own[doc] for key, own in by_doc.items() if doc in own}
        one, shown = next(iter(rows.values())), asked.get(doc, ShownSample("", ""))
        wholes = {row.get("whole", False) for row in rows.values()}
        pictures = [shown.image if False in wholes else "", shown.whole if True in wholes else ""]
        new = [picture for picture in dict.fromkeys(pictures) if picture and picture not in found.images]
        room -= sum(map(len, new))
        if new and room < 0:
            found.notes.append(
                f"{len(docs) - len(listed)} of {len(docs)} samples: the page has no room for more images"
            )
            break
        sample: dict[str, Any] = {
            "doc": doc,
            "question": shown.question,
            "image": None,
            "whole": None,
            "target": _target(one["target"]),
            "category": one["category"],
            "answers": {key: _answer(row, kinds[key][doc], squares[key]) for key, row in rows.items()},
        }
        _number_readings(sample["answers"], rows)
        answers_room -= size(sample)
        if answers_room < 0:
            left = len(docs) - len(listed)
            found.notes.append(f"{left} of {len(docs)} samples: the page has no room for more answers")
            break
        found.images += new
        image, whole = (found.images.index(picture) if picture else None for picture in pictures)
        listed.append({**sample, "image": image, "whole": whole})
    return listed


def _number_readings(answers: Mapping[str, dict[str, Any]], rows: Mapping[str, ScoredAnswer]) -> None:
    """Number the answers of a sample by how they were read: equal answers have equal numbers."""
    readings = list(dict.fromkeys(str(row["reading"]) for row in rows.values()))
    for key, row in rows.items():
        answers[key]["reading"] = readings.index(str(row["reading"]))


def _target(target: Any) -> str:
    return _short(", ".join(dict.fromkeys(map(str, target))) if isinstance(target, list) else str(target))


def _answer(row: ScoredAnswer, kind: str, square: int | None) -> dict[str, Any]:
    """`panels`: the grids of the kept tokens, all images' in one list; `one`: they are of one image."""
    panels = _panels(row, square)
    return {
        "text": _short(row["answer"]),
        "score": row["score"],
        "kind": kind,
        "error": row["error"],
        "whole": row.get("whole", False),
        "one": len(panels) == 1,
        "panels": [panel for image in panels for panel in image],
        "kept": row.get("kept") if panels else None,
    }


def _panels(row: ScoredAnswer, square: int | None) -> list[list[list[int]]]:
    """The grids of a sample's images, see `AnswerRecord`. An older record has none."""
    older = _square(math.isqrt(row["visual_tokens"]), square) if row["visual_tokens"] == square else []
    return row.get("panels", [older] if older else [])


def _square(side: int | None, tokens: int | None) -> list[list[int]]:
    """The grid of an older answer: one square, if that are the `tokens` of the model's own image. Else nothing."""
    return [[1, side, side, 0]] if side is not None and side**2 == tokens else []


def with_panels(tasks: dict[str, list[dict[str, Any]]], document: ResultDocument) -> None:
    """Turn the answers of an older page, which state the `side` of a square, into those of this one."""
    tokens = {cell_key(cell): cell["image_tokens"] for cell in document["cells"]}
    for sample in (sample for samples in tasks.values() for sample in samples):
        sample.setdefault("whole", None)
        for key, answer in sample["answers"].items():
            answer.setdefault("reading", None)
            answer.setdefault("error", None)
            if "panels" not in answer:
                panels = _square(answer.pop("side", None), tokens.get(key))
                answer |= {"whole": False, "one": bool(panels), "panels": panels}
                answer["kept"] = answer["kept"] if panels else None
