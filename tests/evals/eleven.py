"""The paper's eleven tasks on a few documents each, with answers of three methods and what they are worth by hand.

Documents have the columns of the official files. Some are odd, as official rows can be: images of all kinds and sizes,
text in other alphabets, hints that are missing, empty or the word "nan", options that are None, two images in one
question, a question without an image, rows about videos. Answers are in the order of the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tests.evals.golden import (
    CLEAR,
    GREY,
    HIGH,
    PALETTE,
    PLAIN,
    PRINTED,
    TINY,
    TURNED,
    WIDE,
    Fabricated,
    Golden,
    Row,
    said,
    worth,
)

THIRD = 100 / 3


def mme() -> Fabricated:
    """Two images of perception and one of cognition, whose questions come in between and are asked last.

    FastV says yes to both questions about the first image (50 points for one right answer), "Nope" to a question whose
    answer is yes (50 points), and nothing to a question of cognition (50 points). Always yes is 50 points an image.
    """
    asked = [("count", "0001", "Yes"), ("code_reasoning", "0002", "Yes"), ("count", "0001", "No")]
    asked += [("code_reasoning", "0002", "No"), ("color", "0004", "Yes"), ("color", "0004", "No")]
    images = {"0001": PLAIN, "0002": GREY, "0004": TINY}
    rows = [
        {
            "question_id": f"{category}/{image}.png",
            "image": images[image],
            "question": f"¿Is it {answer}?{'  ' if image == '0001' else ' '}Please answer yes or no.",
            "answer": answer,
            "category": category,
        }
        for category, image, answer in asked
    ]
    half = {"cognition": 50.0, "accuracy": 50.0, "count": 50.0, "color": 50.0, "code_reasoning": 50.0}
    whole = {"cognition": 200.0, "accuracy": 100.0, "count": 200.0, "color": 200.0, "code_reasoning": 200.0}
    return Fabricated(
        tuple(rows),
        said(
            ("Yes", "yes", "No.", "No", "Yes, it is", "no"),
            ("Yes", "", "yes", "no", "Nope", "No"),
            ("yes",) * 6,
        ),
        worth(
            Golden(400, 100, (1,) * 6, whole),
            Golden(100, 25, (1, 0, 0, 1, 0, 1), half),
            Golden(100, 25, (1, 0) * 3, half),
        ),
        order=(0, 2, 4, 5, 1, 3),
    )


def rotations(questions: Mapping[int, Row]) -> tuple[Row, ...]:
    """MMBench's rows: all questions, then all of their second rotations, and so on."""
    turned = []
    for turn in range(4):
        for index, question in questions.items():
            options = question["options"]
            if turn < question["turns"]:
                shown = options[turn:] + options[:turn]
                letters = dict(zip("ABCD", [*shown, *question["no option"], None, None], strict=False))
                own = {name: question[name] for name in ("question", "hint", "category", "L2-category", "image")}
                more = {"source": "test", "comment": None, "split": "dev", "answer": "ABCD"[shown.index(options[0])]}
                turned.append({"index": index + turn * 1_000_000, **own, **letters, **more})
    return tuple(turned)


def question(*options: str, turns: int, **fields: Any) -> Row:
    """A question of MMBench whose first option is right."""
    named = {"question": "Which one?", "hint": "nan", "category": "x", "no option": [], "image": PLAIN}
    return {**named, "options": list(options), "turns": turns, **fields}


def mmbench() -> Fabricated:
    """Questions with three, two and one rotation; a question counts if all its rotations are right.

    FastV leaves the last rotation of the first question empty and misses one of the second. Always A is right in the
    first rotation of each question.
    """
    rows = rotations(
        {
            7: question(
                "red", "blue", "green", turns=3, hint="看 closely", **{"L2-category": "attribute", "image": CLEAR}
            ),
            9: question("cat", "dog", turns=2, **{"L2-category": "object", "no option": ["nan"], "image": PALETTE}),
            11: question("一", "二", "三", "四", turns=1, hint=None, **{"L2-category": "attribute", "image": HIGH}),
        }
    )
    return Fabricated(
        rows,
        said(
            ("A", "A.", "A", "C", "B", "B"),
            ("A", "B", "(A)", "C", "B", ""),
            ("A",) * 6,
        ),
        worth(
            Golden(100, 100, (1,) * 6, circular(100, 3, attribute=100, object=100)),
            Golden(THIRD, THIRD, (1, 1, 0, 0, 1, 1), circular(400 / 6, 3, attribute=50, object=0)),
            Golden(THIRD, THIRD, (1, 0, 0, 1, 0, 1), circular(50, 3, attribute=50, object=0)),
        ),
        order=(0, 3, 5, 1, 4, 2),
    )


def circular(rotation: float, questions: int, **level2: float) -> dict[str, float]:
    """MMBench's further metrics."""
    named = {f"l2_{name}": value for name, value in level2.items()}
    return {"rotation_accuracy": rotation, "questions": questions, **named}


def mmbench_cn() -> Fabricated:
    """Two questions. Vanilla misses a rotation of the first, FastV one of the second: one of two is right in both."""
    rows = rotations(
        {
            7: question("红", "蓝", "绿", turns=3, hint="仔细看", **{"L2-category": "attribute", "image": PRINTED}),
            9: question("猫", "狗", turns=2, question="哪一个", **{"L2-category": "object", "image": TURNED}),
        }
    )
    return Fabricated(
        rows,
        said(("A", "A", "C", "B", "C"), ("A", "B", "C", "B", "B"), ("A",) * 5),
        worth(
            Golden(50, 100, (1, 1, 0, 1, 1), circular(80, 2, attribute=0, object=100)),
            Golden(50, 100, (1, 1, 1, 0, 1), circular(80, 2, attribute=100, object=0)),
            Golden(0, 0, (1, 0, 0, 1, 0), circular(40, 2, attribute=0, object=0)),
        ),
        order=(0, 2, 4, 1, 3),
    )


def gqa() -> Fabricated:
    """LLaVA drops trailing dots only, so "red!" is wrong under its protocol; lmms-eval drops all punctuation."""
    asked = [("n0", "What colour?", "red"), ("n0", "Is it big?", "no"), ("n1", "Où?", "café"), ("n2", "How many?", "2")]
    images = {"n0": PLAIN, "n1": WIDE, "n2": TURNED}
    rows = [
        {"id": str(place), "imageId": image, "question": text, "answer": answer, "image": images[image]}
        | {"fullAnswer": f"It is {answer}.", "isBalanced": True, "groups": {"global": None, "local": "10q-x"}}
        for place, (image, text, answer) in enumerate(asked)
    ]
    whole, blind = Golden(100, 100, (1,) * 4), Golden(25, 25, (0, 1, 0, 0))
    return Fabricated(
        tuple(rows),
        said(("Red.", "no", "café", "2"), ("red!", "No", "CAFÉ", ""), ("blue", "no", "cafe", "two")),
        worth(whole, Golden(75, 75, (1, 1, 1, 0)), blind),
        worth(whole, Golden(50, 50, (0, 1, 1, 0)), blind),
    )


def vqav2() -> Fabricated:
    """One of ten people says "disc": for nine of them one other agrees, 9 x 1/3 / 10. Two say "on table": 2 x 1/3 and
    8 x 2/3. EvalAI's normalisation removes the comma of "red,blue"; lmms-eval's part of it puts a space there.
    """
    people = [["frisbee"] * 8 + ["a frisbee", "disc"], ["on table"] * 2 + ["floor"] * 8, ["redblue"] * 10]
    rows = [
        {
            "question_id": 262148000 + place,
            "image_id": 262148,
            "question_type": "none of the above",
            "question": "Where is he looking?",
            "multiple_choice_answer": texts[0],
            "answers": [
                {"answer": text, "answer_confidence": "yes", "answer_id": number}
                for number, text in enumerate(texts, start=1)
            ],
            "image": (PLAIN, GREY, CLEAR)[place],
        }
        for place, texts in enumerate(people)
    ]
    whole, blind = Golden(100, 100, (1, 1, 1)), Golden(0, 0, (0, 0, 0))
    return Fabricated(
        tuple(rows),
        said(("Frisbee", "floor", "redblue"), ("disc", "on table", "red,blue"), ("yes", "", "blue")),
        worth(whole, Golden(30, 30, (0.3, 0.6, 0)), blind),
        worth(whole, Golden(190 / 3, 190 / 3, (0.3, 0.6, 1)), blind),
    )


def scienceqa() -> Fabricated:
    """The third question has no image. "The answer is B." is LLaVA's form; lmms-eval reads a small letter."""
    asked: list[tuple[Any, Any, str, list[str], int]] = [
        (PLAIN, "Look at the map.\nIt shows a lake.", "Which lake?", ["Erie", "Huron", "Como"], 1),
        (PALETTE, "", "Do they attract?", ["attract", "repel"], 0),
        (None, "Pea plants.", "What is the ratio?", ["0:4", "1:3", "2:2", "3:1", "4:0"], 4),
        (GREY, None, "¿Qué?", ["árbol", "casa"], 1),
    ]
    rows = [
        {"image": image, "question": text, "choices": options, "answer": right, "hint": hint, "subject": "physics"}
        | {"task": "closed choice", "grade": "grade2", "lecture": "", "solution": "Look closely."}
        for image, hint, text, options, right in asked
    ]
    return Fabricated(
        tuple(rows),
        said(("B", "A", "E", "b"), ("The answer is B.", "A. attract", "", "B"), ("A",) * 4),
        worth(Golden(100, 100, (1,) * 4), Golden(50, 50, (0, 1, 0, 1)), Golden(25, 25, (0, 1, 0, 0))),
        worth(Golden(75, 100, (1, 1, 1, 0)), Golden(75, 100, (1, 1, 0, 1)), Golden(25, THIRD, (0, 1, 0, 0))),
    )


def vizwiz() -> Fabricated:
    """Three of ten say "coca cola": for three of them two others agree. Four say 10 in some form."""
    people = [["unanswerable"] * 10, ["coca cola"] * 3 + ["soda"] * 7, ["10", "ten", "10.", "Ten"] + ["dollar"] * 6]
    rows = [
        {
            "question_id": f"VizWiz_val_{place:08d}",
            "image": (WIDE, TINY, HIGH)[place],
            "question": ("what is THIS thing?", "¿qué es esto?", "how MUCH")[place],
            "answers": texts,
            "category": "other",
        }
        for place, texts in enumerate(people)
    ]
    return Fabricated(
        tuple(rows),
        said(("Unanswerable", "soda", "ten"), ("unanswerable.", "Coca Cola", ""), ("yes", "yes", "dollar")),
        worth(Golden(100, 100, (1, 1, 1)), Golden(190 / 3, 190 / 3, (1, 0.9, 0)), Golden(THIRD, THIRD, (0, 0, 1))),
    )


def textvqa() -> Fabricated:
    """The numbers are VQAv2's. The last image has no words that its OCR found."""
    people = [["nokia"] * 8 + ["the nokia", "sony"], ["12"] * 2 + ["13"] * 8, ["ünïcode"] * 10]
    rows = [
        {
            "image_id": f"t{place}",
            "question_id": 34602 + place,
            "question": "what does IT say?",
            "image": (TURNED, PRINTED, GREY)[place],
            "image_width": 40,
            "answers": texts,
            "ocr_tokens": (["NOKIA", "12"], ["日本"], [])[place],
        }
        for place, texts in enumerate(people)
    ]
    return Fabricated(
        tuple(rows),
        said(("Nokia", "13", "ünïcode"), ("sony", "12", "ÜNÏCODE"), ("banana", "", "")),
        worth(Golden(100, 100, (1, 1, 1)), Golden(190 / 3, 190 / 3, (0.3, 0.6, 1)), Golden(0, 0, (0, 0, 0))),
    )


def yes_no(whole: tuple[float, ...], **categories: tuple[float, ...]) -> dict[str, float]:
    """POPE's further metrics, of all samples and of each category."""
    names, found = ("accuracy", "precision", "recall", "f1", "yes_ratio"), dict[str, float]()
    for of, values in {"": whole, **{f"_{name}": values for name, values in categories.items()}}.items():
        found |= {f"{name}{of}": value for name, value in zip(names, values, strict=True)}
    return found


def pope() -> Fabricated:
    """A yes and a no in each category, and a second yes in the last one.

    FastV's answers under lmms-eval: only a bare yes or no is read, so one hit, one alarm and one miss are left.
    """
    asked = [(kind, answer) for kind in ("adversarial", "popular", "random") for answer in ("yes", "no")]
    rows = [
        {
            "id": str(place),
            "question_id": str(place),
            "question": "Is there a cup in the image?",
            "answer": answer,
            "image_source": f"COCO_val2014_{place % 2}",
            "image": (PLAIN, CLEAR)[place % 2],
            "category": category,
        }
        for place, (category, answer) in enumerate([*asked, ("random", "yes")])
    ]
    right, alarms, nothing = (100, 100, 100, 100, 50), (50, 50, 100, 200 / 3, 100), (0, 0, 0, 0, 0)
    return Fabricated(
        tuple(rows),
        said(
            ("Yes", "No", "yes", "no", "yes", "no", "yes"),
            ("Yes.", "no, none", "no", "No.", "", "yes", "yes"),
            ("yes",) * 7,
        ),
        worth(
            Golden(
                100,
                100,
                (1,) * 7,
                yes_no(
                    (100, 100, 100, 100, 400 / 7),
                    adversarial=right,
                    popular=right,
                    random=(100, 100, 100, 100, 200 / 3),
                ),
            ),
            Golden(
                50,
                50,
                (0, 0, 0, 0, 0, 0, 1),
                yes_no(
                    (100 / 7, 50, 50, 50, 200 / 7),
                    adversarial=nothing,
                    popular=nothing,
                    random=(THIRD, 50, 100, 200 / 3, 200 / 3),
                ),
            ),
            Golden(
                800 / 11,
                800 / 11,
                (1, 0, 1, 0, 1, 0, 1),
                yes_no(
                    (400 / 7, 400 / 7, 100, 800 / 11, 100),
                    adversarial=alarms,
                    popular=alarms,
                    random=(200 / 3, 200 / 3, 100, 80, 100),
                ),
            ),
        ),
    )


def pope_of_llava() -> Fabricated:
    """LLaVA's questions: without the last one. The value is the mean of the categories' F1.

    FastV's: the adversarial answers are right; the popular ones have no hit; the empty one is read as yes, and the
    other random one is an alarm: 2 x 1 / (2 x 1 + 1).
    """
    whole = pope()
    answers = {label: texts[:-1] for label, texts in whole.answers.items()}
    right, alarms = (100, 100, 100, 100, 50), (50, 50, 100, 200 / 3, 100)
    value = (100 + 0 + 200 / 3) / 3
    found = worth(
        Golden(100, 100, (1,) * 6, yes_no(right, adversarial=right, popular=right, random=right)),
        Golden(
            value,
            value,
            (1, 1, 0, 1, 1, 0),
            yes_no(
                (200 / 3, 200 / 3, 200 / 3, 200 / 3, 50),
                adversarial=right,
                popular=(50, 0, 0, 0, 0),
                random=alarms,
            ),
        ),
        Golden(200 / 3, 200 / 3, (1, 0) * 3, yes_no(alarms, adversarial=alarms, popular=alarms, random=alarms)),
    )
    return Fabricated(whole.rows[:-1], answers, found)


def seedbench() -> Fabricated:
    """Questions about one image, two images and one, with two rows about videos, which are not asked."""
    options = ["red", "2", "None", "a cat"]
    asked = [("image", "B", [PLAIN]), ("video", "A", [PLAIN] * 3), ("image", "D", [GREY, WIDE])]
    asked += [("image", "A", [TINY]), ("video", "C", [PLAIN])]
    rows = [
        {
            "answer": answer,
            **{f"choice_{letter}": text for letter, text in zip("abcd", options, strict=True)},
            "data_id": f"x{place}",
            "data_type": kind,
            "question": "What is it?",
            "question_id": str(100 + place),
            "question_type_id": 1,
            "image": images,
            "segment": None if kind == "image" else ["0", "4.2"],
        }
        for place, (kind, answer, images) in enumerate(asked)
    ]
    return Fabricated(
        tuple(rows),
        said(("B", "", "D.", "A", ""), ("B", "", "", "B", ""), ("b", "", "D", "D", "")),
        worth(Golden(100, 100, (1, 1, 1)), Golden(THIRD, THIRD, (1, 0, 0)), Golden(200 / 3, 200 / 3, (1, 1, 0))),
        worth(Golden(200 / 3, 100, (1, 0, 1)), Golden(THIRD, 50, (1, 0, 0)), Golden(THIRD, 50, (0, 1, 0))),
        order=(0, 2, 3),
    )


def mmstar() -> Fabricated:
    """Two questions in one sub-category, and one in each of two others, which weigh as much."""
    kinds = [("math", "geometry"), ("math", "geometry"), ("coarse perception", "image emotion")]
    kinds += [("science & technology", "biology & chemistry & physics")]
    rows = [
        {
            "index": place,
            "question": "Which one? 哪个\nOptions: A: red, B: blue, C: green, D: grey",
            "image": (PLAIN, CLEAR, HIGH, WIDE)[place],
            "answer": "BACD"[place],
            "category": category,
            "l2_category": level2,
            "meta_info": {"source": "MMBench", "split": "val", "image_path": f"images/{place}.jpg"},
        }
        for place, (category, level2) in enumerate(kinds)
    ]

    def extra(accuracy: float, math: float, coarse: float, science: float) -> dict[str, float]:
        return {"accuracy": accuracy, "math": math, "coarse perception": coarse, "science & technology": science}

    return Fabricated(
        tuple(rows),
        said(("B", "The answer is A", "(C)", "D"), ("B", "C", "", "D."), ("A",) * 4),
        worth(
            Golden(100, 100, (1,) * 4, extra(100, 100, 100, 100)),
            Golden(50, 50, (1, 0, 0, 1), extra(50, 50, 0, 100)),
            Golden(50 / 3, 50 / 3, (0, 1, 0, 0), extra(25, 50, 0, 0)),
        ),
    )


ELEVEN: dict[str, Callable[[], Fabricated]] = {
    "mme": mme,
    "mmbench_en_dev": mmbench,
    "mmbench_cn_dev": mmbench_cn,
    "gqa": gqa,
    "vqav2_val": vqav2,
    "scienceqa_img": scienceqa,
    "vizwiz_vqa_val": vizwiz,
    "textvqa_val": textvqa,
    "pope": pope,
    "seedbench": seedbench,
    "mmstar": mmstar,
}


def vqav2_test() -> Fabricated:
    """Of three questions the last two are in test-dev."""
    rows = [
        {"question_id": number, "image_id": number // 1000, "question": "Where is he?", "answers": None, "image": image}
        for number, image in ((262148000, PLAIN), (262148001, CLEAR), (393225000, GREY))
    ]
    answers = said(("the floor", "The Frisbee.", "Café, two"), ("", "", "Two"), ("yes", "yes", "yes"))
    return Fabricated(tuple(rows), answers, {}, order=(0, 1, 2))


def vizwiz_test() -> Fabricated:
    rows = [
        {"question_id": f"VizWiz_test_{place:08d}", "image": image, "question": "what is THIS?", "answers": None}
        | {"category": None}
        for place, image in enumerate((TINY, TURNED))
    ]
    return Fabricated(tuple(rows), said(("Unanswerable", "A Coke."), ("", "ten"), ("yes", "yes")), {})


SUBMITTED: dict[str, Callable[[], Fabricated]] = {"vqav2_test": vqav2_test, "vizwiz_vqa_test": vizwiz_test}
