"""`python -m hidrop.mini [FOLDER]`: write the embedded test sets and say what is in them."""

from __future__ import annotations

import sys
from pathlib import Path

from hidrop.mini import ensure, write


def main() -> None:
    if len(sys.argv) > 1:
        folder = Path(sys.argv[1])
        folder.mkdir(parents=True, exist_ok=True)
        write(folder)
    else:
        folder = ensure()
    import pyarrow.parquet

    for path in sorted(folder.glob("*/*.parquet")):
        print(f"{path}: {pyarrow.parquet.read_metadata(path).num_rows} rows, {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
