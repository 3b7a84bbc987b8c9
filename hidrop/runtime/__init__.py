"""One way through the decoder for every method, for accuracy, timing and training."""

from hidrop.runtime.attach import Reduction, reduce
from hidrop.runtime.cache import RaggedCache
from hidrop.runtime.scoring import Prompt, Queries, View
from hidrop.runtime.trace import Kept, Trace, TraceMismatch

__all__ = ["Kept", "Prompt", "Queries", "RaggedCache", "Reduction", "Trace", "TraceMismatch", "View", "reduce"]
