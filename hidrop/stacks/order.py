"""What members of a stack do in the decoder, put together: one schedule, or a reason in words why there is none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from hidrop.geometry import Geometry
from hidrop.plan import Cut, Schedule
from hidrop.stacks.members import Member


@dataclass(frozen=True)
class Step:
    """A cut of the stack's schedule: the number of the member that makes it, and the cut's number among its own."""

    member: int
    place: int


@dataclass(frozen=True)
class Composed:
    """The stack's schedule, and who makes which of its cuts."""

    schedule: Schedule
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Alone:
    """A member with the schedule that it has by itself, on the tokens that the members before it have left."""

    member: Member
    schedule: Schedule

    @property
    def label(self) -> str:
        return self.member.label

    @property
    def cuts(self) -> tuple[Cut, ...]:
        return self.schedule.cuts

    def on_the_way_in(self, cut: Cut) -> bool:
        return cut.after == self.schedule.inject - 1


def each_alone(members: Sequence[Member], geometry: Geometry) -> tuple[list[Alone], list[Geometry]]:
    """Each member's own schedule, and the sizes that it counts by. Raises ValueError, naming the member."""
    _check_tower(members)
    found, sizes = list[Alone](), [geometry]
    for member in members:
        try:
            schedule = member.fields.schedule(sizes[-1])
            schedule.check(sizes[-1])
        except ValueError as error:
            raise ValueError(f"{member.label}: {error}") from None
        found.append(Alone(member, schedule))
        sizes.append(sizes[-1].with_visual_tokens(schedule.cuts[-1].left) if schedule.cuts else sizes[-1])
    return found, sizes[:-1]


def composed(members: Sequence[Member], geometry: Geometry) -> Composed:
    """Raises ValueError, naming the members, for an order in which they cannot work."""
    alone, _ = each_alone(members, geometry)
    _check_input(alone)
    inject, exit = _ends(alone)
    for one in alone if inject > 1 else ():
        if one.member.fields.reads_input and any(cut.after == 0 for cut in one.cuts):
            raise ValueError(
                f"{one.label} chooses by the decoder's input, but the tokens enter before layer {inject}: use one of "
                "the two"
            )
    cuts, steps, before = list[Cut](), list[Step](), ""
    for number, one in enumerate(alone):
        if one.member.fields.encodes and any(later.member.fields.encodes for later in alone[number + 1 :]):
            continue  # the last method in the tower says which tokens enter
        for place, cut in enumerate(one.cuts):
            after = inject - 1 if one.on_the_way_in(cut) else cut.after
            _check_cut(one.label, after, inject, exit, before, cuts)
            cuts.append(replace(cut, after=after))
            steps.append(Step(number, place))
            before = one.label
    return Composed(Schedule(inject, tuple(cuts), exit), tuple(steps))


def _check_cut(label: str, after: int, inject: int, exit: int | None, before: str, cuts: list[Cut]) -> None:
    if cuts and after < cuts[-1].after:
        raise ValueError(
            f"{label} cuts {_when(after)}, but {before}, which stands before it, {_when(cuts[-1].after)}: write the "
            "members in the order in which they cut"
        )
    if after < inject - 1:
        raise ValueError(f"{label} cuts {_when(after)}, but the tokens enter before layer {inject}")
    if cuts and after == cuts[-1].after and after >= inject:
        raise ValueError(f"{before} and {label} both cut {_when(after)}: move one of them to another layer")
    if exit is not None and after >= exit - 1:
        raise ValueError(f"{label} cuts {_when(after)}, but the tokens leave before layer {exit}")


def _when(after: int) -> str:
    return f"after layer {after}" if after else "before layer 1"


def _check_tower(members: Sequence[Member]) -> None:
    for first, second in pairwise(members):
        if second.fields.encodes and not first.fields.encodes:
            raise ValueError(f"{second.label} works in the vision tower: put it before {first.label}")
        if second.fields.encodes and not first.fields.resizes:
            raise ValueError(
                f"{first.label} and {second.label} both choose in the vision tower: use one of them. Only a smaller "
                "image (downsample) goes before a method there"
            )


def _check_input(alone: Sequence[Alone]) -> None:
    """Whether members that look at the images or at the decoder's input find there what they need."""
    for number, one in enumerate(alone):
        earlier = [other for other in alone[:number] if other.cuts]
        if one.member.fields.gridded and not all(other.member.fields.resizes for other in earlier):
            raise ValueError(
                f"{one.label} needs whole images, but {earlier[-1].label} cuts them: put {one.label} first"
            )
        merging = [other for other in earlier if any(cut.merge for cut in other.cuts)]
        if one.member.fields.prepares and merging:
            raise ValueError(
                f"{one.label} looks at the tokens before the decoder, and {merging[-1].label} replaces them by merged "
                f"ones: put {one.label} first"
            )


def _ends(alone: Sequence[Alone]) -> tuple[int, int | None]:
    """The layer before which the tokens enter, and the one before which they leave."""
    late = [(one.label, one.schedule.inject) for one in alone if one.schedule.inject > 1]
    early = [(one.label, one.schedule.exit) for one in alone if one.schedule.exit is not None]
    for ends, what in ((late, "enter"), (early, "leave")):
        if len(ends) > 1:
            told = " and ".join(f"{label} (before layer {layer})" for label, layer in ends)
            raise ValueError(f"visual tokens {what} once, but two members say when: {told}")
    return late[0][1] if late else 1, early[0][1] if early else None
