"""Your method a second time, slow and obvious: which tokens stay at a cut, on one prompt, in float64, with plain lists.

    def slow(before, after, layer, prompt):
        # Keep the visual tokens that the last token attends to most in the layer that has just run.
        seen = prompt.attention(layer, before, query=len(before) - 1)
        scores = {token.rank: seen[slot] for slot, token in enumerate(after) if token.visual}
        return sorted(scores, key=lambda rank: (-scores[rank], rank))[: prompt.keep]

    check_method(MyMethod(keep=5), slow=slow)

The rule is called at each cut of the method's schedule. `before` is the sequence that entered layer `layer` (1-based; 0
for a cut before the first layer, where it equals `after`), `after` is what left it, both in the order of the prompt.
It returns the ranks of the visual tokens that stay, in any order. The decoder around it is a slow LLaVA
(slow_llava.py): one token at a time, no batch, no mask, no padding, nothing shared with the runtime.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch

from hidrop.reducer import Reducer
from hidrop.testing.case import Case
from hidrop.testing.precision import near_tie
from hidrop.testing.properties import Property
from hidrop.testing.report import Fault, Skip
from hidrop.testing.slow_llava import SlowLlava, Token
from hidrop.testing.tiny.llava import make_llava, make_pixels, make_prompt

NEW = 2  # tokens whose logits are compared


@dataclass(frozen=True)
class SlowToken:
    """A token: its hidden state as a list of floats, and what it is.

    `rank`: number among the prompt's visual tokens, from 0; -1 for text. `place`: number among all tokens of the
    prompt. `token_id`: of text, None for a visual token.
    """

    hidden: list[float]
    visual: bool
    rank: int
    place: int
    token_id: int | None


@dataclass(frozen=True)
class SlowPrompt:
    """What else a rule may ask. `keep`: the tokens that the plan keeps at this cut. `visual_tokens`: of the prompt.

    `images`: the visual tokens of each image, one after the other.
    """

    keep: int
    visual_tokens: int
    images: tuple[int, ...]
    ids: tuple[int, ...]
    _slow: SlowLlava = field(repr=False)
    _tokens: dict[int, Token] = field(repr=False)

    def attention(self, layer: int, tokens: Sequence[SlowToken], query: int) -> list[float]:
        """The attention that token number `query` of the sequence gives each token in layer `layer`, mean over heads.

        Of the layer that has just run, give it the tokens before it; of the next one (`layer + 1`), those after it.
        """
        return self._slow.attention(layer, [self._tokens[id(token)] for token in tokens], query)


SlowRule: TypeAlias = Callable[[list[SlowToken], list[SlowToken], int, SlowPrompt], Iterable[int]]


class _Rule:
    """A slow rule as SlowLlava calls it: after every layer, with its own kind of tokens."""

    def __init__(self, rule: SlowRule, method: Reducer, case: Case, count: int) -> None:
        schedule = method.schedule(case.geometry).scaled(case.geometry, count)
        self.rule, self.count = rule, count
        self.cuts = {cut.after: cut for cut in schedule.cuts}
        self.inject, self.exit = schedule.inject, schedule.exit
        self.compacted, self.grouped = method.positions == "compacted", method.positions == "group"
        self.entry = method.positions == "entry"

    def after(self, slow: SlowLlava, layer: int, before: list[Token], after: list[Token]) -> list[Token]:
        if layer not in self.cuts:
            return after
        known: dict[int, Token] = {}
        entered, left = ([self._shown(token, slow, known) for token in part] for part in (before, after))
        prompt = SlowPrompt(self.cuts[layer].keep, self.count, (16,) * (self.count // 16), tuple(slow.ids), slow, known)
        wanted = {*self.rule(entered, left, layer, prompt)}
        there = {token.rank for token in after if token.visual}
        if not wanted <= there or len(wanted) != self.cuts[layer].keep:
            raise Fault(
                f"the slow rule keeps {sorted(wanted)} after layer {layer}, but the plan keeps {self.cuts[layer].keep} "
                f"of the tokens {sorted(there)}"
            )
        return [token for token in after if not token.visual or token.rank in wanted]

    @staticmethod
    def _shown(token: Token, slow: SlowLlava, known: dict[int, Token]) -> SlowToken:
        name = None if token.visual else slow.ids[token.place]
        made = SlowToken(token.h.tolist(), token.visual, token.rank, token.place, name)
        known[id(made)] = token
        return made


def property_of(rule: SlowRule) -> Property[Case]:
    return Property(
        "slow rule",
        "the method keeps the tokens that the slow rule keeps, and the decoder then gives the logits of the slow "
        "decoder",
        "one of the two is wrong: work out by hand which tokens stay",
        lambda case: equals_slow_rule(case, rule),
    )


def equals_slow_rule(case: Case, rule: SlowRule) -> str | None:
    """LLaVA with grouped and with plain attention, prompts with one image and with two."""
    if case.family != "llava":
        raise Skip("the slow decoder is a LLaVA")
    if case.method.encodes or any(cut.merge for cut in case.first_schedule.cuts):
        raise Skip("slow rules choose tokens: they neither merge nor work in the tower")
    if case.method.adaptive or case.method.rechosen:
        raise Skip("slow rules keep the number of tokens that the plan says, once")
    note, method = None, case.method.on(case.geometry)
    for seed, (kv_heads, images) in enumerate([(2, 1), (4, 1), (2, 2), (4, 2)]):
        model = make_llava(kv_heads=kv_heads, seed=seed + 1)
        ids, pixels = make_prompt(2 + seed, 9 - seed, images=images, seed=seed), make_pixels(images, seed=seed)
        slow = SlowLlava(model, _Rule(rule, method, case, 16 * images))
        numbers, wanted = slow.greedy(ids[0].tolist(), pixels, NEW)
        kept = dict(slow.kept)
        run = case.run({"input_ids": ids, "pixel_values": pixels}, model)
        for cut, (layer, (got,)) in enumerate(zip(run.after, run.kept, strict=True)):
            if got != kept[layer]:
                if not near_tie(run, cut, got, kept[layer]):
                    raise Fault(f"after layer {layer} it keeps {list(got)}, and the slow rule {list(kept[layer])}")
                note = "some choices are near-ties"
                break
        else:
            compare_logits(case, model, ids, pixels, numbers, wanted)
    return note


def compare_logits(
    case: Case, model: Any, ids: torch.Tensor, pixels: torch.Tensor, numbers: list[int], wanted: list[torch.Tensor]
) -> None:
    with case.reduced(model) as (reduction, watched), torch.no_grad():
        watched.start()
        out = reduction.model(input_ids=ids, pixel_values=pixels, logits_to_keep=1)
        logits = [out.logits[0, -1]]
        for number in numbers[:-1]:
            out = reduction.model(input_ids=torch.tensor([[number]]), past_key_values=out.past_key_values)
            logits.append(out.logits[0, -1])
    apart = (torch.stack(logits).double() - torch.stack(wanted)).abs().max().item()
    if apart > 5e-4:
        raise Fault(f"the same tokens are kept, but logits differ from the slow decoder's by up to {apart:.2g}")
