"""Synthetic videos with exact masks, for the demo and the tests.

A camera moves, rotates and zooms over a lit ground with stones. Cushion-like, textured, non-convex shapes move, rotate,
scale and deform on the ground and over each other. They cast soft shadows and have motion blur. Each class has its own
shape, kind of texture and two colors. With only shape and texture, a tiny model would need more videos than it can see
in minutes of training. Every object shares a color with the ground unless this is turned off, and stones have the
colors of classes, so that neither a filled box nor a color threshold solves the task. Textures move with their objects,
so that patches of one frame can be matched in the next, as the temporal loss requires.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from scipy.ndimage import distance_transform_edt, gaussian_filter, map_coordinates, shift

from mfvis.data.config import DirectoryConfig, SyntheticConfig
from mfvis.data.images import save_image
from mfvis.data.jsonfile import write_json
from mfvis.data.rle import encode_mask, mask_box
from mfvis.text import counted
from mfvis.writing import run_lock

SUPERSAMPLING = 4
TEXTURE = 96
"""Side of the repeating textures, in pixels."""
STONES = 26
"""Number of stones on the repeating texture of the ground."""
SHUTTER = 0.5
"""Exposure time in frames."""
MIN_VISIBLE = 24
"""Minimum number of visible pixels; an object with fewer counts as hidden."""
COLORS = np.array(
    [
        (224, 170, 48), (226, 190, 140), (184, 76, 58), (238, 126, 102), (42, 56, 104), (132, 182, 222),
        (112, 126, 60), (70, 104, 74), (116, 62, 114), (166, 120, 168), (38, 112, 120), (242, 230, 206),
    ],
    np.float32,
)  # fmt: skip
"""Two colors for each class in turn. The remaining colors are only used by the background."""


def run(config: DirectoryConfig) -> None:
    """Write the videos and print their paths."""
    with run_lock(config.directory):
        train_json, val_json = write_demo(config.directory, config)
    print(f"wrote {train_json} ({counted(config.videos, 'video')}) and {val_json} ({config.val_videos})")


def write_demo(directory: str | Path, config: SyntheticConfig | None = None) -> tuple[Path, Path]:
    """Write a data set in the YouTube-VIS layout with images in ``JPEGImages``. Returns ``(train.json, val.json)``.

    Both have boxes and masks of the *visible* part of each object. The same configuration gives the same files. The
    folder is created if necessary. Files of the same names are replaced.
    """
    config = config or SyntheticConfig()
    train_json = write_videos(directory, "train", config.videos, config)
    return train_json, write_videos(directory, "val", config.val_videos, config, split=1)


def write_videos(directory: str | Path, name: str, count: int, config: SyntheticConfig, split: int = 0) -> Path:
    """Write one part of a data set. Returns the path of its JSON, ``NAME.json``.

    split: Part of the random seed. Parts that differ in it have different videos.
    """
    directory, frames, size = Path(directory), config.frames, (config.height, config.width)
    records: list[dict] = []
    annotations: list[dict] = []
    for index in range(count):
        random = np.random.default_rng([config.seed, split, index])
        images_THW3, masks_NTHW, classes_N = draw_video(
            random, frames, size, (config.min_objects, config.max_objects), config.shared_colors
        )
        folder = f"{name}{index:04d}"
        (directory / "JPEGImages" / folder).mkdir(parents=True, exist_ok=True)
        files = [f"{folder}/{frame:05d}.jpg" for frame in range(frames)]
        for file, image_HW3 in zip(files, images_THW3, strict=True):
            save_image(directory / "JPEGImages" / file, image_HW3, quality=93, subsampling=0)
        shape = {"height": size[0], "width": size[1], "length": frames}
        records.append({"id": index + 1, "name": folder, "fps": 8, "file_names": files} | shape)
        annotations += [
            {"id": len(annotations) + i, "video_id": index + 1, "category_id": int(label) + 1, "iscrowd": 0}
            | shape
            | _annotated(masks_THW)
            for i, (masks_THW, label) in enumerate(zip(masks_NTHW, classes_N, strict=True), 1)
        ]
    categories = [{"id": i, "name": shape} for i, shape in enumerate(SHAPES, 1)]
    path = directory / f"{name}.json"
    write_json(path, {"videos": records, "annotations": annotations, "categories": categories})
    return path


def draw_video(
    random: np.random.Generator,
    frames: int,
    size: tuple[int, int],
    objects: tuple[int, int],
    shared_colors: bool = True,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw one video: frames uint8 ``[T, H, W, 3]``, visible masks bool ``[N, T, H, W]``, shapes int64 ``[N]``."""
    height, width = size
    shapes_N = random.integers(len(SHAPES), size=random.integers(objects[0], objects[1] + 1))
    # One of the object's colors is a class color that the ground lacks. With shared colors the other one is a color of
    # the ground, otherwise the second color of the class.
    class_color_N = 2 * shapes_N + random.integers(2, size=len(shapes_N))
    taken_N = class_color_N if shared_colors else np.concatenate([2 * shapes_N, 2 * shapes_N + 1])
    others = random.permutation(np.setdiff1d(np.arange(len(COLORS)), taken_N))
    shared = others[:3]
    light = _Light(random)
    ground = _Ground(random, COLORS[shared], COLORS[others[3:]], size, light)
    things: list[_Thing] = []
    for n, shape in enumerate(shapes_N):
        colors = COLORS[[shared[n % 3] if shared_colors else class_color_N[n] ^ 1, class_color_N[n]]]
        things.append(_Thing(random, list(SHAPES)[shape], colors, size, light, things))
    frames_THW3 = np.empty((frames, height, width, 3), np.uint8)
    owner_THW = np.full((frames, height, width), -1)
    for t in range(frames):
        frame_HW3 = ground.draw(t)
        for n, thing in enumerate(things):
            thing.draw(t, frame_HW3, owner_THW[t], n)
        frame_HW3 += random.normal(0, 2.0, (height, width, 1))
        frames_THW3[t] = frame_HW3.clip(0, 255)
    masks_NTHW = owner_THW == np.arange(len(things))[:, None, None, None]
    masks_NTHW[masks_NTHW.sum((2, 3)) < MIN_VISIBLE] = False
    visible_N = masks_NTHW.any((1, 2, 3))
    return frames_THW3, masks_NTHW[visible_N], shapes_N[visible_N]


class _Light:
    """Light of a video: shading of a relief, and the offset of shadows."""

    def __init__(self, random: np.random.Generator):
        angle = random.uniform(-2.4, -0.7)  # light comes from above in the frame, which looks natural
        self.x, self.y = np.cos(angle), np.sin(angle)

    def shade(self, relief_HW: np.ndarray) -> np.ndarray:
        """Brightness ``[H, W]`` of a surface of this height; 1 where it is level."""
        down, right = np.gradient(relief_HW)
        slope = -(right * self.x + down * self.y)
        return 1 + 0.42 * slope / np.sqrt(1 + right**2 + down**2)


class _Ground:
    """Ground of soft color patches with stones, under a camera that moves, rotates and zooms slightly."""

    def __init__(
        self,
        random: np.random.Generator,
        colors: np.ndarray,
        stone_colors: np.ndarray,
        size: tuple[int, int],
        light: _Light,
    ):
        self.size = size
        self.unit = size[0] / 96
        side = round(2 * TEXTURE * self.unit)
        coarse, middle, fine = (_noise(random, side, wave * self.unit) for wave in (90, 30, 5))
        share = np.stack([coarse + 0.4 * middle, np.roll(coarse, side // 2, 0) - 0.4 * middle, np.roll(coarse, 70, 1)])
        share = np.exp(3.5 * share)
        share /= share.sum(0)
        texture = np.einsum("khw,kc->hwc", share, colors) * 0.86 + 18
        relief = 2.2 * self.unit * middle + 0.3 * self.unit * fine
        for color in stone_colors[random.integers(len(stone_colors), size=STONES)]:
            _put_stone(random, texture, relief, color, self.unit)
        self.texture = texture * light.shade(relief)[..., None]
        self.start, self.speed = random.uniform(0, side, 2), random.uniform(-1.6, 1.6, 2) * self.unit
        self.turn, self.zoom = random.uniform(-0.008, 0.008), random.uniform(-0.006, 0.006)
        down, across = np.mgrid[: size[0], : size[1]] / np.array(size)[:, None, None] - 0.5
        self.vignette = 1.06 - 0.35 * (down**2 + across**2) - 0.12 * (light.x * -across + light.y * -down)

    def draw(self, t: int) -> np.ndarray:
        y, x = np.mgrid[: self.size[0], : self.size[1]] - np.array(self.size)[:, None, None] / 2
        local = _rotation(self.turn * t) * (1 + self.zoom * t) @ np.stack([x.ravel(), y.ravel()])
        local += (self.start + self.speed * t)[:, None]
        return _sample(self.texture, local).reshape(*self.size, 3) * self.vignette[..., None]


def _put_stone(
    random: np.random.Generator, texture: np.ndarray, relief: np.ndarray, color: np.ndarray, unit: float
) -> None:
    """Paint a round stone into the ground's texture and relief, in place. It may cross the border, since both
    repeat."""
    side = len(texture)
    radius, squash = random.uniform(3, 9) * unit, random.uniform(0.7, 1.0)
    center, reach = random.integers(side, size=2), int(radius) + 2
    down, across = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    inside = 1 - (across / radius) ** 2 - (down / (squash * radius)) ** 2
    window = np.ix_((center[0] + down[:, 0]) % side, (center[1] + across[0]) % side)
    cover = np.clip(inside * radius / 2, 0, 1)
    texture[window] += cover[..., None] * (color * 0.9 + 10 - texture[window])
    relief[window] += cover * (0.55 * radius * np.sqrt(np.clip(inside, 0, 1)) - relief[window])


class _Thing:
    """One object: outline and texture in its own coordinates, and the motion that maps them to the frame."""

    def __init__(
        self,
        random: np.random.Generator,
        name: str,
        colors: np.ndarray,
        size: tuple[int, int],
        light: _Light,
        others: Sequence[_Thing],
    ):
        self.unit = size[0] / 96
        self.light = light
        self.radius = random.uniform(17, 27) * self.unit
        self.outline = SHAPES[name](random) * [1.0, random.uniform(0.85, 1.15)] * random.choice([-1, 1], 2)
        self.texture = _pattern(random, name, colors, self.unit)
        self.center, self.drift = self._course(random, others, size)
        self.swing = random.uniform(5, 20, 2) * self.unit
        self.pace, self.phase = random.uniform(0.12, 0.28, 2), random.uniform(0, 2 * np.pi, 2)
        self.angle, self.turn = random.uniform(0, 2 * np.pi), random.uniform(0.02, 0.11) * random.choice([-1, 1])
        self.ripple, self.breath = random.uniform(0.04, 0.14), random.uniform(0.02, 0.1)
        self.beat = random.uniform(0.3, 0.7)

    def _course(
        self, random: np.random.Generator, others: Sequence[_Thing], size: tuple[int, int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Start and step per frame. One object in eight enters from a side, the others keep some distance."""
        height, width = size
        if random.random() < 1 / 8:
            direction = random.choice([-1, 1])
            x = width / 2 - direction * (width / 2 + self.radius)
            return np.array([x, random.uniform(0.25, 0.75) * height]), np.array([direction * 5.0 * self.unit, 0])
        centers = random.uniform((0.16 * width, 0.22 * height), (0.84 * width, 0.78 * height), (3, 2))
        gaps = [min((np.linalg.norm(center - other.center) for other in others), default=0) for center in centers]
        return centers[np.argmax(gaps)], random.uniform(-0.7, 0.7, 2) * self.unit

    def draw(self, t: int, frame_HW3: np.ndarray, owner_HW: np.ndarray, index: int) -> None:
        """Paint the object at time `t` over the frame, and its index into the owner map, in place."""
        position = self._position(t)
        scale = self.radius * (1 + self.breath * np.sin(self.beat * t + self.phase[0]))
        matrix = _rotation(self.angle + self.turn * t) * scale
        x, y = self.outline.T
        corners = matrix @ np.stack([x, y + self._wave(x, t)]) + position[:, None]
        # Margin for the shadow and the motion blur.
        margin = int(0.6 * self.radius) + 2
        low = np.maximum(np.floor(corners.min(1)).astype(int) - margin, 0)
        high = np.minimum(np.ceil(corners.max(1)).astype(int) + margin + 1, frame_HW3.shape[1::-1])
        if (high - low < 2).any():  # outside the frame, or so small that it counts as hidden
            return
        (left, top), (right, bottom) = low, high
        canvas = Image.new("L", tuple(int(side) * SUPERSAMPLING for side in high - low))
        # ImageDraw's origin is the center of the first pixel.
        points = (corners - low[:, None]) * SUPERSAMPLING - 0.5
        ImageDraw.Draw(canvas).polygon([tuple(point) for point in points.T], fill=255)
        cover_HW = np.asarray(canvas.reduce(SUPERSAMPLING), np.float32) / 255
        y, x = np.mgrid[top:bottom, left:right] + 0.5
        local = np.linalg.inv(matrix) @ (np.stack([x.ravel(), y.ravel()]) - position[:, None])
        local[1] -= self._wave(local[0], t)
        color_HW3 = _sample(self.texture, local * self.radius).reshape(*cover_HW.shape, 3)
        color_HW3 *= self.light.shade(self._relief(cover_HW))[..., None]

        window = frame_HW3[top:bottom, left:right]
        reach = 0.22 * self.radius
        shadow_HW = gaussian_filter(cover_HW, 0.1 * self.radius)
        window *= 1 - 0.45 * shift(shadow_HW, (-self.light.y * reach, -self.light.x * reach), order=1)[..., None]
        layer_HW4 = np.concatenate([color_HW3 * cover_HW[..., None], cover_HW[..., None]], -1)
        layer_HW4 = self._blurred(layer_HW4, self._position(t + SHUTTER / 2) - self._position(t - SHUTTER / 2))
        window *= 1 - layer_HW4[..., 3:]
        window += layer_HW4[..., :3]
        owner_HW[top:bottom, left:right][cover_HW > 0.5] = index

    def _position(self, t: float) -> np.ndarray:
        return self.center + self.drift * t + self.swing * np.sin(self.pace * t + self.phase)

    def _relief(self, cover_HW: np.ndarray) -> np.ndarray:
        """Height of a cushion with this outline: steep at its edge, level inside."""
        rim = 0.3 * self.radius
        depth = np.minimum(distance_transform_edt(cover_HW > 0.5) / rim, 1)
        return gaussian_filter(0.8 * rim * np.sqrt(1 - (1 - depth) ** 2), 0.6 * self.unit)

    @staticmethod
    def _blurred(layer_HW4: np.ndarray, motion: np.ndarray) -> np.ndarray:
        """Mean of a premultiplied layer over its motion (x, y) during the exposure."""
        steps = max(1, round(float(np.abs(motion).max())))
        shares = (np.arange(steps) + 0.5) / steps - 0.5
        return sum(shift(layer_HW4, (part * motion[1], part * motion[0], 0), order=1) for part in shares) / steps

    def _wave(self, x: np.ndarray, t: int) -> np.ndarray:
        """Sideways displacement of a point. It shears y by a function of x only, so that subtracting it inverts it."""
        return self.ripple * np.sin(2.5 * x + self.beat * t + self.phase[1])


def _annotated(masks_THW: np.ndarray) -> dict[str, list]:
    seen_T = masks_THW.any((1, 2))
    boxes_T4 = np.stack([mask_box(mask_HW) for mask_HW in masks_THW])
    boxes_T4[:, 2:] -= boxes_T4[:, :2]
    return {
        "bboxes": [box.tolist() if seen else None for box, seen in zip(boxes_T4, seen_T, strict=True)],
        "areas": [int(mask_HW.sum()) if seen else None for mask_HW, seen in zip(masks_THW, seen_T, strict=True)],
        "segmentations": [
            encode_mask(mask_HW) if seen else None for mask_HW, seen in zip(masks_THW, seen_T, strict=True)
        ],
    }


def _star(random: np.random.Generator) -> np.ndarray:
    arms = int(random.integers(5, 7))
    angle = np.arange(2 * arms) * np.pi / arms
    radius = np.where(np.arange(2 * arms) % 2, random.uniform(0.56, 0.7), 1.12)
    return _dense(np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1))


def _crescent(random: np.random.Generator) -> np.ndarray:
    shift, radius = random.uniform(0.5, 0.62), random.uniform(0.72, 0.8)
    x = (1 + shift**2 - radius**2) / (2 * shift)
    outer = np.linspace(np.arccos(x), 2 * np.pi - np.arccos(x), 40)
    inner = np.arctan2(np.sqrt(1 - x**2), x - shift)
    inner = np.linspace(2 * np.pi - inner, inner, 40)
    outside = np.stack([np.cos(outer), np.sin(outer)], 1)
    return np.concatenate([outside, np.stack([shift + radius * np.cos(inner), radius * np.sin(inner)], 1)]) + [0.15, 0]


def _corner(random: np.random.Generator) -> np.ndarray:
    a, b = random.uniform(-0.25, 0.05, 2)
    return _dense(np.array([(-1, -1), (a, -1), (a, -b), (1, -b), (1, 1), (-1, 1)]) * 0.85)


def _blob(random: np.random.Generator) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, 120, endpoint=False)
    radius = 1 + 0.12 * np.cos(2 * angle + random.uniform(0, 6)) + 0.07 * np.cos(3 * angle + random.uniform(0, 6))
    for bite in random.uniform(0, 2 * np.pi) + np.arange(2) * random.uniform(1.8, 2.6):
        away = (angle - bite + np.pi) % (2 * np.pi) - np.pi
        radius -= 0.72 * np.exp(-((away / 0.36) ** 4))
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)


def _letter(random: np.random.Generator) -> np.ndarray:
    h = [(0, 0), (1.2, 0), (1.2, 1.8), (2.4, 1.8), (2.4, 0), (3.6, 0)]
    h += [(3.6 - x, 5 - y) for x, y in h]
    t = [(0, 0), (3.6, 0), (3.6, 1.6), (2.6, 1.6), (2.6, 5), (1, 5), (1, 1.6), (0, 1.6)]
    z = [(0, 0), (3.6, 0), (3.6, 1.5), (1.7, 3.5), (3.6, 3.5)]
    z += [(3.6 - x, 5 - y) for x, y in z]
    corners = np.array([h, t, z][random.integers(3)], float)
    return _dense((corners - [1.8, 2.5]) * [0.5, 0.4])


SHAPES: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
    "star": _star,
    "crescent": _crescent,
    "corner": _corner,
    "blob": _blob,
    "letter": _letter,
}
"""Outlines of the classes, ``[P, 2]`` (x, y), of about unit radius, as consecutive points around the shape."""


def _dense(corners: np.ndarray, steps: int = 8) -> np.ndarray:
    """Add points along the edges, so that straight edges can deform too."""
    share = np.arange(steps)[:, None, None] / steps
    return (corners * (1 - share) + np.roll(corners, -1, 0) * share).transpose(1, 0, 2).reshape(-1, 2)


def _pattern(random: np.random.Generator, name: str, colors: np.ndarray, unit: float) -> np.ndarray:
    """Repeating texture of a class in two colors, ``[TEXTURE, TEXTURE, 3]``."""
    v, u = np.mgrid[:TEXTURE, :TEXTURE] * 2 * np.pi / TEXTURE
    warp, grain = _noise(random, TEXTURE, 30 * unit), _noise(random, TEXTURE, 4.5 * unit)
    # Even integers of waves repeat without a seam. At this size a wave is about nine pixels long.
    waves = 2 * max(1, round(TEXTURE / (random.uniform(8, 12) * unit) / 2))
    if name == "star":  # checks
        value = np.sin(waves * u) * np.sin(waves * v) * 1.5
    elif name == "crescent":  # stripes
        value = np.sin(waves * u + 0.9 * warp)
    elif name == "corner":  # zigzags
        value = np.sin(waves * v + 2.4 * np.arcsin(np.sin(waves / 2 * u)))
    elif name == "blob":  # spots
        value = 2.2 * (_noise(random, TEXTURE, 9 * unit) - 0.35)
    else:  # marble
        value = np.sin(2.2 * warp + 2.0 * _noise(random, TEXTURE, 14 * unit))
    share = 1 / (1 + np.exp(-4 * value))
    return colors[0] + (colors[1] - colors[0]) * share[..., None] + 12 * grain[..., None]


def _noise(random: np.random.Generator, side: int, wavelength: float) -> np.ndarray:
    """Smooth repeating noise ``[side, side]`` of about this wavelength in pixels, with mean 0 and deviation 1."""
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None]) * wavelength
    band = np.exp(-((frequency - 1) ** 2) / 0.18)
    noise = np.fft.irfft2(np.fft.rfft2(random.normal(size=(side, side))) * band, s=(side, side))
    return ((noise - noise.mean()) / noise.std()).astype(np.float32)


def _sample(texture: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Bilinear samples ``[P, 3]`` of the repeating texture at `points` ``[2, P]`` (x, y)."""
    channels = texture.transpose(2, 0, 1)
    return np.stack([map_coordinates(channel, points[::-1], order=1, mode="grid-wrap") for channel in channels], 1)


def _rotation(angle: float) -> np.ndarray:
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
