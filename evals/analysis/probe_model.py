"""The lmms-eval model of an analysis: it runs the probes on each request instead of only generating."""

from __future__ import annotations

import functools
import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

from lmms_eval.api.instance import GenerationResult

from evals.analysis.probe_settings import ProbeSettings
from evals.model.lmms_model import HidropLlava
from evals.model.requests import Record, Request, TokenizedPrompt, ends_of, inputs_of

if TYPE_CHECKING:
    import torch

    from evals.tasks.protocol import Prepared
    from hidrop.models import Loaded

# Number of preprocessed images of other samples to cache.
SHOWN = 8


class ProbeModel(HidropLlava):
    """Answers like the unreduced model and stores each sample's probes in its record as `probe`."""

    probes: ProbeSettings

    @classmethod
    def on(
        cls,
        loaded: Loaded,
        probes: ProbeSettings,
        protocol: str,
        batch_size: int,
        record: Callable[[list[Record]], None],
        done: Mapping[tuple[str, int], Record],
        workers: int,
    ) -> Self:
        made = cls.from_loaded(loaded, None, protocol, batch_size, record, done=done, workers=workers)
        made.probes = probes
        return made

    def generate_until(self, requests: Sequence[Any]) -> list[GenerationResult]:
        self._asked = [Request.of(place, instance) for place, instance in enumerate(requests)]
        self._names: dict[int, str | None] = {}
        self._shown = functools.lru_cache(SHOWN)(lambda place: self._images_of(self._asked[place]))
        self._reference = next(self._different(0, frozenset()), None)
        return super().generate_until(requests)

    def _prompt(self, request: Request, prepared: Prepared) -> TokenizedPrompt | str:
        """The parent's prompt, or an error message for a sample without an image."""
        prompt = super()._prompt(request, prepared)
        if isinstance(prompt, TokenizedPrompt) and prompt.images == 0:
            return "no image: the sample has no visual tokens to probe"
        return prompt

    def _made(self, prompts: Sequence[TokenizedPrompt], reduction: Any) -> list[Record]:
        """Records with the unreduced answers and the probes."""
        started = time.perf_counter()
        found = self._probe(prompts, reduction)
        milliseconds = 1000 * (time.perf_counter() - started) / len(prompts)
        return [
            {"answer": answer, "new_tokens": length, "milliseconds": milliseconds, "probe": probe}
            for answer, length, probe in found
        ]

    def _probe(self, prompts: Sequence[TokenizedPrompt], reduction: Any) -> list[tuple[str, int, Record]]:
        """For each prompt: the unreduced answer, its number of tokens, and the probes."""
        import torch

        from hidrop.analysis import probes, sweeps
        from hidrop.analysis.walk import Walk

        settings, (ends, pad) = prompts[0].request.settings, ends_of(self.loaded)
        inputs = inputs_of(prompts, pad, self.loaded.backbone)
        decoding = sweeps.Decoding(self._longest(settings, inputs["input_ids"].shape[1]), ends)
        with torch.inference_mode():
            walk = Walk(reduction.forward_pass, inputs)
            seeds = [prompt.request.doc_id for prompt in prompts]
            leaving = sweeps.Leaving(walk, decoding, self.probes.shares, seeds)
            measured = probes.measure(walk, top=self.probes.top, windows=self.probes.windows, at=leaving)
            features = walk.features
            del walk, leaving.walk  # frees its keys and values
            cross = self._cross(prompts, pad, reduction)
            entered: list[sweeps.Answers] = []
            if self.probes.inject:
                entered = sweeps.entering(Walk(reduction.forward_pass, inputs, features=features, blind=True), decoding)

        def texts(answers: Sequence[sweeps.Answers], row: int) -> list[str]:
            return [self._text(rows[row], settings) for rows in answers]

        return [
            (
                self._text(leaving.own[row], settings),
                len(leaving.own[row]),
                {
                    "intra": {name: _listed(curve[row]) for name, curve in measured.intra.items()},
                    "cross": None if cross is None else _listed(cross[row]),
                    "mass": _listed(measured.mass[row]),
                    "ilvas": {str(n): _listed(curve[row]) for n, curve in measured.ilvas.items()},
                    "top": measured.top[row],
                    "exits": {f"{share:g}": texts(answers, row) for share, answers in leaving.answers.items()},
                    "inject": texts(entered, row) or None,
                },
            )
            for row in range(len(prompts))
        ]

    def _cross(self, prompts: Sequence[TokenizedPrompt], pad: int, reduction: Any) -> torch.Tensor | None:
        """Cross-modal similarity (B, L) of each prompt with another sample's image and with the reference image.

        None for prompts with several images, because the image to exchange is not defined, and for samples with fewer
        than three different images.
        """
        from hidrop.analysis.probes import cross_modal
        from hidrop.analysis.walk import Walk

        if prompts[0].images != 1 or self._reference is None:
            return None
        pairs = []
        for prompt in prompts:
            own = self._image(prompt.request.place)
            known = frozenset(name for name, _ in (own, self._reference) if name) if own else frozenset()
            other = next(self._different(prompt.request.place + 1, known), None)
            if other is None:  # fewer than three different images
                return None
            pairs.append([self._exchanged(prompt.request, place) for _, place in (other, self._reference)])
        sides = [[one for one in side if one is not None] for side in zip(*pairs, strict=True)]
        if any(len(side) < len(prompts) for side in sides):
            return None
        walks = [Walk(reduction.forward_pass, inputs_of(side, pad, self.loaded.backbone)) for side in sides]
        return cross_modal(*walks)

    def _exchanged(self, request: Request, place: int) -> TokenizedPrompt | None:
        """A request with the image of the request at `place`; None if they make no prompt."""
        prepared = self._images_of(request, self._asked[place])
        prompt = prepared if isinstance(prepared, str) else self._prompt(request, prepared)
        return None if isinstance(prompt, str) else prompt

    def _different(self, first: int, known: frozenset[str]) -> Iterator[tuple[str, int]]:
        """(name of the image, place) of requests from index `first` on, cyclically, without images in `known`."""
        for step in range(len(self._asked)):
            place = (first + step) % len(self._asked)
            if self._names.get(place, "") is None or self._names.get(place) in known:
                continue
            found = self._image(place)
            if found is not None and found[0] not in known:
                yield found

    def _image(self, place: int) -> tuple[str, int] | None:
        """A hash of the content of a request's only image, and its place; None for zero or several images."""
        shown = self._shown(place)
        self._names[place] = None
        if isinstance(shown, str) or shown.inputs is None or shown.images != 1:
            return None
        digest = hashlib.sha256()
        for key in sorted(shown.inputs):
            digest.update(shown.inputs[key].contiguous().numpy().tobytes())
        name = self._names[place] = digest.hexdigest()
        return name, place


def _listed(row: torch.Tensor) -> list[float | None]:
    """The row as a list for JSON, with None for NaN."""
    return [None if value != value else round(value, 6) for value in row.tolist()]
