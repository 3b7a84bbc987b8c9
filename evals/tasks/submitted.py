"""Tasks whose right answers only a server has: the file that it takes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from evals.tasks.base import MISSING, TO_SUBMIT, Answer, Doc, Submission, Task, empty, no_text

if TYPE_CHECKING:
    from evals.tasks.asked import Asked


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

    def files(self, asked: Asked, protocol: str) -> dict[str, bytes]:
        """The server's file, with all documents of the data: servers refuse a file that lacks some.

        Those that were not asked, because of a limit or without an order (`Task.order`), have the answer "".
        """
        rest = [Answer(doc, "", failed=True) for doc in self._unasked(asked)]
        made = self.submission([*asked.answers, *rest], protocol)
        return {made.name: made.content.encode()}

    def _unasked(self, asked: Asked) -> Iterator[Doc]:
        """The `key_columns` of the documents that were not asked."""
        docs, known = asked.task.eval_docs_no_media, set(asked.doc_ids)
        if len(known) < len(docs):
            keys = zip(*(docs[name][:] for name in self.key_columns), strict=True)
            yield from (
                dict(zip(self.key_columns, key, strict=True)) for place, key in enumerate(keys) if place not in known
            )
        yield from asked.task.left_out
