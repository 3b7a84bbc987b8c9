"""Open an image by one rule, for evaluation and training: whole or not at all, and from inside one folder only."""

from __future__ import annotations

import io
import re
import stat
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hidrop.errors import in_a_line, shortened
from hidrop.png_chunks import damage
from hidrop.regular_files import Unreadable, read_bytes

if TYPE_CHECKING:
    from PIL import Image

# PIL's readers that are used. Others start programs (EPS starts Ghostscript), or show a page instead of a picture.
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
# PIL refuses larger images by default, as they may be made to fill the memory.
MOST_PIXELS = 178_956_970
MOST_BYTES = 1 << 30
_QUARTER_TURNS = (5, 6, 7, 8)  # EXIF orientations that swap width and height
BASE64 = re.compile(r"(data:[\w/+.-]+;base64,)?[A-Za-z0-9+/\r\n]{64,}={0,2}\s*")


class ImageError(ValueError):
    """Why an image cannot be used. The same file gives the same text in every run."""


def open_image(content: bytes, *, turned: bool = False) -> Image.Image:
    """An image file's content as a decoded RGB image; `info` is that of the file, with its EXIF data.

    turned: turn the image as its EXIF orientation says, and drop this entry.
    16-bit grey is scaled to 8 bits by dropping the low byte, as PIL does with 16-bit colours. Raises ImageError for a
    broken or truncated file, whatever PIL's process-wide settings are. A PNG file's checksums are compared. Other
    formats have none, so that bytes that were overwritten inside a file of full length can go unnoticed.
    """
    from PIL import UnidentifiedImageError

    if not content:
        raise ImageError("the image has no bytes")
    if problem := damage(content):
        raise ImageError(f"broken image: {problem}")
    try:
        with _STRICT:
            return _decoded(content, turned)
    except (ImageError, MemoryError):
        raise
    except UnidentifiedImageError:
        raise ImageError(f"not an image ({', '.join(FORMATS)}): it begins with {content[:12]!r}") from None
    except Exception as error:  # a broken file can make PIL raise anything
        raise ImageError(f"broken image: {in_a_line(error)}") from error


def _decoded(content: bytes, turned: bool) -> Image.Image:
    from PIL import ExifTags, Image, ImageOps

    Image.init()
    image: Any = Image.open(io.BytesIO(content), formats=[name for name in FORMATS if name in Image.OPEN])
    width, height = image.size
    if width * height > MOST_PIXELS:
        raise ImageError(f"the image has {width} x {height} pixels. At most {MOST_PIXELS:,} are decoded")
    if turned:
        image.load()
        if image.getexif().get(ExifTags.Base.Orientation) is not None:
            image = ImageOps.exif_transpose(image)
    return as_rgb(image)


def image_size(content: bytes, *, turned: bool = False) -> tuple[int, int]:
    """Height and width of an image file, from its header. turned: as its EXIF orientation says.

    Raises ImageError for a file that is no image.
    """
    from PIL import ExifTags, Image

    Image.init()
    try:
        image = Image.open(io.BytesIO(content), formats=[name for name in FORMATS if name in Image.OPEN])
        orientation = image.getexif().get(ExifTags.Base.Orientation) if turned else None
    except Exception as error:  # PIL raises many types for a broken file
        raise ImageError(in_a_line(error)) from None
    width, height = image.size
    return (width, height) if orientation in _QUARTER_TURNS else (height, width)


def as_rgb(image: Image.Image) -> Image.Image:
    """A PIL image of any mode as RGB, as `open_image` gives it. One that is not decoded yet is decoded strictly.

    Raises ImageError for a mode whose black and white are not known, and PIL's errors for a broken image.
    """
    import numpy as np
    from PIL import Image

    with _STRICT:
        image.load()
    if image.mode in ("I", "F"):
        raise ImageError(f"mode {image.mode}: its black and white are not known. Save the image with 8 bits a channel")
    if image.mode.startswith("I;16"):
        grey = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        grey.info = dict(image.info)
        image = grey
    return image.convert("RGB")


def read_inside(folder: Path, name: str, *starts: Path) -> bytes:
    """The content of the regular file `name` inside `folder`; see `inside`."""
    path, shown = inside(folder, name, *starts), shortened(name)
    try:
        return read_bytes(path, MOST_BYTES)
    except Unreadable as reason:
        raise ImageError(f"{shown}: cannot be read: {reason}") from None


def inside(folder: Path, name: str, *starts: Path) -> Path:
    """The regular file `name`, a path inside `folder`. A relative path may begin at one of `starts` or there.

    Raises ImageError if the path leads out of the folder (by a link, too), and for anything that is not a regular file:
    reading a pipe could wait forever.
    """
    shown = shortened(name)
    if held := base64_text(name):
        raise ImageError(f"{held} instead of an image. Decode it to bytes")
    if "://" in name:
        raise ImageError(f"{shown}: an address. Only files inside the folder of the images are read")
    try:
        root = folder.resolve()
        places = [(start.resolve() / name).resolve() for start in (*starts, folder)]
        path = next((place for place in places if place.exists()), places[-1])
        if not path.is_relative_to(root):
            raise ImageError(f"{shown}: leads out of the folder of the images")
        if not stat.S_ISREG(path.stat().st_mode):
            raise ImageError(f"{shown}: not a regular file")
        return path
    except OSError as error:
        raise ImageError(f"{shown}: cannot be read: {error.strerror}") from None
    except RuntimeError:  # pathlib's error for a link to itself, before Python 3.13
        raise ImageError(f"{shown}: a link that leads to itself") from None
    except ValueError as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError(f"{shown}: not a path ({in_a_line(error)})") from None


def base64_text(text: str) -> str:
    """What a text is if it is base64, as in the TSV files of other toolkits, instead of a path; otherwise ""."""
    return f"base64 text of {len(text):,} characters" if BASE64.fullmatch(text) and len(text) > 255 else ""


class _Strict:
    """Holds PIL's process-wide settings at strict values while a thread decodes, and restores them after the last one.

    lmms-eval lets PIL read truncated files as if they were whole (`LOAD_TRUNCATED_IMAGES`), and some of its tasks move
    the limit of pixels. PIL has no setting for a single image.
    """

    def __init__(self) -> None:
        self._lock, self._inside = threading.Lock(), 0
        self._found: tuple[bool, int | None] = (False, None)

    def __enter__(self) -> None:
        from PIL import Image, ImageFile

        with self._lock:
            if not self._inside:
                self._found = ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS
                ImageFile.LOAD_TRUNCATED_IMAGES = False
                Image.MAX_IMAGE_PIXELS = None  # `MOST_PIXELS` is the limit
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        from PIL import Image, ImageFile

        with self._lock:
            self._inside -= 1
            if not self._inside:
                ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS = self._found


_STRICT = _Strict()
