"""The published runs that `agree` knows by name: what each is, and where its answers are (`published_runs.yaml`)."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from evals.plain_table import aligned
from hidrop import strict_yaml
from hidrop.errors import UserError
from hidrop.strict_yaml import FileName, Flag, StrictModel

FILE = Path(__file__).with_suffix(".yaml")
HEADINGS = ("Name", "Run", "Trained", "Method", "Basis")

Text = Annotated[str, Field(min_length=1)]


class PublishedRun(StrictModel):
    """One run. `file`: its files' name without ending. `method`: its fields as in a matrix, as far as they are known.

    basis: "stated" by the paper or the released code, or "inferred" from the schedule that the paper prints for this
    number of tokens. unknown: the method's fields that nobody has published.
    """

    title: Text
    file: Text
    trained: Flag = False
    method: Annotated[dict[str, Any], Field(min_length=1)]
    basis: Literal["stated", "inferred"]
    unknown: tuple[Text, ...] = ()

    @model_validator(mode="after")
    def _either_known_or_not(self) -> Self:
        if both := sorted(self.method.keys() & set(self.unknown)):
            raise ValueError(f"{both[0]} is in method and in unknown")
        return self

    @property
    def settings(self) -> str:
        """The method's fields in a line, with those that are unknown."""
        known = [str(self.method["name"])] if "name" in self.method else []
        known += [f"{name} {_short(value)}" for name, value in self.method.items() if name != "name"]
        return ", ".join([*known, *(f"{name} unknown" for name in self.unknown)])


class PublishedRuns(StrictModel):
    """All runs of one repository; see the comments of the file."""

    schema_number: Literal[1] = Field(alias="schema")
    repository: Text
    url: Text
    commit: Text
    get: Text
    folders: dict[str, Text]
    endings: dict[str, Annotated[tuple[Text, ...], Field(min_length=1)]]
    notes: tuple[Text, ...]
    runs: dict[FileName, PublishedRun]

    @model_validator(mode="after")
    def _one_form_for_each_task(self) -> Self:
        if self.folders.keys() != self.endings.keys():
            raise ValueError("folders and endings have to name the same tasks")
        return self

    def run(self, name: str) -> PublishedRun:
        """Raises UserError with a suggestion for an unknown name."""
        if name not in self.runs:
            raise UserError(f"--published {name}: unknown.{strict_yaml.suggestion(name, self.runs)} {LIST}")
        return self.runs[name]

    def find(self, name: str, folder: Path | None, task: str) -> Path:
        """The file of a run's answers to a task, below a clone of the repository, or in the folder of the answers.

        Raises UserError, with the command that gets the files, if it is not there or there is no such run or task.
        """
        run = self.run(name)
        if task not in self.folders:
            raise UserError(
                f"--published {name}: {self.repository} has answers to {', '.join(self.folders)}, not {task}"
            )
        way = f"Get them with `{self.get}`, and give the folder as --answers"
        if folder is None:
            raise UserError(f"--published {name}: name the folder of {self.repository}'s files as --answers. {way}")
        if not folder.is_dir():
            raise UserError(f"--answers {folder}: not a folder, in which --published {name} could be found. {way}")
        names = [run.file + ending for ending in self.endings[task]]
        places = [place / name for place in (folder / self.folders[task], folder) for name in names]
        for place in places:
            if place.is_file():
                return place
        raise UserError(
            f"--answers {folder}: no {self.folders[task]}/{' or '.join(names)} for --published {name}. {way}"
        )

    def text(self) -> str:
        """The list of all runs."""
        rows = [
            (name, run.title, "yes" if run.trained else "no", run.settings, run.basis)
            for name, run in self.runs.items()
        ]
        about = [f"Answers to {', '.join(self.folders)} in {self.url} (commit {self.commit[:7]})", f"  {self.get}"]
        return "\n".join([*about, "", *aligned([HEADINGS, *rows]), "", *(f"- {note}" for note in self.notes)])

    def document(self) -> dict[str, Any]:
        """The same for --json."""
        return self.model_dump(mode="json", by_alias=True)


LIST = "`agree --list-published` lists them all"


@functools.cache
def published_runs() -> PublishedRuns:
    return strict_yaml.checked(PublishedRuns, strict_yaml.read(FILE, FILE.name), FILE.name)


def _short(value: Any) -> str:
    return "-".join(map(str, value)) if isinstance(value, list) else str(value)
