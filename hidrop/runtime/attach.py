"""`reduce(model, method)` turns one multimodal model of transformers into a reduced one, and back.

Only the instance's `forward` is replaced, and the method by which generate() repeats rows for beams. `generate()`
(greedy, sampling, beams), `model(...)`, labels and gradient checkpointing go on working; modules, weights and config
stay what they are.
"""

from __future__ import annotations

from functools import partial
from types import TracebackType
from typing import Any, Self

import torch
from torch import nn
from transformers.cache_utils import Cache

from hidrop.backbones import Backbone, Places, backbone_of
from hidrop.budget import Reading, check_absolute, solve
from hidrop.geometry import Counts, Geometry
from hidrop.methods import build, method_class
from hidrop.plan import TokenPlan
from hidrop.reducer import Reducer
from hidrop.runtime import graph_forward, outputs
from hidrop.runtime.cache import RaggedCache, Replay, cache_for, check_empty
from hidrop.runtime.cuda_graphs import Graphs
from hidrop.runtime.decoder import Decoder
from hidrop.runtime.feature_cache import Encoder
from hidrop.runtime.forward import ForwardPass, check_window
from hidrop.runtime.forward_patch import bound, owner_of
from hidrop.runtime.outputs import ReducedOutput
from hidrop.runtime.repeated_rows import repeat_rows
from hidrop.runtime.trace import Kept, Trace

# Attributes of the model's class that the instance gets of its own.
REPLACED = ("forward", "_expand_inputs_for_generation")


class Reduction:
    """A reduced model: its forward pass, and what it counted. Made by `reduce`.

    A context manager: on leaving the block the model is as before. Without a block, `remove()` does the same.
    """

    def __init__(
        self,
        backbone: Backbone,
        reducer: Reducer,
        features: Encoder | None = None,
        graphs: Graphs | None = None,
    ) -> None:
        """The model itself stays as it is until `attach`. Raises ValueError for a method that does not fit it."""
        self.forward_pass = ForwardPass(backbone, reducer, features)
        self.graphs = graphs
        self._before: dict[str, Any] = {}
        self._attached = False

    @property
    def model(self) -> Any:
        return self.forward_pass.backbone.model

    @property
    def backbone(self) -> Backbone:
        return self.forward_pass.backbone

    @property
    def reducer(self) -> Reducer:
        return self.forward_pass.reducer

    @property
    def geometry(self) -> Geometry:
        return self.forward_pass.geometry

    @property
    def decoder(self) -> Decoder:
        return self.forward_pass.decoder

    @property
    def plan(self) -> TokenPlan:
        """Visual tokens that enter each layer, for one image of the model's own size."""
        return self.forward_pass.plan

    @property
    def trace(self) -> Trace:
        """What the last prefill really held. Raises RuntimeError before the first one."""
        return self.forward_pass.last.trace()

    @property
    def kept(self) -> tuple[Kept, ...]:
        """Which visual tokens each cut of the last prefill left. Raises RuntimeError before the first one."""
        return self.forward_pass.last.kept()

    def check(self) -> None:
        """Compare every prefill since the last check with its plan. Raises TraceMismatch."""
        self.forward_pass.check()

    def attach(self) -> Self:
        """Replace the model's forward. Raises RuntimeError when it is reduced already."""
        if (outer := owner_of(self.model.__dict__.get("forward"))) is not None:
            raise RuntimeError(
                f"this model is already reduced, by {outer!r}: leave that block, or call its remove(), first"
            )
        self._before = {name: self.model.__dict__[name] for name in REPLACED if name in self.model.__dict__}
        # Where generate() finds `mm_encoder_outputs` in the signature, it encodes the images and passes no pixels.
        signature, hidden = self.backbone.signature(), self.backbone.refused_inputs
        self.model.forward = bound(self.model, self.forward, self, signature, hidden)
        own = self.model._expand_inputs_for_generation
        self.model._expand_inputs_for_generation = partial(repeat_rows, self.backbone, own)
        self._attached = True
        return self

    def remove(self) -> None:
        """Put the model's own forward back, then compare what ran with the plan. Raises TraceMismatch.

        A reduction that was removed before does nothing.
        """
        if self._restore():
            self.check()

    def _restore(self) -> bool:
        if not self._attached:
            return False
        self._attached = False
        for name in REPLACED:
            del self.model.__dict__[name]
        self.model.__dict__.update(self._before)
        return True

    def __enter__(self) -> Self:
        if not self._attached:
            raise RuntimeError("this reduction was removed: call reduce() again")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.remove()
        else:
            self._restore()

    def __repr__(self) -> str:
        plan = self.plan
        state = "" if self._attached else ", removed"
        tokens = f"{plan.average_tokens:g} of {plan.geometry.visual_tokens} visual tokens a layer"
        return f"<Reduction of {type(self.model).__name__} by {self.reducer}: {tokens} on average{state}>"

    # ---- the forward that takes the place of the model's own --------------------------------------------------------

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        labels: torch.LongTensor | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        use_cache: bool | None = None,
        return_dict: bool | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        cache: Cache | None = None,
        **inputs: Any,
    ) -> tuple | ReducedOutput:
        """The model's own forward, reduced; `inputs` are those of its images. Differences from transformers:

        - `position_ids` are not read: positions follow from `attention_mask` (padding mask) and the method.
        - `logits` are (B, S, vocab) over the input; places whose token was dropped on the way hold zeros. With
          `logits_to_keep=1`, (B, 1, vocab) of each row's last token, whatever side the padding is on.
        - With `labels` (prefix of -100 before each answer) there is no cache; a token is predicted by the one before
          it in the sequence that leaves the last layer. In training mode `logits` is None, only the loss is computed.
        - The KV cache comes back as a RaggedCache. Raises ValueError for any other cache that is not empty. It may be
          given by either of the names that transformers has had for it, `past_key_values` and `cache`.
        """
        if input_ids is None or inputs_embeds is not None:
            raise ValueError("a reduced model needs input_ids (they say where the image is), not inputs_embeds")
        for name in self.backbone.refused_inputs:
            if inputs.get(name) is not None:
                raise ValueError(f"{name}: a reduced model makes the images' features itself; give their pixels")
        for name in ("output_attentions", "output_hidden_states"):
            if inputs.get(name):
                raise ValueError(f"{name}: a reduced model has sequences of different lengths in its layers")
        vision = self.backbone.vision(inputs)
        given = past_key_values if cache is None else cache
        if isinstance(given, RaggedCache) and given.segments:
            if labels is not None:
                raise ValueError("labels: training starts from the whole prompt, without a cache")
            seen = vision is not None
            return self._continue(input_ids, seen, attention_mask, given, logits_to_keep, return_dict)
        check_empty(given)

        run = self.forward_pass
        first_token = labels is None and isinstance(logits_to_keep, int) and logits_to_keep == 1
        if self.graphs and first_token and graph_forward.possible(run, use_cache, given):
            return graph_forward.prefill(run, self.graphs, input_ids, attention_mask, vision, return_dict)
        layout = run.layout_of(input_ids, attention_mask, vision=vision, labels=labels)
        cache = cache_for(run.decoder.model, given, use_cache, labels is not None)
        made = run.whole(input_ids, layout, run.plan_of(layout), vision, None, cache)
        run.keep(made.record)
        if cache is not None and self.reducer.rechosen:
            mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
            places = Places(layout.position_PBS, layout.next_B)
            kinds = self.backbone.kinds(input_ids)
            visual = made.visual
            cache.replay = Replay(input_ids, mask, kinds, visual.hidden, visual.levels, places, visual.side)

        head, hidden = self.backbone.head, run.decoder.model.norm(made.sequence.hidden)
        loss = None
        if labels is not None:
            loss = outputs.loss(head, hidden, made.sequence, layout, num_items_in_batch)
        logits = None
        if labels is None or not self.model.training:
            logits = outputs.logits(head, hidden, made.sequence, layout, input_ids.shape[1], logits_to_keep)
        images = outputs.image_states(made.images, self.geometry.hidden)
        return outputs.returned(logits, cache, images, return_dict, loss)

    def _continue(
        self,
        input_ids: torch.Tensor,
        seen: bool,
        attention_mask: torch.Tensor | None,
        cache: RaggedCache,
        logits_to_keep: int | torch.Tensor,
        return_dict: bool | None,
    ) -> tuple | ReducedOutput:
        """Text after a cached prompt: one token in decoding, several in a next turn (padded left if at all).

        `seen`: whether there are images among the inputs.
        """
        run, count = self.forward_pass, input_ids.shape[1]
        valid = None
        if count > 1:
            if seen or bool(self.backbone.kinds(input_ids).any()):
                raise ValueError("images come with the first part of a prompt: start again without a cache")
            if attention_mask is not None:
                new = attention_mask[:, -count:].bool()
                valid = None if bool(new.all()) else new
        elif self.graphs is not None:
            logits = self.graphs.step(cache, input_ids, partial(graph_forward.step, run))
            if logits is not None:
                return outputs.returned(logits, cache, None, return_dict)
        check_window(self.backbone, cache.input_length + count)
        cache.release()
        if cache.replay is not None:
            cache.replay = cache.replay.continued(input_ids, valid)
            hidden = run.again(cache.replay, cache)[:, -count:]
        else:
            hidden = run.decoder.step(run.embed(input_ids), valid, cache)
        keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        hidden = run.decoder.model.norm(hidden)
        return outputs.returned(self.backbone.head(hidden[:, keep]), cache, None, return_dict)


def reduce(
    model: nn.Module,
    method: Reducer | str,
    *,
    budget: float | str | None = None,
    reading: Reading = "average",
    features: Encoder | None = None,
    graphs: Graphs | None = None,
    reference_tokens: int | None = None,
    counts: Counts | None = None,
    **fields: Any,
) -> Reduction:
    """Reduce `model`: from now on `generate()` and `model(...)` run with fewer visual tokens.

        with reduce(model, "fastv", keep=64) as reduction:  # on leaving, the model is as before
            model.generate(**inputs)
        print(reduction.trace.entering)  # visual tokens that entered each layer, counted

        reduction = reduce(model, "hidrop", inject=9, filters=[10, 14, 16, 18], exit=25, budget=64)
        ...
        reduction.remove()  # the same without a block

    method: a reducer, or a method's name with its fields as further arguments (as in a matrix).
    budget: visual tokens a layer, on average (64), or a share of the image's ("11%"), solved into the method's fields;
    `reading="kept"` means the tokens after the last cut instead.
    features: images that this model has seen before are taken from it, without the tower, and new ones put into it. It
    is for evaluation: it waits for the device, and no gradient passes.
    reference_tokens: the visual tokens of the image that absolute counts (`keep=64`, `budget=64`) are of, where each
    image has its own number; a prompt with more or fewer keeps the same share, or with `counts="fixed"` as many tokens.
    By default what `load` was told.
    graphs: prefills and decoding steps are captured as CUDA graphs where that is possible, and kept in it. A cache is
    valid until the next prefill of its shape.

    On leaving the block (or in `remove()`), every prefill's counted tokens are compared with the plan.

    Raises TypeError for another architecture or something that is not a method, ValueError for an unknown method or
    field or a method that does not fit the model's depth, image size or positions (BudgetError: a budget that it
    cannot meet), RuntimeError when the model is reduced already, TraceMismatch when a run did not follow its plan.
    """
    backbone = backbone_of(model)
    if (why := backbone.unsupported()) is not None:
        raise TypeError(why)
    if reference_tokens is not None or counts is not None:
        stated = backbone.reference_tokens if reference_tokens is None else reference_tokens
        backbone.counting(stated, backbone.counts if counts is None else counts)
    reducer, geometry = _method(method, budget, reading, fields, backbone.geometry)
    if backbone.geometry.dynamic:
        backbone.counting(**geometry.counting)
    return Reduction(backbone, reducer, features, graphs).attach()


def _method(
    method: Reducer | str, budget: float | str | None, reading: Reading, fields: dict[str, Any], geometry: Geometry
) -> tuple[Reducer, Geometry]:
    """The method that `reduce` was asked for, and the sizes that its counts are of. Raises like `reduce`."""
    if budget is None and reading != "average":
        raise TypeError(f"reading: {reading!r} says what a budget means; give a budget with it")
    if isinstance(method, str):
        geometry = check_absolute(method_class(method), fields, budget, geometry)
        reducer = build(method, fields) if budget is None else solve(method, fields, budget, geometry, reading)
        return reducer, geometry
    if not isinstance(method, Reducer):
        found = f"the class {method.__name__}" if isinstance(method, type) else repr(method)
        raise TypeError(
            f"method: a Reducer such as FastV(keep=64), or a name such as 'fastv', was expected, not {found}"
        )
    given = [*fields, *([] if budget is None else ["budget"])]
    if given:
        raise TypeError(f"{', '.join(given)}: goes with a method's name; {method} has all its fields already")
    return method, check_absolute(type(method), vars(method), None, geometry)
