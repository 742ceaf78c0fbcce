"""Pictures decoded to their end by Pillow, where it is installed; without it this does nothing."""

from __future__ import annotations

from typing import BinaryIO, Final

from ._pieces import MAX_UNPACKED, Broken, TooLarge

__all__ = ["decode"]

#: What Pillow calls a type, and the part of it that is not in every build.
_FORMATS: Final = {"jpg": ("JPEG", "jpg"), "webp": ("WEBP", "webp"), "gif": ("GIF", None)}


def decode(file: BinaryIO, kind: str, pixels: int) -> None:
    """Decode the picture in `file`, which has `pixels` pixels and is of the type `kind`.

    An animation is decoded frame by frame until these make up the largest picture allowed. Raises
    `Broken`, and `TooLarge` for more pixels than Pillow's `Image.MAX_IMAGE_PIXELS`.
    """
    if kind not in _FORMATS:
        return
    try:
        from PIL import Image, features
    except ImportError:
        return
    name, codec = _FORMATS[kind]
    if codec is not None and not features.check(codec):
        return
    # Asked beforehand: between this number and twice as much Pillow only warns.
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and pixels > limit:
        raise TooLarge(f"{pixels} pixels are more than the {limit} that Pillow allows")
    try:
        with Image.open(file, formats=(name,)) as image:
            # A JPEG is read to its end at an eighth of its size, too; the memory is a 64th.
            image.draft("L", (1, 1))
            most = MAX_UNPACKED // 4 // pixels
            for number in range(min(getattr(image, "n_frames", 1), most)):
                image.seek(number)
                image.load()
    except Image.DecompressionBombError as error:
        raise TooLarge(str(error)) from None
    except MemoryError:
        raise
    except Exception as error:  # whatever a decoder raises is a fault of the picture
        raise Broken(f"it cannot be decoded: {error}") from None
