"""Results looked through to their end: whole pictures, and files that are what they say."""

from __future__ import annotations

import asyncio
import base64
import struct
import sys
import tracemalloc
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import png, png_chunk

import runninghub_async as rh
from runninghub_async.emulator._files import make
from runninghub_async.testing import MockTransport, run

SIGNATURE = b"\x89PNG\r\n\x1a\n"

#: Noise, a few pixels of it, as Pillow writes it.
PICTURES = {name: base64.b64decode(text) for name, text in {
    "jpg": (
        "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDACgcHiMeGSgjISMtKygwPGRBPDc3PHtYXUlkkYCZlo+AjIqgtObDoKra"
        "rYqMyP/L2u71////m8H////6/+b9//j/wAALCAAQABABAREA/8QAFQABAQAAAAAAAAAAAAAAAAAAAQL/xAAdEAEA"
        "AgICAwAAAAAAAAAAAAABAhEAIQMxIkFx/9oACAEBAAA/ACbA5CRq9ur36y4hIWQPlvJhJnRFqu76+YqNkkY6HvP/"
        "2Q=="
    ),
    "progressive jpg": (
        "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAFA3PEY8MlBGQUZaVVBfeMiCeG5uePWvuZHI////////////////////"
        "////////////////////////////////2wBDAVVaWnhpeOuCguv/////////////////////////////////////"
        "////////////////////////////////////wgARCAAQABADASIAAhEBAxEB/8QAFQABAQAAAAAAAAAAAAAAAAAA"
        "AAH/xAAVAQEBAAAAAAAAAAAAAAAAAAAAAf/aAAwDAQACEAMQAAABgX//xAAVEAEBAAAAAAAAAAAAAAAAAAAAAf/a"
        "AAgBAQABBQJUV//EABQRAQAAAAAAAAAAAAAAAAAAAAD/2gAIAQMBAT8Bf//EABQRAQAAAAAAAAAAAAAAAAAAAAD/"
        "2gAIAQIBAT8Bf//EABQQAQAAAAAAAAAAAAAAAAAAACD/2gAIAQEABj8CH//EABYQAQEBAAAAAAAAAAAAAAAAAAAx"
        "Af/aAAgBAQABPyHIhCH/2gAMAwEAAgADAAAAEIv/xAAVEQEBAAAAAAAAAAAAAAAAAAAAQf/aAAgBAwEBPxCv/8QA"
        "FREBAQAAAAAAAAAAAAAAAAAAAEH/2gAIAQIBAT8Qr//EABoQAQEAAgMAAAAAAAAAAAAAAAEAESExUXH/2gAIAQEA"
        "AT8QeBq8OZOIT2Hu/9k="
    ),
    "gif": (
        "R0lGODdhCQAHAIIAAKGhoZOTk4qKioSEhH5+fnh4eHBwcGBgYCwAAAAACQAHAAAIOgADHChgAECBAQIIABA4gICB"
        "AAIADABwwMCAAgEWFiAgwACBiRQNCBjwcGQAkhc5CtgosCIAgxwJBAQAIfkEAQAACAAsAAAAAAkABwCCoaGhk5OT"
        "ioqKhISEfn5+eHh4cHBwYGBgCDkACQggUAABAAMHDgQgKGBggQEGEAQYICCAAYoIAQAYgMCAwwAAAjzMaLCiAQID"
        "FAIQOKCggQIKAwIAOw=="
    ),
    "webp": (
        "UklGRogAAABXRUJQVlA4IHwAAADwAwCdASoYABEAP83c6mq/tbGoqAqr8DmJbC+cCAABHAd/P27paMTAAP5GaDDQ"
        "sU3cwm+VzORZlR9QITHFa7bEBsjUJG+1xOP+8s1bGyJ9baWUmUBlDjTKV6yB6njEsUdqvlAwybRG7mkECQtpnUM6"
        "B/nvw4XCMKFZuIAA"
    ),
    "lossless webp": (
        "UklGRrIAAABXRUJQVlA4TKYAAAAvBgABABfBMJIkJe+OO4RF/uUQgDukwbaRJEXH7GPeFyH+e8z/YhzbVhrcfUnx"
        "NEQbJNm6y8x/wFSCaQN48w+UD5J/XFlxs9ng096Uq5IxMRMgUPiv/B9Dbwz+niYS8reVDdrjVYwz6wC+/wVoYCAE"
        "zcwD2d9G1fv7cEI4onZgJId7xcAgAMCysdm2zoj+B3/PbhqKcM1eAIv3WBkT+7nqEf1NepQE"
    ),
    "film webp": (
        "UklGRrgAAABXRUJQVlA4WAoAAAACAAAABgAABAAAQU5JTQYAAAAAAAAAAABBTk1GQAAAAAAAAAAAAAYAAAQAAAAA"
        "AAJWUDggKAAAAFABAJ0BKgcABQAMwM4lsAAEdAAA/t0MDg3SrEP00dXsj5DUTfSwAABBTk1GRAAAAAAAAAAAAAYA"
        "AAQAAAAAAABWUDggLAAAAFQBAJ0BKgcABQAAAM4lsAAEdAAA/tXRdJXSiLUpHd8hppViR82FC7ri+EAA"
    ),
    "bmp": (
        "Qk12AAAAAAAAADYAAAAoAAAABQAAAAQAAAABABgAAAAAAEAAAADEDgAAxA4AAAAAAAAAAAAAhyxnfnF8lH+UfHZ+"
        "ZxqHAIc2gI2BgIN3g4CLjYAihwCUNo+RgHF5iXlxg5GPGZQAjTWOhJlxhZyFcX+EjhuNAA=="
    ),
}.items()}  # fmt: skip

KINDS = [(0, 1), (0, 2), (0, 4), (0, 8), (0, 16), (2, 8), (2, 16), (3, 1), (3, 2), (3, 4), (3, 8),
         (4, 8), (4, 16), (6, 8), (6, 16)]  # fmt: skip

ONCE = rh.RetryPolicy(call_attempts=1)


def verdicts(folder: Path, bodies: Iterable[bytes], announced: str = "png") -> list[Any]:
    """What comes of each as a result: its `Download`, or the class of its error."""
    transport = MockTransport(lambda request: answers[request.url])
    answers = {f"https://results.example/{n}": rh.Response(200, b) for n, b in enumerate(bodies)}
    found: list[Any] = []

    async def main() -> None:
        async with rh.Session("a-key", transport=transport, retry=ONCE) as session:
            for number, url in enumerate(answers):
                path = folder / str(number)
                try:
                    found.append(await session.download(rh.Output(url, announced), path))
                except rh.DownloadError as error:
                    found.append(type(error))

    run(main)
    kept = {download.path for download in found if isinstance(download, rh.Download)}
    assert {*folder.iterdir()} == kept
    for path in kept:
        path.unlink()
    return found


def drawn(header: bytes, *parts: tuple[bytes, bytes]) -> bytes:
    chunks = [(b"IHDR", header), *parts, (b"IEND", b"")]
    return SIGNATURE + b"".join(png_chunk(*chunk) for chunk in chunks)


def header(width: int = 8, height: int = 8, rest: bytes = b"\x08\x00\x00\x00\x00") -> bytes:
    return struct.pack(">II", width, height) + rest


ROWS = bytes(9 * 8)
IDAT = (b"IDAT", zlib.compress(ROWS))


@pytest.fixture(params=["with Pillow", "without"])
def _pillow(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "without":
        monkeypatch.setitem(sys.modules, "PIL", None)


# -- PNG --------------------------------------------------------------------------------------


@pytest.mark.parametrize("interlaced", [False, True])
def test_every_kind_of_png_is_taken(tmp_path: Path, *, interlaced: bool) -> None:
    """All colour types and depths, of sizes at which some passes of Adam7 are empty."""
    sizes = [(1, 1), (1, 9), (9, 1), (2, 3), (5, 5), (8, 8), (33, 17)]
    pictures = [
        png(width, height, colour=colour, depth=depth, interlaced=interlaced)
        for colour, depth in KINDS
        for width, height in sizes
    ]
    for download in verdicts(tmp_path, pictures):
        assert download.image_type == "png"


@given(
    st.sampled_from(KINDS), st.integers(1, 40), st.integers(1, 40), st.booleans(), st.data()
)  # fmt: skip
def test_a_flipped_byte_or_a_cut_is_found(
    tmp_path_factory: pytest.TempPathFactory,
    kind: tuple[int, int],
    width: int,
    height: int,
    interlaced: bool,
    data: st.DataObject,
) -> None:
    """Whatever is whole is taken, and nothing of it can be changed."""
    colour, depth = kind
    picture = png(width, height, colour=colour, depth=depth, interlaced=interlaced)
    at = data.draw(st.integers(0, len(picture) - 1))
    flip = data.draw(st.integers(1, 255))
    flipped = picture[:at] + bytes([picture[at] ^ flip]) + picture[at + 1 :]
    folder = tmp_path_factory.mktemp("x")
    whole, *others = verdicts(folder, [picture, flipped, picture[:at]])
    assert whole.size == len(picture)
    assert others == [rh.ResultBroken, rh.ResultBroken if at else rh.ResultIncomplete]


@pytest.mark.parametrize(
    "picture",
    [
        drawn(header(), (b"IDAT", zlib.compress(ROWS[:-1]))),
        drawn(header(), (b"IDAT", zlib.compress(ROWS + b"\0"))),
        drawn(header(), (b"IDAT", zlib.compress(ROWS)[:-2])),
        drawn(header(), (b"IDAT", b"no zlib")),
        drawn(header(), (b"IDAT", zlib.compress(b"\x05" + ROWS[1:]))),
        drawn(header(), (b"IDAT", zlib.compress(ROWS[:63] + b"\x06" + ROWS[64:]))),
        drawn(header()),
        drawn(header(0, 8), IDAT),
        drawn(header(2**31, 1), IDAT),
        drawn(header(rest=b"\x03\x00\x00\x00\x00"), IDAT),
        drawn(header(rest=b"\x08\x05\x00\x00\x00"), IDAT),
        drawn(header(rest=b"\x08\x00\x01\x00\x00"), IDAT),
        drawn(header(rest=b"\x08\x00\x00\x01\x00"), IDAT),
        drawn(header(rest=b"\x08\x00\x00\x00\x02"), IDAT),
        drawn(header()[:-1], IDAT),
        drawn(header(rest=b"\x08\x03\x00\x00\x00"), IDAT),
        drawn(header(rest=b"\x08\x03\x00\x00\x00"), (b"PLTE", b"abcd"), IDAT),
        drawn(header(rest=b"\x08\x03\x00\x00\x00"), IDAT, (b"PLTE", b"abc")),
        drawn(header(), (b"PLTE", b"abc"), IDAT),
        drawn(header(), (b"IHDR", header()), IDAT),
        drawn(header(), (b"NEED", b""), IDAT),
        drawn(header(), (b"ID4T", b""), IDAT),
        drawn(header(), (b"IDAT", IDAT[1][:5]), (b"tEXt", b""), (b"IDAT", IDAT[1][5:])),
        drawn(header(), IDAT)[:-12] + png_chunk(b"IEND", b"x"),
        SIGNATURE + png_chunk(*IDAT) + png_chunk(b"IEND", b""),
        SIGNATURE + b"\xff\xff\xff\xffIHDR",
        SIGNATURE,
        SIGNATURE + b"rest of the picture" * 100,
    ],
)  # fmt: skip
def test_what_no_decoder_would_take_is_refused(tmp_path: Path, picture: bytes) -> None:
    """With every checksum right."""
    assert verdicts(tmp_path, [picture]) == [rh.ResultBroken]


def test_what_decoders_do_not_mind_is_taken(tmp_path: Path) -> None:
    """Pixels in many parts, unknown parts that may be left out, and bytes after the end."""
    packed = IDAT[1]
    pieces = [(b"IDAT", packed[at : at + 1]) for at in range(len(packed))]
    pictures = [
        drawn(header(), *pieces),
        drawn(header(), (b"IDAT", b""), IDAT, (b"IDAT", b"more")),
        drawn(header(), (b"quIt", b"x" * 99), IDAT, (b"tEXt", b"y")),
        drawn(header(), IDAT) + b"a tail",
        drawn(header(rest=b"\x08\x03\x00\x00\x00"), (b"PLTE", b"abc"), IDAT),
    ]
    assert all(isinstance(found, rh.Download) for found in verdicts(tmp_path, pictures))


def peak(folder: Path, picture: bytes) -> tuple[Any, int]:
    """What comes of it, and the most memory that this took, in bytes."""
    verdicts(folder, [png()])
    tracemalloc.start()
    try:
        (found,) = verdicts(folder, [picture])
        return found, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_bomb_is_refused_in_flat_memory(tmp_path: Path) -> None:
    """A gigabyte of zeros behind a small header; a header of ten gigabytes before nothing."""
    packer = zlib.compressobj()
    zeros = bytes(2**20)
    packed = b"".join(packer.compress(zeros) for _ in range(256)) + packer.flush()
    found, memory = peak(tmp_path, drawn(header(), (b"IDAT", packed)))
    assert found is rh.ResultBroken
    assert memory < 2**22
    found, memory = peak(tmp_path, drawn(header(50000, 50000, b"\x08\x06\0\0\0"), IDAT))
    assert found is rh.ResultTooLarge
    assert memory < 2**22


def test_a_large_picture_is_looked_through_in_flat_memory(tmp_path: Path) -> None:
    """Hundred megabytes of pixels, and a row of one pixel each for some millions."""
    for width, height in ((10000, 10000), (1, 5_000_000)):
        packer = zlib.compressobj(1)
        rows = b"\2" + bytes(width)
        packed = b"".join(packer.compress(rows * 100) for _ in range(height // 100))
        picture = drawn(header(width, height), (b"IDAT", packed + packer.flush()))
        found, memory = peak(tmp_path, picture)
        assert found.image_type == "png"
        assert memory < 2**22 + 4 * len(picture)


# -- other pictures ---------------------------------------------------------------------------


@pytest.mark.usefixtures("_pillow")
@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_cut_off_anywhere_is_refused(tmp_path: Path, name: str) -> None:
    """And the whole one taken, also where a PNG was announced, and with bytes after its end."""
    picture, kind = PICTURES[name], name.rsplit(maxsplit=1)[-1]
    cuts = [picture[:length] for length in range(1, len(picture))]
    assert {*verdicts(tmp_path, cuts, kind)} == {rh.ResultBroken}
    for announced in (kind, "png", "", kind.upper().lower()):
        for body in (picture, picture + b"a tail"):
            (download,) = verdicts(tmp_path, [body], announced)
            assert download.image_type == kind


@pytest.mark.usefixtures("_pillow")
@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_with_a_flipped_byte_is_taken_or_refused(tmp_path: Path, name: str) -> None:
    """These kinds have no checksums; whatever is in them, it is one or the other."""
    picture = PICTURES[name]
    flipped = [
        picture[:at] + bytes([picture[at] ^ 0xFF]) + picture[at + 1 :] for at in range(len(picture))
    ]
    for found in verdicts(tmp_path, flipped, name.rsplit(maxsplit=1)[-1]):
        assert isinstance(found, rh.Download) or found in (rh.ResultBroken, rh.ResultTooLarge)


def size_of(name: str) -> bytes:
    """The picture with a size of 65535 x 65535."""
    picture = bytearray(PICTURES[name])
    at = {"gif": 6, "jpg": picture.find(b"\xff\xc0") + 5, "bmp": 18}[name]
    picture[at : at + 4] = b"\xff" * 4
    if name == "bmp":
        picture[at : at + 8] = struct.pack("<ii", 65535, 65535)
    return bytes(picture)


@pytest.mark.parametrize("name", ["gif", "jpg", "bmp"])
def test_other_pictures_are_no_bombs_either(tmp_path: Path, name: str) -> None:
    """Their headers are believed."""
    assert verdicts(tmp_path, [size_of(name)], name) == [rh.ResultTooLarge]


def test_pillows_own_limit_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it only warns, too."""
    image = pytest.importorskip("PIL.Image")
    monkeypatch.setattr(image, "MAX_IMAGE_PIXELS", 200)
    assert verdicts(tmp_path, [PICTURES["jpg"]], "jpg") == [rh.ResultTooLarge]
    monkeypatch.setattr(image, "MAX_IMAGE_PIXELS", None)
    (download,) = verdicts(tmp_path, [PICTURES["jpg"]], "jpg")
    assert download.image_type == "jpg"


def test_pillow_finds_what_the_structure_does_not_show(tmp_path: Path) -> None:
    """A scan whose data was lost, with its end in place."""
    pytest.importorskip("PIL")
    picture = PICTURES["lossless webp"]
    lost = picture[:40] + bytes(len(picture) - 40)
    assert verdicts(tmp_path, [lost], "webp") == [rh.ResultBroken]


def test_a_film_of_endless_width_is_refused(tmp_path: Path) -> None:
    """Pillow would fetch its one row in small pieces, in a time that grows with their square."""
    picture = bytearray(PICTURES["film webp"])
    picture[24:27] = b"\xff\xff\xfe"
    assert verdicts(tmp_path, [bytes(picture)], "webp") == [rh.ResultBroken]


@pytest.mark.usefixtures("_pillow")
@pytest.mark.parametrize(
    ("announced", "body"),
    [
        ("gif", PICTURES["gif"][:13] + b";"),
        ("gif", PICTURES["gif"][:-1] + b"?"),
        ("gif", PICTURES["gif"][:37] + b";"),
        ("gif", b"GIF89a" + bytes(7) + b";"),
        ("jpg", b"\xff\xd8\xff\xd9"),
        ("jpg", b"\xff\xd8\xff\xe0\x00\x01\xff\xd9"),
        ("jpg", b"\xff\xd8\xff\xc0\x00\x03\x08\xff\xd9"),
        ("jpg", b"\xff\xd8\xff\xda\x00\x02abc\xff\xd9"),
        ("webp", b"RIFF\x04\0\0\0WEBP"),
        ("webp", b"RIFF\x0c\0\0\0WEBPVP8L\0\0\0\0"),
        ("webp", b"RIFF\x0c\0\0\0WEBPVP8L\xff\0\0\0"),
        ("webp", b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0" + bytes(10)),
        ("bmp", b"BM" + bytes(12) + struct.pack("<I", 9) + bytes(99)),
        ("bmp", b"BM" + bytes(8) + struct.pack("<IIHHHH", 26, 12, 9, 9, 1, 8) + bytes(20)),
    ],
)
def test_what_is_no_whole_picture_is_refused(tmp_path: Path, announced: str, body: bytes) -> None:
    """By its structure alone."""
    assert verdicts(tmp_path, [body], announced) == [rh.ResultBroken]


@pytest.mark.parametrize("mark", [b"\xff\xd8", b"\xff\x01"])
def test_a_jpeg_may_hold_marks_without_a_length(
    tmp_path: Path, mark: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second start of the image, and the mark for temporary use: what follows is no length."""
    monkeypatch.setitem(sys.modules, "PIL", None)
    picture = PICTURES["jpg"]
    (download,) = verdicts(tmp_path, [picture[:2] + mark + picture[2:]], "jpg")
    assert download.image_type == "jpg"


@pytest.mark.parametrize("short", range(3))
def test_a_jpeg_without_a_mark_for_long_is_looked_through_to_its_end(
    tmp_path: Path, short: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The two bytes of the mark that ends it may lie on both sides of a piece that is read."""
    monkeypatch.setitem(sys.modules, "PIL", None)
    picture = PICTURES["jpg"][:-2]
    scan = picture.index(b"\xff\xda") + 2
    scan += int.from_bytes(picture[scan : scan + 2], "big")
    filled = picture.ljust(scan + 2**16 - short, b"\0")
    kept, lost = verdicts(tmp_path, [filled + b"\xff\xd9", filled], "jpg")
    assert kept.image_type == "jpg"
    assert lost is rh.ResultBroken


def test_where_pillow_lacks_a_decoder_the_structure_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Pillow that was built without WebP does not refuse good pictures."""
    features = pytest.importorskip("PIL.features")
    monkeypatch.setattr(features, "check", lambda _: False)
    (download,) = verdicts(tmp_path, [PICTURES["webp"]], "webp")
    assert download.image_type == "webp"
    picture = PICTURES["lossless webp"]
    (download,) = verdicts(tmp_path, [picture[:40] + bytes(len(picture) - 40)], "webp")
    assert download.image_type == "webp"


@pytest.mark.usefixtures("_pillow")
def test_a_picture_with_much_beside_its_pixels_is_taken(tmp_path: Path) -> None:
    """Such as a workflow of a hundred kilobytes; cut off within that, it is refused."""
    picture = PICTURES["lossless webp"]
    extra = b"XTRA" + struct.pack("<I", 100_000) + b"\xff" * 100_000 + b"MORE\x04\0\0\0 and"
    size = struct.pack("<I", len(picture) - 8 + len(extra))
    whole = picture[:4] + size + picture[8:] + extra
    taken, refused = verdicts(tmp_path, [whole, whole[:-50_000]], "webp")
    assert taken.size == len(whole)
    assert refused is rh.ResultBroken


def test_an_old_bitmap_is_taken(tmp_path: Path) -> None:
    """With the short header of OS/2."""
    body = b"BM" + bytes(8) + struct.pack("<IIHHHH", 26, 12, 3, 2, 1, 24) + bytes(24)
    (download,) = verdicts(tmp_path, [body], "bmp")
    assert download.image_type == "bmp"


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        (1000, []),
        # Each part is a turn of a loop, which takes a minute where coverage is measured.
        pytest.param(2**22, [rh.ResultBroken], marks=pytest.mark.long),
    ],
)
def test_a_picture_of_countless_parts_does_not_keep_the_processor_busy(
    tmp_path: Path, parts: int, told: list[Any]
) -> None:
    """Their number is bounded: a GIF of eight megabytes with a comment in four million pieces."""
    picture = PICTURES["gif"]
    assert picture[-1:] == b";"
    comment = b"!\xfe" + b"\x01c" * parts + b"\0"
    found = verdicts(tmp_path, [picture[:-1] + comment + b";"], "gif")
    assert [kind for kind in found if isinstance(kind, type)] == told


# -- films, sounds and the rest ---------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mp4", "mp3", "wav", "glb", "txt"])
def test_what_the_emulator_makes_is_taken(tmp_path: Path, kind: str) -> None:
    """By its first bytes; its type is reported of pictures only."""
    (download,) = verdicts(tmp_path, [make(kind, {}, 0)], kind)
    assert download.image_type == ""


MOVIE, SOUND = make("mp4", {}, 0), make("wav", {}, 0)


@pytest.mark.parametrize(
    ("announced", "body"),
    [
        ("mp4", MOVIE), ("mov", MOVIE), ("m4a", MOVIE), ("webm", b"\x1aE\xdf\xa3"),
        ("mp3", SOUND), ("wav", b"\xff\xfb\x10"), ("ogg", b"OggS"), ("zip", b"PK\x03\x04"),
        ("tiff", b"II*\0"), ("txt", b"<html>"), ("md", b"<html>"), ("html", b"<html>"),
        ("", b"BM, a text"), ("json", b"{}"), ("safetensors", b"BM"),
    ],
)  # fmt: skip
def test_first_bytes_that_fit_are_taken(tmp_path: Path, announced: str, body: bytes) -> None:
    """So is what nobody can tell, and a film of another kind than announced."""
    (download,) = verdicts(tmp_path, [body], announced)
    assert download.size == len(body)


@pytest.mark.parametrize("announced", ["mp4", "mov", "mp3", "wav", "glb", "zip", "tiff", "jpeg"])
@pytest.mark.parametrize("body", [b"<!DOCTYPE html>", b'{"error": 1}', b"RIFF", b"%PDF-1.7"])
def test_first_bytes_that_do_not_fit_are_refused(
    tmp_path: Path, announced: str, body: bytes
) -> None:
    """A web page is no film."""
    assert verdicts(tmp_path, [body], announced) == [rh.ResultBroken]


@pytest.mark.parametrize(
    ("announced", "body"),
    [("mp4", png()), ("zip", SOUND), ("glb", b"PK\x03\x04"), ("png", MOVIE), ("", png()[:-1])],
)
def test_one_thing_in_place_of_another_is_refused(
    tmp_path: Path, announced: str, body: bytes
) -> None:
    """Both are known; and where nothing was announced, what starts as a picture has to be one."""
    assert verdicts(tmp_path, [body], announced) == [rh.ResultBroken]


def test_the_loop_goes_on_while_a_picture_is_looked_through(tmp_path: Path) -> None:
    """Unpacking is a thread's work."""
    packer = zlib.compressobj(1)
    rows = bytes(10001)
    packed = b"".join(packer.compress(rows) for _ in range(10000)) + packer.flush()
    picture = drawn(header(10000, 10000), (b"IDAT", packed))
    turns = 0

    async def main() -> None:
        async with rh.Session("k", transport=MockTransport(lambda _: answer)) as session:
            download = asyncio.ensure_future(
                session.download(rh.Output("https://results.example/x", "png"), tmp_path / "x")
            )
            nonlocal turns
            while not download.done():
                turns += 1
                await asyncio.sleep(0)
            await download

    answer = rh.Response(200, picture)
    asyncio.run(main())
    assert turns > 100
