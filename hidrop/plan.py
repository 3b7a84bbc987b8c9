"""When visual tokens enter, are cut and leave (Schedule), and how many enter each layer (TokenPlan).

Both are pure arithmetic on a Geometry: averages, FLOPs and KV bytes are known before a weight is loaded.
Layers are 1-based, as in the papers: layer l is `decoder.layers[l - 1]`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from hidrop.geometry import Geometry


@dataclass(frozen=True)
class Cut:
    """After layer `after` has run, keep the `keep` best visual tokens and append `merge` merged ones.

    `after = inject - 1` cuts the visual tokens on their way in, before any layer has seen them.
    """

    after: int
    keep: int
    merge: int = 0

    @property
    def left(self) -> int:
        """Visual tokens in the sequence once the cut is done."""
        return self.keep + self.merge


@dataclass(frozen=True)
class Schedule:
    """What happens to the visual tokens on their way through the decoder.

    They enter right before layer `inject`, are cut as `cuts` say, and all leave right before layer `exit`
    (None: never). On their way in there may be several cuts, one after the other. Counts hold for
    `geometry.visual_tokens`.
    """

    inject: int = 1
    cuts: tuple[Cut, ...] = ()
    exit: int | None = None

    def check(self, geometry: Geometry) -> None:
        """Raise ValueError, naming the field and the possible range, unless this fits the decoder."""
        layers = geometry.layers
        if not 1 <= self.inject <= layers:
            raise ValueError(f"inject: layer {self.inject} is not one of the decoder's layers 1..{layers}")
        end = layers + 1 if self.exit is None else self.exit
        if self.exit is not None and not self.inject < self.exit <= layers:
            raise ValueError(
                f"exit: layer {self.exit} must be in {self.inject + 1}..{layers}: after inject, inside the decoder"
            )
        before, there = self.inject - 2, geometry.visual_tokens
        for cut in self.cuts:
            if not self.inject - 1 <= cut.after < end - 1:
                raise ValueError(
                    f"cut after layer {cut.after}: visual tokens are there in layers {self.inject}..{end - 1} only"
                )
            if cut.after < before or (cut.after == before and before != self.inject - 1):
                raise ValueError(f"cut after layer {cut.after}: cuts must be in ascending order of layers")
            if cut.keep < 0 or cut.merge < 0 or cut.left > there:
                raise ValueError(f"keep {cut.left} after layer {cut.after}: only {there} visual tokens are there")
            before, there = cut.after, cut.left

    def plan(self, geometry: Geometry) -> TokenPlan:
        """Visual tokens entering each layer. Raises ValueError when the schedule does not fit `geometry`."""
        self.check(geometry)
        end = geometry.layers + 1 if self.exit is None else self.exit
        left_after = {cut.after: cut.left for cut in self.cuts}
        there, entering = left_after.get(self.inject - 1, geometry.visual_tokens), []
        for layer in range(1, geometry.layers + 1):
            entering.append(there if self.inject <= layer < end else 0)
            if layer >= self.inject:
                there = left_after.get(layer, there)
        kept = self.cuts[-1].left if self.cuts else geometry.visual_tokens
        return TokenPlan(geometry, tuple(entering), kept)

    def scaled(self, geometry: Geometry, count: int) -> Schedule:
        """This schedule for a prompt with `count` visual tokens: kept shares stay, counts are rounded down.

        A cut that leaves a token of one image leaves at least one of any image. With `geometry.fixed_counts` the counts
        stay, as far as there are so many tokens.
        """
        if count == geometry.visual_tokens:
            return self

        def share(part: int) -> int:
            if geometry.fixed_counts:
                return part
            return max(part * count // geometry.visual_tokens, min(part, 1))

        there, cuts = count, []
        for cut in self.cuts:
            keep = min(share(cut.keep), there)
            cuts.append(replace(cut, keep=keep, merge=min(share(cut.merge), there - keep)))
            there = cuts[-1].left
        return replace(self, cuts=tuple(cuts))

    def scaled_each(self, geometry: Geometry, counts: tuple[int, ...]) -> Schedule:
        """This schedule for a prompt whose images have `counts` visual tokens, each image scaled by itself."""
        each = [self.scaled(geometry, count) for count in counts] or [self.scaled(geometry, 0)]
        cuts = zip(*(one.cuts for one in each), strict=True)
        totals = [Cut(same[0].after, sum(c.keep for c in same), sum(c.merge for c in same)) for same in cuts]
        return replace(self, cuts=tuple(totals))

    def chosen(self, place: int, cut: Cut) -> Schedule:
        """With `cut` as the cut number `place` (0-based); later ones keep no more than it leaves."""
        later, there = [], cut.left
        for bound in self.cuts[place + 1 :]:
            keep = min(bound.keep, there)
            later.append(replace(bound, keep=keep, merge=min(bound.merge, there - keep)))
            there = later[-1].left
        return replace(self, cuts=(*self.cuts[:place], cut, *later))


@dataclass(frozen=True)
class TokenPlan:
    """Visual tokens entering each layer: `entering[l - 1]` enter layer l.

    `kept`: those after the last cut (before an exit), the other reading of "64 tokens"; None where the layers were
    counted and no schedule is known.
    """

    geometry: Geometry
    entering: tuple[int, ...]
    kept: int | None = None

    @property
    def average_tokens(self) -> float:
        """Mean over all layers of the visual tokens that enter the layer: the budget of this project."""
        return sum(self.entering) / len(self.entering)

    @property
    def share(self) -> float:
        """`average_tokens` as a share of the image's visual tokens."""
        return self.average_tokens / self.geometry.visual_tokens

    def flops(self, text_tokens: int, *, causal: bool = True) -> int:
        """Operations of one prefill over text and visual tokens, without vision tower and LM head.

        A multiply-accumulate is two operations. `causal` counts the n (n + 1) / 2 query-key pairs that a
        causal kernel computes; False counts the full square, as torch's FlopCounterMode does.
        """
        return sum(self.geometry.layer_flops(n + text_tokens, causal=causal) for n in self.entering)

    def paper_macs(self) -> int:
        """The papers' "FLOPs": multiply-accumulates of the visual tokens alone, 4nd^2 + 2n^2 d + 3ndm a layer.

        This convention of PDrop and HiDrop gives 3.82 T for vanilla LLaVA-1.5-7B. It leaves out text, selection
        and LM head, so it is not a prediction of time.
        """
        d, m = self.geometry.hidden, self.geometry.intermediate
        return sum(4 * n * d * d + 2 * n * n * d + 3 * n * d * m for n in self.entering)

    def kv_bytes(self, text_tokens: int, element_bytes: int) -> int:
        """Bytes of keys and values in all layers after the prefill of one sequence."""
        return sum(self.geometry.layer_kv_bytes(n + text_tokens, element_bytes) for n in self.entering)
