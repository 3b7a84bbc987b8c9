"""A loaded model with what every kind of request needs: documents, prompts, the method, and earlier answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from lmms_eval.api.model import lmms

from evals.model.documents import unturned
from evals.model.requests import Batch, Record, Request, TokenizedPrompt
from evals.store.kept_tokens import cuts_of
from evals.tasks.protocol import Prepared, Smaller, imitated_class
from evals.tasks.protocol import protocol as protocol_called
from evals.tasks.video_files import apart
from hidrop.errors import UserError, in_a_line
from hidrop.images import as_rgb
from hidrop.videos import Video, VideoFile

if TYPE_CHECKING:
    import torch

    from hidrop.models import Loaded
    from hidrop.reducer import Reducer
    from hidrop.runtime import Reduction
    from hidrop.runtime.cuda_graphs import Graphs


def every_batch(number: int) -> bool:
    """The batches of a single process: all."""
    return True


class AskedModel(lmms):
    """Base of `HidropLlava`: what it does for requests of every kind.

    `failures` maps (task, doc_id) to the error of each sample that could not be prepared, and `trace` is the trace of
    the last prefill that was counted.
    """

    is_simple = True

    def _set_up(
        self,
        loaded: Loaded,
        reducer: Reducer | None,
        protocol: str,
        batch_size: int,
        record: Callable[[list[Record]], None] | None = None,
        max_new_tokens: int | None = None,
        done: Mapping[tuple[str, int], str | Record] | None = None,
        workers: int = 0,
        mine: Callable[[int], bool] = every_batch,
        graphs: Graphs | None = None,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise UserError(f"batch_size: must be at least 1, not {batch_size}")
        from hidrop.methods import build

        self.loaded, self.reducer = loaded, reducer or build("vanilla")
        self.protocol, self._batch_size = protocol_called(protocol), batch_size
        self.protocol.check(loaded.backbone)
        self._asking = self.protocol.asking(loaded.backbone)
        # A method that gives the processor a smaller image leaves nothing to reduce.
        self._smaller: Smaller | None = None
        if self.reducer.shrinks and loaded.backbone.token_side:
            self._smaller = partial(self.reducer.smaller, geometry=loaded.geometry)
        self.max_new_tokens = max_new_tokens
        self.failures: dict[tuple[str, int], str] = {}
        self.trace: Any = None
        self._record, self._done = record, dict(done or {})
        self._workers, self._mine, self._graphs = workers, mine, graphs
        self._frames: int | None = None
        self._fps: float | None = None
        self._unturned: dict[tuple[str, str], tuple[Any, Any]] = {}  # the documents that were given, and without EXIF

    @property
    def batch_size(self) -> int:
        return self._batch_size

    @property
    def device(self) -> torch.device:
        return self.loaded.model.device

    @property
    def asks_as(self) -> str | None:
        """lmms-eval's model class whose questions are asked, where a task has some of its own for it."""
        return imitated_class(self.protocol.name, type(self.loaded.backbone))

    def clean(self) -> None:
        """Does nothing. lmms-eval would delete the model after a task, but the next cell needs it."""

    def _reduced(self) -> Reduction:
        """The model with the method, as a context manager; without one where the processor makes images smaller."""
        from hidrop.methods import build
        from hidrop.runtime import reduce

        running = self.reducer if self._smaller is None else build("vanilla")
        return reduce(self.loaded.model, running, features=self.loaded.features, graphs=self._graphs)

    def _earlier(self, key: tuple[str, int]) -> str | None:
        """A sample's recorded answer of an earlier run. Also restores its failure."""
        earlier = self._done.get(key)
        if earlier is None or isinstance(earlier, str):
            return earlier
        if earlier.get("error"):
            self.failures[key] = earlier["error"]
        answer: str = earlier["answer"]
        return answer

    def _images(self, batch: Batch) -> list[Prepared | str]:
        """Each request with its images, or the error of its sample. Runs in a worker thread."""
        return [self._images_of(request) for request in batch.requests]

    def _documents(self, task: str, split: str) -> Any:
        """The documents of a split, with images turned by their EXIF data only if the protocol does so."""
        documents = self.task_dict[task][split]
        if self.protocol.turns_images:
            return documents
        known = self._unturned.get((task, split))
        if known is None or known[0] is not documents:
            known = self._unturned[task, split] = documents, unturned(documents)
        return known[1]

    def _images_of(self, request: Request, shown: Request | None = None) -> Prepared | str:
        """A request with its images, or with those of the request `shown`; the error of its sample."""
        shown = shown or request
        try:
            doc = self._documents(shown.task, shown.split)[shown.doc_id]
            images, files = apart(shown.visuals(doc) or ())
            videos = [self._video(file) for file in files]
            rgb = [as_rgb(image) for image in images]
            return self.protocol.prepare(self.loaded, request.context, rgb, self._smaller, videos)
        except (UserError, MemoryError):
            raise
        except Exception as error:  # PIL and the processor raise many types for a broken file
            return in_a_line(error)

    def _video(self, file: VideoFile) -> Video:
        return file.read(self.protocol.sampling(self.loaded.backbone, self._frames, self._fps))

    def _prompt(self, request: Request, prepared: Prepared) -> TokenizedPrompt | str:
        """The prompt of a request, or the error of a prompt that is too long."""
        ids, longest = prepared.ids, self.loaded.geometry.max_positions
        if len(ids) >= longest:
            return f"the prompt has {len(ids)} tokens, but the model has only {longest} positions"
        vision = self.loaded.backbone.vision(prepared.inputs or {})
        # Not known: of images and videos in turns, whose grids are not in the order of the prompt, and of an image that
        # a method has made smaller, as the record's tokens are those of the whole one.
        panels = () if vision is None or all(vision.backbone.media(vision.inputs)) else vision.panels
        unplaced = 0 if vision is None else prepared.visual_tokens - sum(vision.sizes)
        if unplaced:
            panels = ()
        made = ids, prepared.inputs, prepared.images, prepared.visual_tokens, prepared.videos, panels
        return TokenizedPrompt(request, *made, whole=self.loaded.backbone.sees_whole, unplaced=unplaced)

    def _counted(self, prompts: Sequence[TokenizedPrompt], reduction: Any) -> list[Record]:
        """The fields `entering` and `kept` of each prompt's record, after a prefill of all of them."""
        reduction.check()
        self.trace = reduction.trace
        counted = self.trace.rows[:: len(self.trace.rows) // len(prompts)]  # with beams a prompt has several
        planned = reduction.plan.entering if self._smaller is None else None
        entered = [None if row == planned else list(row) for row in counted]
        kept = cuts_of(reduction, [prompt.visual_tokens for prompt in prompts])
        return [{"entering": entering, "kept": cuts} for entering, cuts in zip(entered, kept, strict=True)]
