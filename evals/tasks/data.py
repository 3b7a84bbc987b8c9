"""Where the four tasks' data lives: the embedded benchmark, a local folder, or the Hub.

A local folder holds the parquet files of the Hub's dataset repositories as they are, so that one `hf download` makes
it. For `data: data` or `data: data/pope` these are all found:

    data/gqa/testdev_balanced_instructions/testdev-*.parquet   questions (lmms-lab-encoder/GQA)
    data/gqa/testdev_balanced_images/testdev-*.parquet         their images, joined by imageId
    data/mmbench/en/dev-*.parquet                              lmms-lab-encoder/MMBench
    data/textvqa/data/validation-*.parquet                     lmms-lab-encoder/textvqa
    data/pope/data/test-*.parquet                              lmms-lab-encoder/POPE

The embedded benchmark's own layout (gqa/testdev.parquet, which holds its images, and so on) is found the same way.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path

from hidrop.errors import UserError, did_you_mean

MINI, HUB = "mini", "hub"


@dataclass(frozen=True)
class Source:
    """An official task's data: its repository on the Hub, the files in it, and the columns that are read."""

    repository: str
    config: str | None
    split: str
    folder: str
    files: str
    columns: tuple[str, ...]
    rows: int  # of the official file, for estimates where it is not at hand
    images: str | None = None

    @property
    def plain(self) -> str:
        """The file's name in the embedded benchmark's layout."""
        return f"{self.split}.parquet"

    @property
    def command(self) -> str:
        """The command that puts the official files where they are looked for, under data/."""
        wanted = " ".join(f'--include "{pattern}"' for pattern in (self.files, self.images) if pattern)
        return f"hf download --repo-type dataset {self.repository} {wanted} --local-dir data/{self.folder}"


SOURCES: dict[str, Source] = {
    "gqa": Source(
        "lmms-lab-encoder/GQA",
        "testdev_balanced_instructions",
        "testdev",
        "gqa",
        "testdev_balanced_instructions/*.parquet",
        ("question", "answer"),
        12578,
        images="testdev_balanced_images/*.parquet",
    ),
    "mmbench_en_dev": Source(
        "lmms-lab-encoder/MMBench",
        "en",
        "dev",
        "mmbench",
        "en/dev-*.parquet",
        ("index", "question", "hint", "answer", *"ABCD", "category", "L2-category", "image", "source", "split"),
        4329,
    ),
    "textvqa_val": Source(
        "lmms-lab-encoder/textvqa",
        None,
        "validation",
        "textvqa",
        "data/validation-*.parquet",
        ("question", "question_id", "answers", "ocr_tokens", "image"),
        5000,
    ),
    "pope": Source(
        "lmms-lab-encoder/POPE",
        None,
        "test",
        "pope",
        "data/test-*.parquet",
        ("question", "question_id", "answer", "category", "image"),
        9000,
    ),
}
NAMES = tuple(SOURCES)
# Where a document may say which image it is about.
IMAGE_COLUMNS = ("imageId", "image_id", "image_source")


@dataclass(frozen=True)
class TaskSpec:
    """One task, its data ("mini", "hub", or a folder) and the protocol it is asked under.

    Raises UserError for an unknown task.
    """

    name: str
    data: str = MINI
    protocol: str = "llava"

    def __post_init__(self) -> None:
        if self.name not in SOURCES:
            hint = did_you_mean(self.name, NAMES)
            raise UserError(f"unknown task '{self.name}'.{hint} Known: {', '.join(NAMES)}")

    @property
    def source(self) -> Source:
        return SOURCES[self.name]


@dataclass(frozen=True)
class Files:
    """The parquet files of a task; `images` only where they are kept apart from the questions (GQA)."""

    questions: tuple[Path, ...]
    images: tuple[Path, ...] = ()


def locate(spec: TaskSpec) -> Files:
    """The files behind a spec whose data is local; the embedded benchmark is built on first use.

    What is not there is left empty: `missing` says it in words.
    """
    if spec.data == HUB:
        raise ValueError("the Hub's files are not local")
    if spec.data == MINI:
        from hidrop.mini import ensure

        root = Path(ensure())
    else:
        root = Path(spec.data).expanduser()
    source = spec.source
    for place in (root / source.folder, root / source.repository.split("/")[1], root):
        if questions := tuple(sorted(place.glob(source.files))):
            return Files(questions, tuple(sorted(place.glob(source.images))) if source.images else ())
        if (place / source.plain).is_file():
            return Files((place / source.plain,))
    return Files(())


def missing(spec: TaskSpec) -> list[str]:
    """What keeps a task from running, each with the command or path that provides it; empty if nothing does.

    Reads file footers only. For the Hub nothing is checked, because that would already need the network.
    """
    import pyarrow.parquet as parquet

    if spec.data == HUB:
        return []
    source, files = spec.source, locate(spec)
    if not files.questions:
        return [
            f"{spec.name}: no data in '{spec.data}' (looked for {source.folder}/{source.files}). "
            f"Get it with: {source.command}"
        ]
    problems = []
    for path in (*files.questions, *files.images):
        try:
            there = set(parquet.read_schema(path).names)
        except (OSError, ValueError) as error:  # pyarrow's own errors derive from ValueError
            problems.append(f"{spec.name}: cannot read {path}: {error}. Get it again with: {source.command}")
            continue
        wanted = {"id", "image"} if path in files.images else set(source.columns)
        if source.images and path in files.questions:
            wanted |= {"imageId"} if files.images else {"image"}
        for column in sorted(wanted - there):
            apart = column == "image" and source.images
            way = f" and {source.folder}/{source.images} is not there. Get it with: {source.command}" if apart else ""
            problems.append(f"{spec.name}: {path} has no column '{column}'{way}")
    return problems


def rows_of(spec: TaskSpec) -> int:
    """How many documents a task has, by the footers of its files; where they are not there, the official number."""
    import pyarrow.parquet as parquet

    files = () if spec.data == HUB else locate(spec).questions
    return sum(parquet.read_metadata(path).num_rows for path in files) or spec.source.rows


def data_digest(spec: TaskSpec) -> str:
    """sha256 over the names and contents of the parquet files; for the Hub, the dataset's current commit."""
    if spec.data == HUB:
        from huggingface_hub import HfApi

        return f"{spec.source.repository}@{HfApi().dataset_info(spec.source.repository).sha}"
    files, digest = locate(spec), hashlib.sha256()
    for path in (*files.questions, *files.images):
        state = path.stat()
        digest.update(f"{path.parent.name}/{path.name}\0{_content(path, state.st_size, state.st_mtime_ns)}\n".encode())
    return digest.hexdigest()


@functools.lru_cache(maxsize=256)
def _content(path: Path, size: int, changed: int) -> str:
    """sha256 of a file. `size` and `changed` are the cache's key: a file that was replaced is read again."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
