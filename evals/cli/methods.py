"""The command on methods: methods."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from evals.cli.command import Group
from evals.cli.exit_codes import DONE
from evals.cli.options import Options, argument
from evals.plain_table import with_wrapped_end, wrapped
from hidrop.errors import UserError
from hidrop.program import program

if TYPE_CHECKING:
    from hidrop.method_facts import Facts, Offered

COMMANDS = Group("Methods")
HEADINGS = ("method", "works", "what it does")
WORDS = {
    "tower": "in the vision tower",
    "late entry": "late entry",
    "input": "before the decoder",
    "layers": "after layers of the decoder",
    "exit": "early exit",
    "never": "it changes nothing",
}


@dataclass(frozen=True, kw_only=True)
class MethodsOptions(Options):
    name: Annotated[
        str | None, argument("NAME", "A method, or your own: FILE.py:CLASS, MODULE:CLASS. Its code is imported.")
    ] = None


@COMMANDS.command("methods", example="fastv")
def methods(options: MethodsOptions) -> int:
    """List all methods; of one, show its fields, its published settings and the backbones that it supports.

    Methods of hidrop, and those that installed packages offer. A package's code is imported only if you name its
    method. No weights are loaded, and no GPU is needed.
    """
    from hidrop.method_facts import facts, listed

    if options.name is None:
        found = listed()
        options.say("\n".join(_table(found)))
        options.say(f"\n{len(found)} methods. `{program()} methods NAME` shows all about one.")
        options.document({"methods": [dataclasses.asdict(one) for one in found]})
        return DONE
    try:
        one = facts(options.name)
    except ValueError as error:
        raise UserError(str(error)) from None
    options.say("\n".join(_page(one)))
    options.document({"methods": [dataclasses.asdict(one)]})
    return DONE


def _table(found: list[Facts | Offered]) -> list[str]:
    from hidrop.method_facts import Facts

    rows: list[tuple[str, ...]] = [HEADINGS]
    for one in found:
        if isinstance(one, Facts):
            when = ["-" if word == "never" else word for word in one.when]
            rows.append((one.name, _when(one, ", ".join(when)), one.does))
        else:
            way = f"; the name is taken: write {one.place}" if one.taken else ""
            rows.append((one.name, "", f"offered by {one.origin}, not imported{way}"))
    return with_wrapped_end(rows)


def _when(one: Facts, known: str) -> str:
    return "as its members" if one.composed else known or "by its fields"


def _page(one: Facts) -> list[str]:
    """All about one method, at most 80 characters wide apart from links and paths."""
    refused: dict[str, list[str]] = {}
    for kind, why in one.refused.items():
        refused.setdefault(why, []).append(kind)
    told = [
        ("works", _when(one, ", ".join(WORDS[word] for word in one.when))),
        ("runs on", "what its members run on" if one.composed else ", ".join(one.runs_on)),
        *(("refuses", f"{', '.join(kinds)}: {why}") for why, kinds in refused.items()),
        ("budget", "possible, in the place of a count" if one.budget else "not possible"),
        ("paper", one.paper),
        ("code", one.code),
        ("from", f"{one.origin} ({one.place})"),
    ]
    says = [] if one.says.removesuffix(".") == one.does else [*wrapped(one.says), ""]
    return [
        *wrapped(f"{one.name}: {one.does}"),
        "",
        *with_wrapped_end([row for row in told if row[1]]),
        "",
        *says,
        *_fields(one),
        *(["", *_published(one)] if one.published else []),
    ]


def _fields(one: Facts) -> list[str]:
    if not one.fields:
        return ["It has no fields."]
    rows = [(field.name, field.default or "required", field.type) for field in one.fields]
    return with_wrapped_end([("field", "default", "type"), *rows])


def _published(one: Facts) -> list[str]:
    """A line for each model of each setting: the average visual tokens of a layer. Then why some have none."""
    from hidrop.method_facts import FOLDER, as_yaml

    why: dict[str, None] = {}
    rows: list[tuple[str, ...]] = [("published", "model", "average", "fields")]
    for setting in one.published:
        name = setting.name
        given = {**setting.fields, **dict.fromkeys(setting.yours, FOLDER)}
        fields = ", ".join(f"{key}: {as_yaml(value)}" for key, value in given.items())
        for plan in setting.plans:
            average = plan.lacking and ("is invalid" if plan.invalid else "needs more fields")
            if plan.average_tokens is not None:
                most = f"{plan.bound} " if plan.bound else ""
                average = f"{most}{plan.average_tokens:.2f} of {plan.visual_tokens}"
            rows.append((name, plan.model, average, fields))
            name = fields = ""
            if plan.lacking:
                why.setdefault(f"{setting.name} {average}: {plan.lacking}")
    told = [line for reason in why for line in wrapped(reason)]
    lines = [*with_wrapped_end(rows), *([""] if told else []), *told]
    first = next((setting for setting in one.published if not any(plan.invalid for plan in setting.plans)), None)
    if first is None:
        return lines
    entry = ", ".join([f"published: {first.name}", *(f"{key}: {FOLDER}" for key in first.yours)])
    return [*lines, "", f"In a matrix: {one.name}: {{{entry}}}"]
