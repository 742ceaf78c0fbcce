"""Draw `runninghub_async/emulator/film.mp4`, which the emulator gives for every film.

    pip install av pillow
    python scripts/draw_film.py

H.264 in a file that starts with its index, so that browsers play it; a few kilobytes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

TARGET = Path(__file__).resolve().parent.parent / "runninghub_async" / "emulator" / "film.mp4"
SIZE = WIDTH, HEIGHT = 480, 270
FRAMES, PER_SECOND, HORIZON = 12, 4, 175


def frame(number: int) -> Image.Image:
    """A paper boat, a little further on."""
    picture = Image.new("RGB", SIZE, (24, 38, 64))
    brush = ImageDraw.Draw(picture)
    x = 40 + 30 * number
    brush.polygon([(x, 150), (x + 60, 150), (x + 45, 175), (x + 15, 175)], fill=(240, 200, 90))
    brush.polygon([(x + 30, 145), (x + 30, 95), (x + 58, 140)], fill=(245, 245, 235))
    brush.rectangle([0, HORIZON, *SIZE], fill=(40, 90, 120))
    font = ImageFont.load_default(size=20)
    brush.text((20, 200), "EMULATOR - drawn, not made by a model", font=font, fill="white")
    return picture


def main() -> None:
    """Encode the frames."""
    import importlib

    av: Any = importlib.import_module("av")
    with av.open(str(TARGET), "w", options={"movflags": "+faststart"}) as film:
        track = film.add_stream("libx264", rate=PER_SECOND)
        track.width, track.height = SIZE
        track.pix_fmt = "yuv420p"
        track.options = {"crf": "34", "preset": "veryslow", "profile": "high"}
        for number in range(FRAMES):
            film.mux(track.encode(av.VideoFrame.from_image(frame(number))))
        film.mux(track.encode())
    print(f"{TARGET.name}: {TARGET.stat().st_size} bytes")


if __name__ == "__main__":
    main()
