"""Properties of prompts in batches: what a prompt is answered does not depend on what is around it."""

from __future__ import annotations

import torch

from hidrop.testing.case import Case, compare, same_kept
from hidrop.testing.properties import Property
from hidrop.testing.report import Fault


def plan_is_counted(case: Case) -> str | None:
    """One image, two images of other sizes, and in a batch with a prompt without an image."""
    if case.first_schedule != (now := case.method.schedule(case.geometry)):
        raise Fault(f"schedule gave {case.first_schedule} before, and {now} now")
    if case.method.bound == "~":
        return "counts are about those of the plan"
    for seed, row in enumerate(case.rows):
        inputs = case.batch([row], seed=seed)
        planned, entering = case.planned(inputs), case.run(inputs).entering[0]
        fits = all(n <= most for n, most in zip(entering, planned, strict=True))
        if entering != planned and not (case.method.bound == "<=" and fits):
            raise Fault(
                f"{len(row)} images: {list(entering)} visual tokens entered the layers, planned {list(planned)}"
            )
    return None


def batch_is_single(case: Case) -> None:
    together = case.run(case.batch(case.rows))
    for number, row in enumerate(case.rows):
        alone = case.run(case.batch([row], seed=number))
        kept, after = alone.of_row(0), alone.after
        if row:
            what = f"row {number} keeps {{}} in a batch and {{}} alone"
            same_kept(together.of_row(number), kept, after, what)
        compare(together.logits[number], alone.logits[0], f"logits of row {number} in a batch and alone")


def padding_side(case: Case) -> None:
    left, right = (case.run(case.batch([case.images[1:2], case.images[:1]], side)) for side in ("left", "right"))
    for number in range(2):
        what = f"row {number} keeps {{}} with padding at the right and {{}} at the left"
        same_kept(right.of_row(number), left.of_row(number), left.after, what)
    compare(right.logits, left.logits, "logits with padding at the right and at the left")


def row_order(case: Case) -> None:
    """Rows of one shape, so that whatever is remembered by shape shows."""
    rows = [case.images[:1], case.images[:1]]
    batches = [case.batch([row], seed=seed) for seed, row in zip((20, 30), rows, strict=True)]

    def joined(order: tuple[int, int]) -> dict[str, torch.Tensor]:
        return {name: torch.cat([batches[number][name] for number in order]) for name in batches[0]}

    one, other = case.run(joined((0, 1))), case.run(joined((1, 0)))
    for number in range(2):
        what = f"a prompt keeps {{}} as row {1 - number} and {{}} as row {number} of two rows of the same length"
        same_kept(other.of_row(1 - number), one.of_row(number), one.after, what)
    compare(other.logits.flip(0), one.logits, "logits of two rows in the other order")


def no_image(case: Case) -> None:
    """Against the model as it is, without a method."""
    for seed in (0, 1):
        inputs = case.batch([[]], seed=seed)
        with torch.no_grad():
            plain = case.model(**inputs, logits_to_keep=1).logits[:, -1]
        compare(case.run(inputs).logits, plain, "logits of a prompt without an image and those of the plain model")
    case.run(case.batch([[], []], seed=3))


PROPERTIES: tuple[Property[Case], ...] = (
    Property(
        "plan = counted",
        "every layer holds the visual tokens that the plan says (adaptive methods: at most as many)",
        "let schedule say all that changes the number of tokens, and depend on nothing but the fields and the geometry",
        plan_is_counted,
    ),
    Property(
        "batch = single",
        "a prompt keeps the same tokens and gets the same answer alone and in any batch",
        "reduce over the tokens of a row only (dim=1), never over the batch; leave out fillers with view.valid_BV; "
        "keep nothing from one call to the next",
        batch_is_single,
    ),
    Property(
        "padding side",
        "padding left or right changes nothing",
        "use slots of the view only through visual_BV, text_BT and queries, and leave out fillers (order_BN < 0)",
        padding_side,
    ),
    Property(
        "row order",
        "the order of the rows changes nothing",
        "use no number of the row, and keep nothing from one call to the next (no cache in the class or module)",
        row_order,
    ),
    Property(
        "no image",
        "a prompt without an image runs as in the plain language model, alone and in a batch with others",
        "let prepare and score work with no visual slots, and with rows that have fillers only",
        no_image,
    ),
)
