"""The samples of a page: question, images or frames, each row's answer, and the tokens it kept.

Samples are chosen from the journals, so that every row has samples on which it differs from vanilla. Questions and
images come from the task's data. If journals or data are missing, the page shows less and a note gives the reason.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evals.report.flip_lists import Lists, lists_of
from evals.report.page_data import KINDS, size
from evals.report.page_pictures import MOST, Picture, ShownSample, View, check_films, read, sampling_of, short
from evals.store.folders import samples_file, samples_of
from evals.store.journal import header_of
from evals.store.records import ScoredAnswer
from evals.store.result_document import CellEntry, ResultDocument, cell_key, protocol_of
from evals.tasks.base import RIGHT
from evals.tasks.data import TaskSpec, data_digest
from hidrop.errors import UserError
from hidrop.videos import Sampling


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
        identities = {key: _identity(*where[key]) for key in answers}
        found.identities |= identities
        kinds = {
            key: kinds_of(rows, answers.get(str(own[key]["base"]), ()), lower=own[key].get("lower_is_better", False))
            for key, rows in answers.items()
        }
        found.flips |= lists_of(kinds)
        docs = chosen(kinds, samples)
        asked = _asked(document, task, identities, docs, found.notes)
        squares = {key: own[key]["image_tokens"] for key in answers}
        samplings = {key: sampling_of(identity) for key, identity in identities.items()}
        rooms = room // len(tasks), answers_room // len(tasks)
        found.tasks[task] = _listed(docs, answers, kinds, squares, samplings, asked, found, rooms)
    if not found.tasks and document["cells"]:
        found.notes.append(f"no samples: {folder / 'samples'} is missing. Run the matrix, then write the report again")
    return found


def chosen(kinds: Mapping[str, Mapping[int, str]], count: int) -> list[int]:
    """`count` doc_ids: a lost sample of every row, then a gained and a changed one, then a second of each, and so on.

    A sample that one row lost is often lost by others too, and counts for all of them.
    """
    docs = dict.fromkeys(doc for row in kinds.values() for doc in row)
    queues = {
        (kind, key): iter([doc for doc in docs if row.get(doc) == kind])
        for kind in KINDS[:3]
        for key, row in kinds.items()
    }
    found, shown = dict[int, None](), Counter[tuple[str, str]]()
    for each in range(1, count + 1):
        for name, queue in queues.items():
            if shown[name] >= each or (doc := next((doc for doc in queue if doc not in found), None)) is None:
                continue
            found[doc] = None
            shown.update((row[doc], key) for key, row in kinds.items() if doc in row)
        if len(found) >= count:
            break
    return list({**found, **docs})[:count]  # filled up with samples that did not change


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
    docs: Sequence[int],
    notes: list[str],
) -> dict[int, ShownSample]:
    """Question and pictures of each sample, by doc_id. If the data is missing or differs: empty, and a note is added.

    identities: of the task's cells, by key.
    """
    digests = {str(identity["data"]) for identity in identities.values()}
    version = document.get("data_versions", {}).get(task)
    try:
        spec = TaskSpec(task, str(document["data"].get(task)), protocol_of(document, task), version)
        if spec.data == "None":
            raise UserError("the document does not name the data of this task")
        if digests != {data_digest(spec)}:
            raise UserError(f"'{spec.data}' differs from the data that the run read")
        check_films(spec, list(identities.values()))
        samplings = dict.fromkeys(map(sampling_of, identities.values()))
        problems: list[str] = []
        found = dict(read(spec, docs, list(samplings), problems))
        if problems:
            notes.append(f"{task}: pictures of {len(problems)} of {len(docs)} samples: {problems[0]}")
        return found
    except (UserError, OSError) as error:
        notes.append(f"{task}: no questions and images: {error}")
        return {}


def _listed(
    docs: Sequence[int],
    answers: Mapping[str, Sequence[ScoredAnswer]],
    kinds: Mapping[str, Mapping[int, str]],
    squares: Mapping[str, int | None],
    samplings: Mapping[str, Sampling | None],
    asked: Mapping[int, ShownSample],
    found: PageSamples,
    rooms: tuple[int, int],
) -> list[dict[str, Any]]:
    """A task's samples, until their images or their answers fill the `rooms`, in characters.

    By the key of each cell: `answers`, its samples; `squares`, the tokens of its image (see `_panels`); `samplings`,
    the frames that its model is shown. Samples have fewer pictures if that gives all samples room.
    """
    room, answers_room = rooms
    by_doc = {doc: dict[str, ScoredAnswer]() for doc in docs}
    for key, rows in answers.items():
        for row in rows:
            if row["doc_id"] in by_doc:
                by_doc[row["doc_id"]][key] = row
    samples: dict[int, dict[str, Any]] = {}
    for doc, own in by_doc.items():
        sample = _sample(doc, own, kinds, squares, asked.get(doc))
        answers_room -= size(sample)
        if answers_room < 0:
            found.notes.append(
                f"{len(docs) - len(samples)} of {len(docs)} samples: the page has no room for more answers"
            )
            break
        samples[doc] = sample
    views = {doc: _views(by_doc[doc], asked.get(doc), samplings) for doc in samples}
    most = _pictures_each([view for own in views.values() for view in own.values()], found, room)
    listed: list[dict[str, Any]] = []
    for doc, sample in samples.items():
        seen = {key: view.fewer(most) for key, view in views[doc].items()}
        new = _new_images(list(seen.values()), found)
        room -= sum(map(len, new))
        if new and room < 0:
            found.notes.append(
                f"{len(docs) - len(listed)} of {len(docs)} samples: the page has no room for more images"
            )
            break
        found.images += new
        _show(sample, by_doc[doc], seen, squares, found.images)
        listed.append(sample)
    return listed


def _sample(
    doc: int,
    rows: Mapping[str, ScoredAnswer],
    kinds: Mapping[str, Mapping[int, str]],
    squares: Mapping[str, int | None],
    asked: ShownSample | None,
) -> dict[str, Any]:
    """A sample without pictures: see `_show`."""
    one = next(iter(rows.values()))
    answers = {key: _answer(row, kinds[key][doc], squares[key]) for key, row in rows.items()}
    readings = list(dict.fromkeys(str(row["reading"]) for row in rows.values()))
    for key, row in rows.items():  # equal answers have equal numbers
        answers[key]["reading"] = readings.index(str(row["reading"]))
    return {
        "doc": doc,
        "question": asked.question if asked else "",
        "views": [],
        "target": _target(one["target"]),
        "category": one["category"],
        "answers": answers,
    }


def _show(
    sample: dict[str, Any],
    rows: Mapping[str, ScoredAnswer],
    views: Mapping[str, View],
    squares: Mapping[str, int | None],
    images: Sequence[str],
) -> None:
    """Add the pictures to a sample that each row's model sees, and which grids of its tokens are on which of them.

    `images`: those of the page, in their order.
    """
    numbers = {url: number for number, url in enumerate(images)}
    shown = [view for view in dict.fromkeys(views.values()) if view.pictures]
    for view in shown:
        pictures = [[numbers[picture.url], picture.label] for picture in view.pictures]
        sample["views"].append({"pictures": pictures, "more": view.more})
    for key, answer in sample["answers"].items():
        on, span = views[key].grids(_panels(rows[key], squares[key])) or (None, 1)
        answer |= {"view": shown.index(views[key]) if views[key] in shown else None, "on": on, "span": span}


def _views(
    rows: Mapping[str, ScoredAnswer], asked: ShownSample | None, samplings: Mapping[str, Sampling | None]
) -> dict[str, View]:
    """What the model of each row sees of a sample. A row that does not say whether it sees all of an image, such as a
    failed one, is taken for one of the others.
    """
    stated = {row["whole"] for row in rows.values() if "whole" in row}
    wholes = {key: row.get("whole", stated == {True}) for key, row in rows.items()}
    return {key: asked.view((whole, samplings[key])) if asked else View() for key, whole in wholes.items()}


def _pictures_each(views: Sequence[View], found: PageSamples, room: int) -> int:
    """How many pictures a view may have for all of them to have room; at least 1."""
    each = list(dict.fromkeys(views))
    for most in range(MOST, 1, -1):
        if sum(map(len, _new_images([view.fewer(most) for view in each], found))) <= room:
            return most
    return 1


def _new_images(views: Sequence[View], found: PageSamples) -> list[str]:
    """The images of these views that the page does not have yet, each once."""
    known = set(found.images)
    urls = dict.fromkeys(picture.url for view in views for picture in view.pictures)
    return [url for url in urls if url not in known]


def _target(target: Any) -> str:
    return short(", ".join(dict.fromkeys(map(str, target))) if isinstance(target, list) else str(target))


def _answer(row: ScoredAnswer, kind: str, square: int | None) -> dict[str, Any]:
    """`panels`: the grids of the kept tokens, all images' in one list. For the rest of SHAPE see `_show`."""
    panels = _panels(row, square)
    return {
        "text": short(row["answer"]),
        "score": row["score"],
        "kind": kind,
        "error": row["error"],
        "view": None,
        "panels": [panel for image in panels for panel in image],
        "on": None,
        "span": 1,
        "kept": row.get("kept") if panels else None,
    }


def _panels(row: ScoredAnswer, square: int | None) -> list[list[list[int]]]:
    """The grids of a sample's images, see `AnswerRecord`. An older record has none."""
    older = _square(math.isqrt(row["visual_tokens"]), square) if row["visual_tokens"] == square else []
    return row.get("panels", [older] if older else [])


def _square(side: int | None, tokens: int | None) -> list[list[int]]:
    """The grid of an older answer: one square, if that are the `tokens` of the model's own image. Else nothing."""
    return [[1, side, side, 0]] if side is not None and side**2 == tokens else []


def convert_older(tasks: dict[str, list[dict[str, Any]]], document: ResultDocument) -> None:
    """Give the samples of a page that an earlier version wrote the form of this one's.

    They have one image (`image`: the part that the protocol shows, `whole`: all of it), whose grids are known if there
    is only `one`. The oldest state the `side` of a square.
    """
    tokens = {cell_key(cell): cell["image_tokens"] for cell in document["cells"]}
    for sample in (sample for samples in tasks.values() for sample in samples if "views" not in sample):
        images = {False: sample.pop("image"), True: sample.pop("whole", None)}
        there = [whole for whole, image in images.items() if image is not None]
        sample["views"] = [{"pictures": [[images[whole], ""]], "more": ""} for whole in there]
        for key, answer in sample["answers"].items():
            answer.setdefault("reading", None)
            answer.setdefault("error", None)
            if "panels" not in answer:
                panels = _square(answer.pop("side", None), tokens.get(key))
                answer |= {"one": bool(panels), "panels": panels, "kept": answer["kept"] if panels else None}
            whole, one = answer.pop("whole", False), answer.pop("one")
            grids = View((Picture(""),), (1,)).grids([answer["panels"]]) if one and whole in there else None
            on, span = grids or (None, 1)
            answer |= {"view": there.index(whole) if whole in there else None, "on": on, "span": span}
