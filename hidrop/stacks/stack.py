"""Methods one after the other: in the tower, on the way into the decoder, at layers, and at the exit.

    duet: {stack: [visionzip: {dominant: 54, contextual: 10}, pdrop: {layers: [16, 24], ratios: [0.5, 0.1]}]}

Each member sees what the members before it have left as its image: its counts and ratios are of those tokens, and so is
the decoder's input that it may ask for. The members' scores are not changed.

Positions are those of the members, where they agree. Members that renumber tokens before the decoder (as methods in the
tower do) followed by members that keep positions give `entry`: tokens are numbered once, when they have entered.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from pydantic import PlainValidator

from hidrop.budget import check_given, root
from hidrop.geometry import Geometry
from hidrop.methods import checked_params, made, reference, required_fields, with_published
from hidrop.plan import Schedule
from hidrop.reducer import BudgetError, DeepStack, Mixture, Positions, Reducer
from hidrop.stacks.members import NAME, Member, Part, check_parts, labelled, parts_of
from hidrop.stacks.order import Alone, Composed, Step, composed, each_alone

if TYPE_CHECKING:
    import torch

    from hidrop.backbones import Backbone, Vision
    from hidrop.runtime.scoring import Prompt, View


@dataclass
class Memory:
    """The decoder's input, and what members have made of it so far."""

    prompt: Prompt
    made: dict[int, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Stack(Reducer):
    """The methods of `stack`, one after the other. `over`: the member whose counts a budget decides."""

    stack: Annotated[tuple[Any, ...], PlainValidator(check_parts)]
    over: str | None = None
    positions: Positions | None = None

    name: ClassVar[str] = NAME
    composed: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.over is not None:
            raise ValueError("over: it names the member that a budget is solved for; give a budget, or leave it out")
        members = [_member(part) for part in parts_of(self.stack)]
        object.__setattr__(self, "stack", tuple(members))
        for member in members:
            method = member.fields
            if method.adaptive:
                raise ValueError(f"{member.label}: its counts depend on the sample; in a stack they have to be fixed")
            if method.rechosen:
                raise ValueError(f"{member.label}: rechosen: a stack chooses once, in the prefill")
            if method.annotates or method.reads_text or any(getattr(method, name) for name in method.checkpoints):
                raise ValueError(
                    f"{member.label}: it reads the question as text, notes numbers in the tower or has a checkpoint of "
                    "its own, which a stack does not hand on"
                )
            if method.topk != "released":
                raise ValueError(f"{member.label}: topk: {method.topk}: in a stack the choice has no gradient")

        kinds = sorted({member.fields.deepstack for member in members} - {"carry"})
        if len(kinds) > 1:
            raise ValueError(f"deepstack: the members differ ({', '.join(kinds)}); give one of them")

    @property
    def members(self) -> tuple[Member, ...]:
        return self.stack

    @property
    def methods(self) -> tuple[Reducer, ...]:
        return tuple(member.fields for member in self.members)

    @property
    def classes(self) -> tuple[type[Reducer], ...]:
        return (type(self), *map(type, self.methods))

    @classmethod
    def nested(cls, params: Mapping[str, Any]) -> list[tuple[str, type[Reducer], Mapping[str, Any]]]:
        return [(part.label, part.cls, part.params) for part in parts_of(params.get("stack"))]

    @classmethod
    def with_nested(cls, params: Mapping[str, Any], build: Callable[[Mapping[str, Any]], Reducer]) -> dict[str, Any]:
        members = []
        for part in parts_of(params.get("stack")):
            with labelled(part.label):
                method = part.built or build({"name": part.method, **part.params})
            members.append(Member(part.label, reference(method), method))
        return {**params, "stack": tuple(members)}

    # ---- the schedule -----------------------------------------------------------------------------------------------

    def schedule(self, geometry: Geometry) -> Schedule:
        together = composed(self.members, geometry)
        # Not a field: it follows from the others and the decoder's depth. No prefill is without a schedule.
        object.__setattr__(self, "_steps", together.steps)
        return together.schedule

    def on(self, geometry: Geometry) -> Self:
        members = []
        _, sizes = each_alone(self.members, geometry)
        for member, own in zip(self.members, sizes, strict=True):
            with labelled(member.label):
                members.append(replace(member, fields=member.fields.on(own)))
        together = composed(members, geometry)
        open_ = {member.label for member in self.members if member.fields.positions is None}
        positions = self.positions or _agreed(each_alone(members, geometry)[0], together, open_)
        decided = replace(self, stack=tuple(members), positions=positions)
        if geometry.rope_axes > 1 and positions != "persistent":
            raise ValueError(
                f"positions: {positions} has no meaning where a position is {geometry.rope_axes} numbers (M-RoPE);"
                " leave it out, or use persistent"
            )
        if positions == "entry" and together.schedule.inject > 1:
            raise ValueError(
                "positions: the tokens are renumbered before the decoder, and enter it late; write positions: "
                "persistent beside stack"
            )
        return decided

    @property
    def steps(self) -> tuple[Step, ...]:
        """Who makes which cut, as the last `schedule` had it."""
        found: tuple[Step, ...] = self.__dict__["_steps"]
        return found

    # ---- what the members have in common ----------------------------------------------------------------------------

    @property
    def deepstack(self) -> DeepStack:
        return next((method.deepstack for method in self.methods if method.deepstack != "carry"), "carry")

    @property
    def capturable(self) -> bool:
        return all(method.capturable for method in self.methods)

    @property
    def identity(self) -> dict[str, Any]:
        members = [{"method": member.method, "fields": member.fields.identity} for member in self.members]
        return {"stack": members, "positions": self.positions}

    def check_files(self, backbone: Backbone) -> None:
        for member in self.members:
            with labelled(member.label):
                member.fields.check_files(backbone)

    @property
    def has_files(self) -> bool:
        return any(method.has_files for method in self.methods)

    @property
    def as_trained(self) -> Self:
        return replace(self, stack=tuple(replace(one, fields=one.fields.as_trained) for one in self.members))

    @property
    def encodes(self) -> bool:
        return any(method.encodes for method in self.methods)

    @property
    def prepares(self) -> bool:
        return any(method.prepares for method in self.methods)

    def check_backbone(self, backbone: Backbone) -> None:
        for member in self.members:
            if member.fields.resizes and not backbone.interpolates:
                raise ValueError(
                    f"{member.label}: in a stack the tower has to take images of another size than its own, which "
                    f"{backbone.title} does not; leave it out, or use it alone"
                )
            with labelled(member.label):
                member.fields.check_backbone(backbone)

    # ---- what they do -----------------------------------------------------------------------------------------------

    def encode(self, vision: Vision) -> list[torch.Tensor]:
        *resizing, last = [method for method in self.methods if method.encodes] or [self.methods[0]]
        seen = vision
        for method in resizing:
            seen = method.resized(seen)
        return vision.padded(last.encode(seen))

    def prepare(self, prompt: Prompt) -> Memory:
        return Memory(prompt)

    def _at(self, view: View) -> tuple[Reducer, View]:
        """The member that makes a cut, and the view as if it were alone on the tokens that are there."""
        step = self.steps[view.cut.place]
        method, memory = self.methods[step.member], None
        if method.prepares:
            known: Memory = view.memory
            if step.member not in known.made:
                known.made[step.member] = method.prepare(self._seen_by(step.member, known.prompt, view))
            memory = known.made[step.member]
        return method, replace(view, memory=memory, cut=replace(view.cut, place=step.place))

    def _seen_by(self, member: int, prompt: Prompt, view: View) -> Prompt:
        """The decoder's input as a member sees it: the tokens that are there at its first cut."""
        if not any(step.member < member for step in self.steps):
            return prompt
        prompt = prompt.only(view.rank_BV)
        resizing = [method for method in self.methods[:member] if method.resizes]
        return resizing[-1].regridded(prompt) if resizing else prompt

    def score(self, view: View) -> torch.Tensor:
        method, own = self._at(view)
        return method.score(own)

    def merge(self, view: View, score: torch.Tensor, kept: torch.Tensor, count: int) -> Mixture:
        method, own = self._at(view)
        return method.merge(own, score, kept, count)

    # ---- a budget ---------------------------------------------------------------------------------------------------

    @classmethod
    def for_budget(cls, average: float, geometry: Geometry, **params: Any) -> Self:
        """Solves for the counts of the member `over`; by default the only one whose fields are not all given."""
        parts = parts_of(params["stack"])
        number = _solved(parts, params.get("over"))
        solved = parts[number]
        fixed = [None if one is solved else _member(one) for one in parts]
        before = [member for member in fixed[:number] if member is not None]
        alone, sizes = each_alone([*before], geometry)
        own = sizes[-1] if sizes else geometry
        if alone and alone[-1].cuts:
            own = own.with_visual_tokens(alone[-1].cuts[-1].left)
        with labelled(solved.label):
            given = checked_params(solved.cls, solved.params, open_counts=True)

        def stack(share: float) -> Any:
            with labelled(solved.label):
                method = solved.cls.for_budget(share, own, **dict(given))
            members = (one or Member(solved.label, reference(method), method) for one in fixed)
            return cls(tuple(members), positions=params.get("positions"))

        def reached(share: float) -> float:
            average: float = stack(share).plan(geometry).average_tokens
            return average

        try:
            stack(-1.0)  # what no method can meet, and each answers with what it can
        except BudgetError as error:
            if error.possible is None:
                raise
            low, high = error.possible
        else:
            raise BudgetError(f"{solved.label} has no counts that a budget could decide")
        inside = 1e-6 * (high - low)
        low, high = low + inside, high - inside
        low = _first_that_fits(reached, low, high)
        least, most = reached(low), reached(high)
        if not least - 0.5 <= average <= most + 0.5:
            raise BudgetError(f"with {solved.label} it reaches {least:.2f}..{most:.2f}", (least, most))
        near = root(reached, average, low, high)
        tried = [min(high, max(low, near + step * inside)) for step in (-1, 0, 1)]
        best: Self = stack(min(tried, key=lambda share: abs(reached(share) - average)))
        with labelled(solved.label):
            check_given(solved.cls, given, best.methods[number])
        return best


def _first_that_fits(reached: Callable[[float], float], low: float, high: float) -> float:
    """The least share at which the members after it find as many tokens as they keep, by bisection.

    Raises ValueError if there is none.
    """
    with contextlib.suppress(ValueError):
        reached(low)
        return low
    reached(high)
    for _ in range(40):
        middle = (low + high) / 2
        try:
            reached(middle)
            high = middle
        except ValueError:
            low = middle
    return high


def _member(part: Part) -> Member:
    with labelled(part.label):
        method = part.built or made(part.cls, part.method, part.params)
    return Member(part.label, reference(method), method)


def _solved(parts: list[Part], over: str | None) -> int:
    """The number of the member that a budget is solved for. Raises ValueError."""
    labels = [part.label for part in parts]
    if over is not None:
        if over not in labels:
            raise ValueError(f"over: no member '{over}'; there are {', '.join(labels)}")
        return labels.index(over)
    lacking = []
    for number, one in enumerate(parts):
        with labelled(one.label):
            given = with_published(one.cls, one.params)
        if any(_open(given.get(name)) for name in required_fields(one.cls)):
            lacking.append(number)
    if len(lacking) != 1:
        raise ValueError(f"over: name the member that the budget is solved for: {', '.join(labels)}")
    return lacking[0]


def _open(value: Any) -> bool:
    return value is None or (isinstance(value, (list, tuple)) and None in value)


def _agreed(alone: list[Alone], together: Composed, unstated: Container[str]) -> Positions:
    """The positions that the members have in common. Raises ValueError if there are none.

    `unstated`: labels of members that leave them to the decoder's kind. A member that only lets the tokens leave takes
    those of the cuts before it then.
    """
    entry, later = set[Any](), set[Any]()
    for step, cut in zip(together.steps, together.schedule.cuts, strict=True):
        on_the_way_in = cut.after == together.schedule.inject - 1
        (entry if on_the_way_in else later).add(alone[step.member].member.fields.positions)
    for one in alone:
        if one.schedule.exit is not None and not (later and not one.cuts and one.label in unstated):
            later.add(one.member.fields.positions)
    if len(entry | later) <= 1:
        return next(iter(entry | later), "persistent")
    if entry == {"compacted"} and later == {"persistent"}:
        return "entry"
    told = ", ".join(f"{one.label}: {one.member.fields.positions}" for one in alone)
    raise ValueError(f"positions: the members differ ({told}); state positions: persistent or compacted beside stack")
