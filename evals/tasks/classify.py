"""Which of lmms-eval's tasks can be run here, told from their YAML files and sources, without an import.

The classes, in the order in which they are tried:

- first-class: a file of its own in `evals.tasks`
- refused: several rounds, images that the model makes, audio, examples before the question, repeated questions, a file
  that names a function which does not exist
- needs packages: a module of the task imports what is not installed
- needs data: its documents are prepared from the network
- log-likelihood: the model rates given answers
- to submit: no metric has a value here; the official file is written
- to judge: a judge's model scores the answers; they are written, and `hidrop score` takes the scores later
- runs here

It is an estimate (see `evals.tasks.source_scan`). `evals.tasks.rehearsal` tries a task on documents before a run.
"""

from __future__ import annotations

import functools
import glob
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from evals.tasks.index import BUILDERS, Entry, Function, data_files, functions_of, hub_file
from evals.tasks.source_scan import Part, closure, lacking, run_on_import, undefined

Class = Literal[
    "first-class", "runs here", "log-likelihood", "to judge", "to submit", "needs packages", "needs data", "refused"
]
Media = Literal["image", "video", "text", "audio"]

# What a part's source has if it asks a judge's model, or any server.
JUDGE = re.compile(
    r"llm_judge|get_server\(|\bOpenAI\(|openai\.|requests\.(post|request)|chat/completions|get_chat_response|"
    r"call_gpt|get_eval\(|AzureOpenAI|eval_method=.openai|anthropic\.|genai\.|pipeline\(|from_pretrained\("
)
NETWORK = re.compile(r"load_dataset\(|snapshot_download\(|hf_hub_download\(|requests\.get\(|urlopen\(|urlretrieve\(")
AUDIO = re.compile(r"audio|\.wav\b|librosa|soundfile", re.IGNORECASE)
VIDEO = re.compile(r"video|\.mp4|VideoReader|decord|\.avi\b|\.mkv\b", re.IGNORECASE)
# Tasks whose evaluator can ask a judge, but never does: they read answers by rules. Seen by running them.
WITHOUT_JUDGE = frozenset({"mmbench_en_dev_static"})
ROUNDS = {
    "generate_until_multi_round": "it asks in several rounds",
    "generate_until_agentic": "it lets the model use tools in several rounds",
    "generate_visual_cot": "it asks the model to make images",
    "loglikelihood_rolling": "it rates whole texts",
}


@dataclass(frozen=True)
class Classified:
    """A task's class. reason: why, in words, with the file and line where that is known; "" where nothing is missing.

    metric: the one that the task is scored by. packages: what has to be installed.
    """

    name: str
    kind: Class
    media: Media
    reason: str = ""
    metric: str | None = None
    packages: tuple[str, ...] = ()

    @property
    def runs(self) -> bool:
        """Whether a matrix may have the task: with scores, or with answers that are scored elsewhere."""
        return self.kind in ("first-class", "runs here", "log-likelihood", "to judge", "to submit")


def classify(entry: Entry) -> Classified:
    """The class of an entry of lmms-eval's index, or of a user's own YAML file."""
    media = media_of(entry)
    if why := _refused(entry, media):
        return Classified(entry.name, "refused", media, why)
    if missing := lacking(entry.functions):
        packages = ", ".join(f"{package} ({place})" for package, place in missing.items())
        return Classified(entry.name, "needs packages", media, packages, packages=tuple(missing))
    if why := _downloads(entry):
        return Classified(entry.name, "needs data", media, why)
    metric, kind, why = scored_by(entry)
    if kind == "runs here" and entry.config.get("output_type") == "multiple_choice":
        kind = "log-likelihood"
    return Classified(entry.name, kind, media, why, metric)


def _refused(entry: Entry, media: Media) -> str:
    """Why hidrop does not ask a task, in words; "" if it does."""
    config = entry.config
    if entry.kind == "class":
        return "it is a Python class of its own, and no configuration"
    if why := ROUNDS.get(config.get("output_type") or ""):
        return why
    if media == "audio":
        return f"it asks about audio{_place(_visual(entry), AUDIO)}"
    if shots := int(config.get("num_fewshot") or 0):
        return f"it shows {shots} examples before the question"
    if (repeats := int(config.get("repeats") or 1)) > 1:
        return f"it asks each question {repeats} times"
    if found := undefined(entry.functions):
        return f"its file names {found}"
    if media != "text" and config.get("doc_to_visual") is None:
        return "it asks by chat messages only (doc_to_messages without doc_to_visual)"
    return ""


def _downloads(entry: Entry) -> str:
    """Which step of a task gets data from the network, or from another machine's folder, in words; "" for none."""
    if entry.config.get("dataset_path") in BUILDERS:
        for name in data_files(entry):
            if not hub_file(name) and ("://" in name or name.startswith("/")) and not glob.glob(name):
                return f"its documents are at {name}. Name a copy in a YAML file of your own, under data_files"
    for step in ("process_docs", "doc_to_visual", "doc_to_text"):
        if place := _place(closure(functions_of(entry.config.get(step))), NETWORK):
            return f"its {step} downloads{place}"
    place = _place(run_on_import(entry.functions), NETWORK)
    return f"its module downloads when it is imported{place}" if place else ""


def scored_by(entry: Entry) -> tuple[str | None, Class, str]:
    """The first metric that has a value here, or else why there is none."""
    config, metrics = entry.config, entry.config.get("metric_list") or ()
    if not metrics:
        return None, "runs here", ""
    if entry.name not in WITHOUT_JUDGE and (
        place := _place(closure(functions_of(config.get("process_results"))), JUDGE)
    ):
        return str(metrics[0]["metric"]), "to judge", f"its process_results asks a judge{place}"
    found = [(str(one["metric"]), *metric_class(entry, str(one["metric"]))) for one in metrics]
    for kind in ("runs here", "to judge"):
        if own := [one for one in found if one[1] == kind]:
            return own[0]
    return found[0]


def metric_class(entry: Entry, metric: str) -> tuple[Class, str]:
    """Whether the aggregation of a metric gives a value here, asks a judge, or only writes a file; and where.

    A metric that the file does not name has lmms-eval's own aggregation.
    """
    listed = entry.config.get("metric_list") or ()
    aggregation = next((one.get("aggregation") for one in listed if str(one["metric"]) == metric), None)
    if not isinstance(aggregation, Function):
        return "runs here", ""
    parts = closure([aggregation])
    if entry.name not in WITHOUT_JUDGE and (place := _place(parts, JUDGE)):
        return "to judge", f"the aggregation of {metric} asks a judge{place}"
    if parts and not parts[0].returns:
        return "to submit", f"the aggregation of {metric} only writes a file ({_where(parts[0])})"
    return "runs here", ""


def media_of(entry: Entry) -> Media:
    """What a document shows, as far as its functions tell."""
    config = entry.config
    if config.get("doc_to_visual") is None and config.get("doc_to_messages") is None:
        return "text"
    parts = _visual(entry)
    if _place(parts, AUDIO) and not _place(parts, re.compile(r"image|frame|video", re.IGNORECASE)):
        return "audio"
    if AUDIO.search(str(_name(config.get("doc_to_visual")))):
        return "audio"
    if (config.get("dataset_kwargs") or {}).get("video") or _place(parts, VIDEO):
        return "video"
    return "image"


def _visual(entry: Entry) -> Sequence[Part]:
    return closure(functions_of(entry.config.get("doc_to_visual")))


def _name(value: object) -> str:
    return value.name if isinstance(value, Function) else str(value)


def _place(parts: Sequence[Part], wanted: re.Pattern[str]) -> str:
    """ " (utils.py, line 30)" for the first part whose source has a pattern; "" for none."""
    return next((place for part in parts if (place := _place_in(part, wanted))), "")


@functools.cache  # many tasks share their parts
def _place_in(part: Part, wanted: re.Pattern[str]) -> str:
    if not (found := wanted.search(part.text)):
        return ""
    line = part.line + part.text.count("\n", 0, found.start())
    return f" ({part.file.parent.name}/{part.file.name}, line {line})"


def _where(part: Part) -> str:
    return f"{part.file.parent.name}/{part.file.name}, line {part.line}"
