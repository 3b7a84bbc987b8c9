"""Properties of what follows a prefill: decoding with its cache, a next turn, and the labelled forward of training."""

from __future__ import annotations

from typing import Any

import torch

from hidrop.testing.case import Case, Inputs, Run, compare, same_kept
from hidrop.testing.properties import Property
from hidrop.testing.report import Fault, Skip
from hidrop.testing.tiny.inputs import words

ANSWER = 3  # tokens
LONG = 12  # tokens of an answer that would change a choice if it were read


def with_answer(case: Case, inputs: Inputs, seed: int, tokens: int = ANSWER) -> tuple[Inputs, torch.Tensor]:
    """One prompt with an answer after it, and the answer's ids (1, tokens)."""
    answer = torch.tensor([words(tokens, seed + 700)])
    whole = {name: value for name, value in inputs.items() if name not in case.backbone.derived_inputs}
    whole["input_ids"] = torch.cat([inputs["input_ids"], answer], 1)
    whole["attention_mask"] = torch.ones_like(whole["input_ids"])
    return whole, answer


def labelled(case: Case, whole: Inputs, tokens: int = ANSWER) -> Run:
    """The forward of training, in eval mode so that there are logits: all tokens but the answer have no label."""
    labels = whole["input_ids"].clone()
    labels[:, :-tokens] = -100
    return case.run(whole, labels=labels, logits_to_keep=0)


def decoded(case: Case, inputs: Inputs, answer: torch.Tensor, sizes: tuple[int, ...]) -> torch.Tensor:
    """Logits after the prompt and after each part of the answer, in steps of these sizes: (1, steps + 1, vocab)."""
    with case.reduced() as (reduction, watched), torch.no_grad():
        watched.start()
        out: Any = reduction.model(**inputs, logits_to_keep=1)
        logits, cache = [out.logits[:, -1]], out.past_key_values
        for part in answer.split(sizes, 1):
            watched.start()
            out = reduction.model(input_ids=part, past_key_values=cache)
            logits.append(out.logits[:, -1])
    return torch.stack(logits, 1)


def cache_is_recomputation(case: Case) -> str | None:
    for seed, row in enumerate(case.rows[:2]):
        inputs = case.batch([row], seed=seed)
        whole, answer = with_answer(case, inputs, seed)
        steps = decoded(case, inputs, answer, (1,) * ANSWER)
        if case.method.rechosen:
            again = case.run(whole).logits
            compare(steps[:, -1], again, "logits of a decoded token, and of the whole sequence again")
            continue
        made = labelled(case, whole)
        if made.kept != case.run(inputs).kept:
            return "not compared for a prompt whose choice the answer changes: see 'answers are not read'"
        compare(
            steps[:, :-1],
            made.output.logits[:, -ANSWER - 1 : -1],
            "logits of tokens that are decoded with the cache, and of one forward over the whole sequence",
        )
    return None


def next_turn(case: Case) -> None:
    inputs = case.batch(case.rows[1:2], seed=4)
    _, answer = with_answer(case, inputs, 4)
    one, many = (decoded(case, inputs, answer, sizes)[:, -1] for sizes in ((ANSWER,), (1,) * ANSWER))
    compare(one, many, "logits after a next turn at once, and token by token")


def answers_are_not_read(case: Case) -> None:
    if case.method.rechosen:
        raise Skip("each token chooses again; in training one choice holds for the whole answer")
    for seed in range(4):
        inputs = case.batch(case.rows[seed % 2 : seed % 2 + 1], seed=seed)
        whole, _ = with_answer(case, inputs, seed, LONG)
        asked, taught = case.run(inputs), labelled(case, whole, LONG)
        what = "with an answer after the question it keeps {}, and without {}"
        same_kept(taught.of_row(0), asked.of_row(0), asked.after, what)


def gradients(case: Case) -> None:
    inputs = case.batch(case.rows, seed=2)
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    labels[:, :-2] = -100
    model, decoder = case.model, case.backbone.decoder
    model.train()
    try:
        with case.reduced() as (_, watched):
            watched.start()
            loss = model(**inputs, labels=labels).loss
            if not torch.isfinite(loss):
                raise Fault(f"the loss of a training step is {loss.item()}")
            loss.backward()
        attached = any(seen.score.requires_grad for seen in watched.now.cuts)
        if attached and case.method.topk == "released":
            raise Fault("scores have a gradient to the decoder's states, and topk is 'released'")
        for name, parameter in decoder.layers.named_parameters():
            if parameter.grad is None:
                raise Fault(f"the decoder's layers.{name} gets no gradient")
        for name, parameter in model.named_parameters():
            if parameter.grad is not None and not bool(torch.isfinite(parameter.grad).all()):
                raise Fault(f"the gradient of {name} is not finite")
    finally:
        model.zero_grad(set_to_none=True)
        model.eval()


PROPERTIES: tuple[Property[Case], ...] = (
    Property(
        "decode = recompute",
        "tokens that are decoded with the cache get the logits of one forward over the whole sequence",
        "let a prompt's choice depend on the prefill only; `rechosen` is for methods that choose again at each token",
        cache_is_recomputation,
    ),
    Property(
        "next turn",
        "a next turn at once gives what it gives token by token",
        "let a prompt's choice depend on the prefill only",
        next_turn,
    ),
    Property(
        "answers are not read",
        "the labelled forward of training keeps the tokens that the question alone keeps: else training sees the "
        "answer that the model has to learn",
        "read view.queries (in training they are the tokens right before an answer), view.text_by_norm(), and in "
        "prepare prompt.question_BT: none of them has answers",
        answers_are_not_read,
    ),
    Property(
        "gradients",
        "a training step gives a finite loss, and finite gradients to all weights of the decoder's layers",
        "score without torch.enable_grad (unless topk is 'ste' or 'soft-gate'), and divide by nothing that can be zero",
        gradients,
    ),
)
