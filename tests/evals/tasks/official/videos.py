"""Tasks about videos, whose names the documents hold. lmms-eval looks for the files below HF_HOME."""

from __future__ import annotations

from typing import Any

from tests.evals.tasks.official.row import Row


def mlvu() -> list[dict[str, Any]]:
    """Three of the seven kinds of questions; two about one video."""
    rows = [("plotQA", "A", 0), ("plotQA", "B", 0), ("count", "C", 1), ("ego", "D", 1)]
    return [
        {"video_name": f"video{video}.mp4", "question": f"Q{i}?\n(A) x\n(B) y", "answer": answer, "task_type": kind}
        | {"candidates": ["x", "y", "z", "w"], "duration": 2.0}
        for i, (kind, answer, video) in enumerate(rows)
    ]


def egoschema() -> list[dict[str, Any]]:
    return [
        {"question_idx": str(i), "question": "Why?", "video_idx": f"clip{i % 2}", "answer": answer}
        | {"option": [f"{letter}. reason {letter}" for letter in "ABCDE"]}
        for i, answer in enumerate(["0", "4", "2", "1"])
    ]


def nextqa() -> list[dict[str, Any]]:
    return [
        {"video": 1000 + i % 2, "question": f"q{i}", "answer": answer, "qid": i, "type": "CW", "frame_count": 8}
        | {f"a{n}": f"reason {n}" for n in range(5)}
        for i, answer in enumerate([0, 3, 4])
    ]


def charades() -> list[dict[str, Any]]:
    rows = [("person sits", [0.0, 10.0]), ("person stands", [4.0, 8.0]), ("person läuft", [1.0, 2.0])]
    return [{"video": "AO8RW.mp4", "caption": caption, "timestamp": span} for caption, span in rows]


def mvbench() -> list[dict[str, Any]]:
    rows = [("up", "up"), ("down", "up"), ("up", "down"), ("down", "down")]
    return [
        {"video": f"{i % 2}.mp4", "question": "Which?", "candidates": ["up", "down"], "answer": answer}
        for i, (answer, _) in enumerate(rows)
    ]


def countix() -> list[dict[str, Any]]:
    return [
        {"Video_Name": f"clip{i % 2}.mp4", "question": 'How often, "exactly"?', "answer": count}
        for i, count in enumerate([4, 10, 2, 3])
    ]


ROWS: dict[str, Row] = {
    # The mean over seven kinds of which four have no document: (50 + 100 + 0) / 7.
    "mlvu_dev": Row(
        "MLVU_dev/data/test-00000-of-00001.parquet",
        mlvu(),
        ("A", "(C)", "The best option is C", ""),
        150 / 7,
        [1] * 4,
        films=("mlvu/video0.mp4", "mlvu/video1.mp4"),
    ),
    "egoschema_subset": Row(
        "egoschema/Subset/test-00000-of-00001.parquet",
        egoschema(),
        ("A", "(E)", "B. reason B", "B"),
        0.75,
        [1] * 4,
        films=("egoschema/videos/clip0.mp4", "egoschema/videos/clip1.mp4"),
    ),
    "nextqa_mc_test": Row(
        "NExTQA/MC/test-00000-of-00001.parquet",
        nextqa(),
        ("A", "(D)", "C."),
        2 / 3,
        [1] * 3,
        films=("nextqa/NExTVideo/1000.mp4", "nextqa/NExTVideo/1001.mp4"),
    ),
    # Overlaps of 5/10, 4/4 and none.
    "temporal_grounding_charades": Row(
        "charades_sta/data/test-00000-of-00001.parquet",
        charades(),
        ("It happens in 0 - 5 seconds.", "4.0 - 8.0", "never"),
        200 / 3,
        [1] * 3,
        {"charades_sta_IOU@5": 200 / 3, "charades_sta_IOU@7": 100 / 3, "charades_sta_mIOU": 50.0},
        films=("charades_sta/Charades_v1_480/AO8RW.mp4",),
    ),
    # JSON. An empty answer is left out of the mean: two of three.
    "mvbench_action_antonym": Row(
        "MVBench/json/action_antonym.json",
        mvbench(),
        ("(A) up", "B", "b", ""),
        200 / 3,
        [1] * 4,
        films=("mvbench_video/ssv2_video_mp4/0.mp4", "mvbench_video/ssv2_video_mp4/1.mp4"),
    ),
    # CSV, which the task names by its address on the Hub. |5 - 4| / 4.1, 0, and the count where an answer has none.
    "countix": Row(
        "Countix-QA/cut_countix_test.csv",
        countix(),
        ("It is 5", "10", "", "7"),
        (1 / 4.1 + 0 + 2 + 4 / 3.1) / 4,
        [1] * 4,
        {"obo": 0.5},
        films=("countix/clip0.mp4", "countix/clip1.mp4"),
    ),
}
