"""What a reduction method is: a frozen dataclass (its fields are its YAML), a schedule and a score.

The runtime owns everything that can go wrong (gathering, positions, masks, cache, padding, batch); a method says
only when tokens are cut and which of them matter.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, get_args, get_origin, get_type_hints

from hidrop.errors import did_you_mean
from hidrop.geometry import PRESETS, Geometry
from hidrop.plan import Cut, Schedule, TokenPlan

if TYPE_CHECKING:
    import torch

    from hidrop.backbones import Backbone, Vision
    from hidrop.runtime.scoring import Prompt, View

# The RoPE positions of a method's tokens.
#   persistent: every token keeps the position it got at input, whatever is cut.
#   compacted:  renumbered 0, 1, ... after each change of the sequence, while decoding as well.
#   group:      persistent, in ranges of their own: the visual tokens first, then all text.
#   entry:      renumbered once, after the cuts before the decoder, and persistent from there on.
Positions = Literal["persistent", "compacted", "group", "entry"]

# What happens to visual tokens that skip layers after which DeepStack adds something to them (see Tokens.passed).
DeepStack = Literal["carry", "drop", "shift"]

# What happens to equal scores.
#   earlier:  scores are float32, of two equal ones the earlier token wins, and exactly the planned number stays.
#   released: as in the released HiDrop code, scores are rounded to the model's own type, and every token that scores
#             as much as the last one that stays, stays as well. Counts then depend on the sample.
Ties = Literal["earlier", "released"]

# The gradient of the choice of tokens in training. Outside of training the three are the same.
#   released:  none. The soft mask of the released HiDrop code picks indices and is not used otherwise.
#   ste:       straight-through: kept tokens go on as they are, and backward as if multiplied by the soft mask.
#   soft-gate: kept tokens are multiplied by the soft mask.
TopK = Literal["released", "ste", "soft-gate"]


class BudgetError(ValueError):
    """A budget that a method cannot meet; the message names the budgets it can.

    `possible` are the lowest and the highest average that its settings reach, where there is a range.
    """

    def __init__(self, message: str, possible: tuple[float, float] | None = None) -> None:
        super().__init__(message)
        self.possible = possible


@dataclass(frozen=True)
class Published:
    """A published setting of a method: its fields, and the models (of geometry.PRESETS) that it is for."""

    fields: Mapping[str, Any]
    models: tuple[str, ...] = ("llava-1.5-7b",)

    def __post_init__(self) -> None:
        """Raises ValueError for a model that is not in PRESETS."""
        if unknown := [name for name in self.models if name not in PRESETS]:
            hint = did_you_mean(unknown[0], PRESETS)
            raise ValueError(f"Published: unknown model '{unknown[0]}'.{hint} Known: {', '.join(PRESETS)}")


@dataclass(frozen=True)
class Mixture:
    """Merged tokens as weighted sums of visual tokens: `weight_BMC` of those at a cut, divided by `total_BM`.

    `among_BC`: the slots that the weights are of, by their number among the cut's visual slots; None: all of them.
    `at_BM`: the slots, by that number, after which merged tokens are put and whose RoPE position they have; None: after
    the row's last visual token. Sums are made in the type of the weights.
    """

    weight_BMC: torch.Tensor
    total_BM: torch.Tensor
    among_BC: torch.Tensor | None = None
    at_BM: torch.Tensor | None = None

    def of(self, states_BVD: torch.Tensor) -> torch.Tensor:
        """The merged tokens, (B, M, D), of these states, in their type."""
        states = states_BVD
        if self.among_BC is not None:
            states = states.gather(1, self.among_BC[:, :, None].expand(-1, -1, states.shape[2]))
        return (self.weight_BMC @ states.to(self.weight_BMC.dtype) / self.total_BM[..., None]).to(states_BVD.dtype)


@dataclass(frozen=True)
class Reducer:
    """Base of every method. Subclasses are frozen dataclasses; layers in their fields are 1-based."""

    name: ClassVar[str]
    # What `run.py methods` shows: title, venue and link of the paper, the released code, and settings by name.
    paper: ClassVar[str] = ""
    code: ClassVar[str] = ""
    published: ClassVar[Mapping[str, Published]] = {}

    def __post_init__(self) -> None:
        """Raises ValueError for a field whose value is not one of its words."""
        for name, words in _words(type(self)).items():  # type: ignore[arg-type]  # a class can be hashed
            if getattr(self, name) not in words:
                listed = ", ".join(repr(word) for word in words if word is not None)
                raise ValueError(f"{name}: {getattr(self, name)!r} is not one of {listed}")

    # The fields that are numbers of tokens of one image, which have a meaning for a reference image only.
    counts: ClassVar[tuple[str, ...]] = ()
    # Whether the method looks at where tokens are in their images, so that nothing may be cut before it.
    gridded: ClassVar[bool] = False
    # Whether the method gives the tower a smaller image, which other methods may go on with (`resized`, `regridded`).
    resizes: ClassVar[bool] = False
    # Whether the method chooses without looking at what the image shows: what other methods have to beat.
    null_baseline: ClassVar[bool] = False
    # Whether the method is made of others (`nested`).
    composed: ClassVar[bool] = False
    # The fields that name a checkpoint of the method's own, a folder or a Hub id (None: it needs none). What its files
    # hold is part of a cell's identity.
    checkpoints: ClassVar[tuple[str, ...]] = ()

    @property
    def positions(self) -> Positions | None:
        """The positions of the tokens. A method with a choice has a field of this name instead.

        None in such a field: as released where a position is one number, else persistent. `on` decides.
        """
        return "persistent"

    @property
    def released_positions(self) -> Positions:
        """The positions in the method's released code."""
        return "persistent"

    def on(self, geometry: Geometry) -> Self:
        """The method with everything decided that depends on the decoder's kind.

        Raises ValueError for positions that the decoder's kind does not allow.
        """
        if geometry.fixed_counts and not self.counts and any(cut.left for cut in self.schedule(geometry).cuts):
            raise ValueError(
                f"{self.name}: it keeps shares of each image, of which counts: fixed would make numbers. Leave counts "
                "out"
            )
        if self.positions == "entry" and self.schedule(geometry).inject > 1:
            raise ValueError(
                f"{self.name}: positions: entry is for visual tokens that enter before layer 1; use persistent"
            )
        single = geometry.rope_axes == 1
        if self.positions is None:
            return replace(self, positions=self.released_positions if single else "persistent")  # type: ignore[call-arg]
        if self.positions != "persistent" and not single:
            raise ValueError(
                f"positions: {self.positions} has no meaning where a position is {geometry.rope_axes} numbers (M-RoPE);"
                " leave it out, or use persistent"
            )
        return self

    @property
    def shrinks(self) -> bool:
        """Whether the method gives the processor a smaller image, in families whose images keep their shape (Qwen)."""
        return type(self).smaller is not Reducer.smaller

    def smaller(self, rows: int, columns: int, geometry: Geometry) -> tuple[int, int]:
        """Rows and columns of visual tokens that an image of `rows` x `columns` tokens gets instead; see `shrinks`."""
        return rows, columns

    @classmethod
    def refuses(cls, family: type[Backbone]) -> str | None:
        """Why the method cannot run on models of a family, in words; None if it can."""
        return None

    def check_backbone(self, backbone: Backbone) -> None:
        """Raises ValueError for a model that the method does not fit, where its geometry does not tell."""
        if (why := self.refuses(type(backbone))) is not None:
            raise ValueError(f"{self.name}: {why}")
        self.check_files(backbone)

    def check_files(self, backbone: Backbone) -> None:
        """Raises UserError for files of the method's own that are missing, or that do not fit the model.

        `backbone` may have a config and no model (`Backbone.of_config`): no weight is read.
        """

    @property
    def has_files(self) -> bool:
        """Whether `check_files` has something to check. By default: whether a field names a checkpoint."""
        if type(self).check_files is Reducer.check_files:
            return False
        return not self.checkpoints or any(getattr(self, name) is not None for name in self.checkpoints)

    @property
    def deepstack(self) -> DeepStack:
        """See `DeepStack`. A method that lets tokens skip layers has a field of this name instead."""
        return "carry"

    @property
    def topk(self) -> TopK:
        """The gradient of the choice in training. A method with a choice has a field of this name instead."""
        return "released"

    @property
    def adaptive(self) -> bool:
        """Whether counts depend on the sample: `choose` says them, and `bound` how the schedule compares with them."""
        return False

    @property
    def bound(self) -> Literal["", "<=", "~"]:
        """How counted tokens compare with the plan: equal (""), at most as many ("<="), or about as many ("~")."""
        return "<=" if self.adaptive else ""

    @property
    def as_trained(self) -> Self:
        """The method without the fields that training does not depend on: equal for weights trained with it."""
        return self

    @property
    def rechosen(self) -> bool:
        """Whether every generated token chooses again and runs the whole sequence again, as methods without a cache do.

        Else the prefill's choice holds. A method that offers both has a field of this name instead.
        """
        return False

    @property
    def published_as(self) -> str | None:
        """The number of tokens that the method's authors call this setting, where their count is another than ours."""
        return None

    @property
    def identity(self) -> dict[str, Any]:
        """The fields as a part of a cell's identity: without what changes no number."""
        return asdict(self)

    @property
    def classes(self) -> tuple[type[Reducer], ...]:
        """The classes whose code decides the method's numbers: its own, and those of the methods that it is made of."""
        return (type(self),)

    @classmethod
    def nested(cls, params: Mapping[str, Any]) -> list[tuple[str, type[Reducer], Mapping[str, Any]]]:
        """Label, class and fields of each method that this one is made of."""
        return []

    @classmethod
    def with_nested(cls, params: Mapping[str, Any], build: Callable[[Mapping[str, Any]], Reducer]) -> dict[str, Any]:
        """The fields with the methods that this one is made of built by `build`, from {"name": ..., fields}."""
        return dict(params)

    @property
    def encodes(self) -> bool:
        """Whether the method works in the tower: an image's features are then its own, and not the model's."""
        return type(self).encode is not Reducer.encode

    @property
    def annotates(self) -> bool:
        """Whether `encode` gives the model's own features with more numbers after each, for `Prompt.side_BVS`.

        Such a method does not say that it `encodes`: its tokens are those of the model.
        """
        return False

    @property
    def own_features(self) -> bool:
        """Whether `encode` gives anything else than the model's own features."""
        return self.encodes or self.annotates

    @property
    def reads_text(self) -> bool:
        """Whether `prepare` reads the questions as text (`Prompt.questions`), which waits for the device."""
        return False

    @property
    def reads_input(self) -> bool:
        """Whether a cut before layer 1 looks at more than the visual tokens, so that it cannot be made later."""
        return False

    @property
    def capturable(self) -> bool:
        """Whether a prefill can be a CUDA graph: nothing in it waits for the device."""
        return not (self.adaptive or self.rechosen or self.reads_text)

    @property
    def prepares(self) -> bool:
        """Whether the method looks at the decoder's input before layer 1."""
        return type(self).prepare is not Reducer.prepare

    def schedule(self, geometry: Geometry) -> Schedule:
        """When visual tokens enter, are cut and leave. Pure. Raises ValueError for fields that do not fit."""
        raise NotImplementedError

    def plan(self, geometry: Geometry, visual_tokens: int | None = None) -> TokenPlan:
        """Visual tokens entering each layer, known before any weight is loaded.

        `visual_tokens`: those of the prompt, where it is not one image of `geometry`.
        """
        count = geometry.visual_tokens if visual_tokens is None else visual_tokens
        return self.schedule(geometry).scaled(geometry, count).plan(geometry.with_visual_tokens(count))

    @classmethod
    def for_budget(cls, average: float, geometry: Geometry, **params: Any) -> Self:
        """The method with `average` visual tokens a layer (nearest possible), other fields as in `params`.

        Raises BudgetError when no setting comes near, naming the possible range.
        """
        raise BudgetError("the method has no for_budget, which would solve one; give its fields instead")

    def encode(self, vision: Vision) -> list[torch.Tensor]:
        """Projected features of each image, (tokens, D): the model's own, unless the method works in the tower.

        A method that `annotates` puts S more columns after them.
        """
        return vision.features()

    def resized(self, vision: Vision) -> Vision:
        """The images at the size that the tower sees them at; see `resizes`."""
        return vision

    def regridded(self, prompt: Prompt) -> Prompt:
        """The decoder's input with the tokens that are left, at their places in the smaller image; see `resizes`."""
        return prompt

    def prepare(self, prompt: Prompt) -> Any:
        """What the method needs to remember from the decoder's input, before layer 1 (SparseVLM's raters)."""
        return None

    def score(self, view: View) -> torch.Tensor:
        """Importance of each visual token at a cut, (batch, visual) float32. Tensors only, no host sync.

        Called without gradients, except in training with another `topk` than "released"; the view's states are
        detached even then.
        """
        raise NotImplementedError

    def choose(self, view: View) -> tuple[torch.Tensor, tuple[Cut, ...]]:
        """Of an adaptive method, instead of `score`: the scores, and what each row keeps and merges. May wait."""
        raise NotImplementedError

    def merge(self, view: View, score: torch.Tensor, kept: torch.Tensor, count: int) -> Mixture:
        """`count` tokens that replace the dropped ones, as weights of the visual tokens. Only for cuts with merge > 0.

        The runtime applies the weights to the states, and to what DeepStack will add to them.
        """
        raise NotImplementedError


@functools.cache  # a budget is solved by building a method over and over
def _words(cls: type[Reducer]) -> dict[str, tuple[Any, ...]]:
    """The fields of a method that are one of some words, with these words."""
    found: dict[str, tuple[Any, ...]] = {}
    for name, hint in get_type_hints(cls).items():
        kinds = [one for one in (hint, *get_args(hint)) if get_origin(one) is Literal]
        if kinds:
            found[name] = (*get_args(kinds[0]), *((None,) if type(None) in get_args(hint) else ()))
    return found
