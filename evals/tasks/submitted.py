"""Tasks whose right answers only a server has: the file that it takes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from evals.tasks.base import MISSING, TO_SUBMIT, Answer, Doc, Submission, Task, empty, no_text


class Submitted(Task):
    """A task whose answers go to a server, as a JSON list with an entry for each document."""

    unscored = TO_SUBMIT
    server: str  # where to submit the file, in words

    def row_problem(self, doc: Doc) -> tuple[str, str] | None:
        if found := no_text(doc, "question"):
            return found
        return next(((name, MISSING) for name in self.key_columns if empty(doc[name])), None)

    def target(self, doc: Doc) -> Any:
        return None

    def entry(self, answer: Answer, protocol: str) -> dict[str, Any]:
        """What the server's file says about a document. A failed sample has the answer ""."""
        raise NotImplementedError

    def submission(self, answers: Sequence[Answer], protocol: str) -> Submission:
        entries = [self.entry(answer, protocol) for answer in answers]
        return Submission(f"{self.name}.json", json.dumps(entries), self.server)
