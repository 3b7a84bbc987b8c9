"""Models as the rest of the project sees them: found by name, loaded, saved, converted.

`load` and `peek` take a folder, "mini:<name>" or a Hub id; what differs between layouts and families stays in here.
"""

from hidrop.models.answer_ends import answer_ends
from hidrop.models.checking import check, family
from hidrop.models.convert import convert
from hidrop.models.digest import digest
from hidrop.models.loading import Loaded, Peeked, checkpoint_files, load, peek
from hidrop.models.saving import save

__all__ = [
    "Loaded",
    "Peeked",
    "answer_ends",
    "check",
    "checkpoint_files",
    "convert",
    "digest",
    "family",
    "load",
    "peek",
    "save",
]
