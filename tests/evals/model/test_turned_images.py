"""EXIF orientation: `llava` does not turn images and `lmms-eval` does, in a matrix and on lmms-eval's command line."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from evals.model.documents import unturned
from evals.tasks import TaskSpec, evaluate
from evals.tasks.build import build, decode

SIZE = (48, 32)
SIDEWAYS = 6  # the EXIF orientation of a picture that was taken with the camera turned by a quarter


def photo(orientation: int | None = SIDEWAYS) -> dict[str, Any]:
    """A wide file, red at the left and blue at the right; turned it is high, with the red at the top."""
    image, buffer = Image.new("RGB", SIZE, (0, 0, 255)), io.BytesIO()
    image.paste((255, 0, 0), (0, 0, SIZE[0] // 2, SIZE[1]))
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    image.save(buffer, "PNG", exif=exif)
    return {"bytes": buffer.getvalue(), "path": None}


@pytest.fixture
def folder(make_rows: Any, write_parquet: Any, tmp_path: Path) -> Path:
    rows = [{**row, "image": photo(None if i == 1 else SIDEWAYS)} for i, row in enumerate(make_rows("gqa"))]
    write_parquet(rows, tmp_path / "photos/gqa/testdev.parquet")
    return tmp_path / "photos"


def looked(lm: Any) -> list[Any]:
    """Make `lm` write down the images that its protocol gets."""
    seen: list[Any] = []
    own = lm.protocol

    def prepare(loaded: Any, question: str, images: Any, *more: Any) -> Any:
        seen.extend(images)
        return own.prepare(loaded, question, images, *more)

    same = {name: getattr(own, name) for name in ("name", "turns_images", "max_new_tokens")}
    lm.protocol = SimpleNamespace(**same, prepare=prepare)
    return seen


def by_matrix(loaded: Any, folder: Path, protocol: str, tmp_path: Path) -> list[Any]:
    from evals.model.lmms_model import HidropLlava

    lm = HidropLlava.from_loaded(loaded, protocol=protocol, max_new_tokens=2)
    seen = looked(lm)
    evaluate(lm, TaskSpec("gqa", str(folder), protocol))
    return seen


def by_lmms_eval(loaded: Any, folder: Path, protocol: str, tmp_path: Path) -> list[Any]:
    from lmms_eval.evaluator import simple_evaluate
    from lmms_eval.tasks import TaskManager

    from evals.model.lmms_model import HidropLlava
    from evals.tasks.export import export

    lm = HidropLlava.from_loaded(loaded, protocol=protocol, max_new_tokens=2)
    seen = looked(lm)
    simple_evaluate(
        model=lm,
        tasks=export(tmp_path / "tasks", str(folder)).names,
        task_manager=TaskManager(include_defaults=False, include_path=[str(tmp_path / "tasks")]),
        bootstrap_iters=0,
        cli_args=SimpleNamespace(output_path=str(tmp_path), process_with_media=True),
    )
    return seen


@pytest.mark.parametrize("path", [by_matrix, by_lmms_eval])
@pytest.mark.parametrize(("protocol", "turned"), [("llava", False), ("lmms-eval", True)])
def test_a_protocol_sees_the_same_pixels_by_both_paths(
    path: Any, protocol: str, turned: bool, loaded: Any, folder: Path, tmp_path: Path
) -> None:
    seen = sorted(path(loaded, folder, protocol, tmp_path), key=lambda image: image.size)
    high = (SIZE[1], SIZE[0])
    assert [image.size for image in seen] == ([high, high, SIZE] if turned else [SIZE] * 3)
    for image in seen:  # red at the left of a wide image, at the top of a high one
        assert image.getpixel((2, 2)) == (255, 0, 0)
        assert image.getpixel((image.width - 3, image.height - 3)) == (0, 0, 255)


@pytest.mark.parametrize("orientation", [None, *range(1, 9)])
def test_turning_is_what_datasets_does(orientation: int | None) -> None:
    import datasets

    image = photo(orientation)
    official = datasets.Image().decode_example(image)
    mine = decode(image, turned=True)
    assert (mine.size, mine.tobytes()) == (official.size, official.tobytes())
    plain = decode(image)
    assert (plain.size, plain.tobytes()) == (SIZE, decode(photo(None)).tobytes())


def test_images_in_lists_are_not_turned_either() -> None:
    import datasets

    features = datasets.Features({"n": datasets.Value("int64"), "images": datasets.List(datasets.Image())})
    data = datasets.Dataset.from_dict({"n": [5], "images": [[photo(), photo()]]}, features=features)
    assert [image.size for image in data[0]["images"]] == [(SIZE[1], SIZE[0])] * 2
    found = unturned(data)[0]
    assert [image.size for image in found["images"]] == [SIZE] * 2 and found["n"] == 5


def test_a_document_without_an_image_has_none_as_in_datasets() -> None:
    """In lmms-eval's own ScienceQA, for example, such questions are asked as text."""
    import datasets

    features = datasets.Features({"image": datasets.Image(), "more": datasets.List(datasets.Image())})
    rows = {"image": [photo(), None], "more": [[], [None, photo()]]}
    data = datasets.Dataset.from_dict(rows, features=features)
    assert data[1]["image"] is None and data[1]["more"][0] is None
    found = unturned(data)
    assert found[0]["image"].size == SIZE and found[0]["more"] == []
    assert found[1]["image"] is None and found[1]["more"][0] is None and found[1]["more"][1].size == SIZE


def test_documents_without_images_of_their_own_stay_as_they_are(folder: Path) -> None:
    plain = [{"a": 1}]
    assert unturned(plain) is plain
    matrix = build(TaskSpec("gqa", str(folder))).eval_docs  # a matrix decodes its images itself
    assert unturned(matrix) is matrix
