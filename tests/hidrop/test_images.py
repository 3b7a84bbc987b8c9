"""Opening images: whole or not at all, from inside a folder only, with the same words in every run."""

from __future__ import annotations

import base64
import io
import os
import re
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile

from hidrop.images import FORMATS, ImageError, open_image, read_inside
from hidrop.png_chunks import damage

NOISE = np.random.default_rng(0).integers(0, 256, (64, 48, 3), dtype=np.uint8)


def saved(image: Any, format: str = "PNG", **settings: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **settings)
    return buffer.getvalue()


def pixels(content: bytes) -> np.ndarray:
    image = open_image(content)
    assert image.mode == "RGB"
    return np.asarray(image)


@pytest.fixture(params=["as imported", "as lmms-eval leaves it", "strict"])
def pil(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """PIL's process-wide settings, as something else in the process may have left them."""
    settings = {"as imported": (False, 89478485), "as lmms-eval leaves it": (True, None), "strict": (False, 4)}
    truncated, limit = settings[request.param]
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", truncated)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)


@pytest.mark.parametrize("format", ["PNG", "BMP", "PPM", "TIFF", "WEBP", "JPEG2000"])
def test_a_whole_image_of_a_lossless_format_gives_its_pixels(format: str, pil: None) -> None:
    settings = {"lossless": True} if format == "WEBP" else {}
    assert np.array_equal(pixels(saved(Image.fromarray(NOISE), format, **settings)), NOISE)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
@pytest.mark.parametrize("format", ["PNG", "JPEG", "BMP", "GIF", "PPM", "TIFF", "WEBP"])
def test_a_truncated_image_is_refused_whatever_pil_was_told(format: str, share: float, pil: None) -> None:
    content = saved(Image.fromarray(NOISE), format)
    before = ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS
    assert pixels(content).shape == NOISE.shape
    with pytest.raises(ImageError):
        open_image(content[: int(share * len(content))])
    assert before == (ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS)


def overwritten(content: bytes, start: int, stop: int) -> bytes:
    return content[:start] + bytes(len(content[start:stop])) + content[stop:]


@pytest.mark.parametrize("image", ["noise", "smooth"])
def test_a_png_file_of_full_length_with_other_bytes_is_refused(image: str, pil: None) -> None:
    pixel = (
        NOISE if image == "noise" else np.broadcast_to(np.arange(96, dtype=np.uint8)[:, None, None] * 2, (96, 400, 3))
    )
    content = saved(Image.fromarray(np.ascontiguousarray(pixel)))
    assert np.array_equal(pixels(content), pixel)
    for share in (0.1, 0.3, 0.5, 0.7, 0.9, 0.99):
        start = int(share * len(content))
        for stop in (start + 1, start + 512, len(content)):
            changed = overwritten(content, start, stop)
            if changed != content:  # a byte may have been zero
                with pytest.raises(ImageError, match="broken image"):
                    open_image(changed)
    flips = np.random.default_rng(1).integers(0, 8 * len(content), 300)
    for bit in map(int, flips):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ImageError):
            open_image(bytes(changed))


def test_a_png_file_without_its_end_or_without_a_part_is_refused(pil: None) -> None:
    content = saved(Image.fromarray(np.tile(NOISE, (20, 8, 1))))
    places = [found.start() - 4 for found in re.finditer(b"IDAT", content)]
    assert len(places) > 2, "PIL writes chunks of 64 KiB"
    end = content.index(b"IEND") - 4
    with pytest.raises(ImageError, match="has no end"):
        open_image(content[:end])
    for first, second in zip(places, [*places[1:], end], strict=True):
        with pytest.raises(ImageError):
            open_image(content[:first] + content[second:])
    # Some programs append their own data. The image is whole.
    assert np.array_equal(pixels(content + b"\0" * 100), pixels(content))


def test_the_checksums_of_a_png_file_cost_little_of_its_decoding() -> None:
    content = saved(Image.fromarray(np.tile(NOISE, (20, 20, 1))))

    def least(work: Any) -> float:
        times = []
        for _ in range(5):
            started = time.perf_counter()
            work()
            times.append(time.perf_counter() - started)
        return min(times)

    decoding = least(lambda: Image.open(io.BytesIO(content)).convert("RGB"))
    assert least(lambda: damage(content)) < 0.25 * decoding  # some 3 % on one quiet core


def test_pils_settings_are_restored_after_the_last_of_several_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    whole = saved(Image.fromarray(NOISE).resize((640, 480)), "JPEG")
    wrong: list[str] = []

    def work() -> None:
        for share in (1.0, 0.5) * 10:
            try:
                open_image(whole[: int(share * len(whole))])
                read = True
            except ImageError:
                read = False
            if read != (share == 1.0):
                wrong.append(f"{share}: {read}")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == [] and ImageFile.LOAD_TRUNCATED_IMAGES is True


def test_an_image_of_too_many_pixels_is_refused_before_it_is_decoded(pil: None) -> None:
    header = b"P6 20000 20000 255\n"
    with pytest.raises(ImageError, match=r"20000 x 20000 pixels\. At most 178,956,970"):
        open_image(header + b"\0" * 100)


def test_grey_of_16_bits_gives_the_pixels_of_the_same_picture_in_8_bits() -> None:
    grey = NOISE[..., 0]
    wide = Image.fromarray(grey.astype(np.uint16) * 257)
    assert wide.mode == "I;16"
    for format in ("PNG", "TIFF"):
        assert np.array_equal(pixels(saved(wide, format)), np.stack([grey] * 3, -1))


def test_a_mode_without_known_black_and_white_is_refused() -> None:
    for kind in (np.int32, np.float32):
        with pytest.raises(ImageError, match="black and white are not known"):
            open_image(saved(Image.fromarray(NOISE[..., 0].astype(kind)), "TIFF"))


def test_modes_that_pil_converts_exactly_are_taken() -> None:
    image = Image.fromarray(NOISE)
    for mode in ("L", "RGBA", "1", "LA", "P"):
        content = saved(image.convert(mode))
        assert np.array_equal(pixels(content), np.asarray(Image.open(io.BytesIO(content)).convert("RGB")))


def test_exif_data_stay_with_the_image() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    content = saved(Image.fromarray(NOISE), "JPEG", exif=exif)
    assert open_image(content).getexif()[0x0112] == 6
    assert open_image(content).size == (48, 64)


BROKEN = {
    "nothing": b"",
    "no image": b"not an image",
    "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    "a cut png": saved(Image.fromarray(NOISE))[:200],
    "a png with noise in it": saved(Image.fromarray(NOISE))[:60] + b"\7" * 4000,
}


@pytest.mark.parametrize("name", BROKEN)
def test_the_message_of_a_broken_image_is_the_same_every_time(name: str) -> None:
    found = []
    for _ in range(2):
        with pytest.raises(ImageError) as error:
            open_image(BROKEN[name])
        found.append(str(error.value))
    assert found[0] == found[1] and "0x" not in found[0] and len(found[0]) < 400


def test_no_reader_that_starts_a_program_is_used() -> None:
    assert "EPS" not in FORMATS and "WMF" not in FORMATS
    with pytest.raises(ImageError, match="not an image"):
        open_image(BROKEN["postscript"])


# ---- where an image may be -----------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in/sub").mkdir(parents=True)
    (tmp_path / "in/sub/a.png").write_bytes(b"a")
    (tmp_path / "out.png").write_bytes(b"secret")
    return tmp_path / "in"


def test_a_file_inside_the_folder_is_read_by_its_relative_and_its_absolute_path(folder: Path) -> None:
    (folder / "link.png").symlink_to(folder / "sub/a.png")
    for name in ("sub/a.png", "./sub/../sub/a.png", str(folder / "sub/a.png"), "link.png"):
        assert read_inside(folder, name) == b"a"


def test_no_path_leads_out_of_the_folder(folder: Path) -> None:
    (folder / "link.png").symlink_to("../out.png")
    (folder / "up").symlink_to("..")
    (folder.parent / "in-too").mkdir()
    (folder.parent / "in-too/b.png").write_bytes(b"b")
    outside = ("../out.png", str(folder.parent / "out.png"), "link.png", "up/out.png", "/etc/passwd", "../in-too/b.png")
    for name in outside:
        with pytest.raises(ImageError, match="leads out of the folder"):
            read_inside(folder, name)
    for name in ("http://somewhere/a.png", f"file://{folder}/sub/a.png"):
        with pytest.raises(ImageError, match="an address"):
            read_inside(folder, name)


def test_a_pipe_a_device_and_a_folder_are_refused_at_once(folder: Path) -> None:
    os.mkfifo(folder / "pipe.png")
    started = time.monotonic()
    for name in ("pipe.png", "sub", "."):
        with pytest.raises(ImageError, match="not a regular file"):
            read_inside(folder, name)
    with pytest.raises(ImageError, match="not a regular file"):
        read_inside(Path("/dev"), "/dev/zero")
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("name", ["nothing.png", "a\0b.png", "", "n" * 5000, "loop.png", "sub/a.png/x"])
def test_a_path_that_cannot_be_read_is_told_in_a_short_line(folder: Path, name: str) -> None:
    (folder / "loop.png").symlink_to("loop.png")
    with pytest.raises(ImageError) as error:
        read_inside(folder, name)
    assert len(str(error.value)) < 400 and "\0" not in str(error.value)


def test_base64_text_in_place_of_a_path_is_called_that(folder: Path) -> None:
    text = base64.b64encode(saved(Image.fromarray(NOISE))).decode()
    for said in (text, f"data:image/png;base64,{text}"):
        with pytest.raises(ImageError, match=rf"base64 text of {len(said):,} characters") as error:
            read_inside(folder, said)
        assert len(str(error.value)) < 100
