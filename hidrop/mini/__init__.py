"""The embedded benchmark: small test sets in the formats of official benchmarks, made on first use.

Nothing is downloaded: the digits ship with scikit-learn, and everything else is drawn. `python -m hidrop.mini [FOLDER]`
writes the sets into a folder; `ensure()` writes them once into the cache folder.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hidrop.cache_folder import cache_folder

# Part of the folder's name: raise it whenever a set is new, or a pixel or a question changes. A cell's identity has the
# digest of its own task's file instead, so a new set leaves the cells of the others finished.
DATA_VERSION = "3"


def ensure() -> Path:
    """The folder with the parquet files, built if it is not there yet (some seconds). Safe to call in parallel."""
    root = cache_folder()
    folder = root / f"mini-data-v{DATA_VERSION}"
    if folder.is_dir():
        return folder
    root.mkdir(parents=True, exist_ok=True)
    # Built next to its final place and renamed, so an interrupted build never looks finished.
    draft = Path(tempfile.mkdtemp(prefix="mini-data-", dir=root))
    try:
        write(draft)
        draft.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return folder


def write(folder: Path) -> None:
    """Write the test sets below `folder`, the same bytes every time."""
    import io

    import datasets
    from PIL import Image

    from hidrop.mini.scenes import Scene, render
    from hidrop.mini.test_sets import SETS

    def png(scene: Scene | None) -> dict[str, object] | None:
        if scene is None:
            return None
        buffer = io.BytesIO()
        Image.fromarray(render(scene)).save(buffer, format="PNG")
        return {"bytes": buffer.getvalue(), "path": f"{scene.key}.png"}

    shown = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        for name, rows, count in SETS.values():
            table = [{**{k: v for k, v in r.items() if k != "scene"}, "image": png(r["scene"])} for r in rows(count)]
            dataset = datasets.Dataset.from_list(table).cast_column("image", datasets.Image())
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            dataset.to_parquet(str(folder / name))
    finally:
        if shown:
            datasets.enable_progress_bars()
