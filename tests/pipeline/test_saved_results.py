"""Kept results of videos: used if they are whole and of the same inputs, whatever else lies under their name."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from mfvis.data.ytvis import load_dataset
from mfvis.predict.saved_results import (
    hash_of,
    hash_of_frames,
    hash_of_weights,
    read_part,
    read_tensors_of,
    write_part,
    write_tensors_of,
)

INPUTS = {"settings": "a", "frames": "b"}
CONTENT = [{"score": 0.1, "masks": [None, {"size": [3, 4], "counts": "abc"}]}]
LOGITS = torch.arange(24.0).view(2, 3, 4)

DAMAGES: dict[str, Callable[[Path], object]] = {
    "empty": lambda file: file.write_bytes(b""),
    "cut": lambda file: os.truncate(file, file.stat().st_size - 9),
    "zeros": lambda file: file.write_bytes(bytes(5000)),
    "text": lambda file: file.write_text("no such thing"),
    "other JSON": lambda file: file.write_text('[[null, {"size": 3}], "x"]'),
    "JSON of the kind": lambda file: file.write_text('{"made_from": {}, "crc32": 0, "content": null}'),
    "nested deeply": lambda file: file.write_text("[" * 10**5),
    "other tensors": lambda file: torch.save({"made_from": {}, "tensors": LOGITS}, file),
    "a bare tensor": lambda file: torch.save(LOGITS, file),
    "a folder": lambda file: (file.unlink(), file.mkdir()),
    "a pipe": lambda file: (file.unlink(), os.mkfifo(file)),
}


def test_what_was_written_comes_back(tmp_path: Path) -> None:
    write_part(tmp_path / "1.json", INPUTS, CONTENT)
    write_tensors_of(tmp_path / "1.pt", INPUTS, {"logits": LOGITS})
    assert read_part(tmp_path / "1.json", INPUTS) == (CONTENT, "")
    assert torch.equal(read_tensors_of(tmp_path / "1.pt", INPUTS)["logits"], LOGITS)
    assert read_part(tmp_path / "2.json", INPUTS) == (None, "")
    assert read_tensors_of(tmp_path / "2.pt", INPUTS) is None


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damage_is_recognized(damage: Callable[[Path], object], tmp_path: Path) -> None:
    part, logits = tmp_path / "1.json", tmp_path / "1.pt"
    write_part(part, INPUTS, CONTENT)
    write_tensors_of(logits, INPUTS, {"logits": LOGITS})
    damage(part)
    damage(logits)
    assert read_part(part, INPUTS) == (None, f"{part} is damaged")
    assert read_tensors_of(logits, INPUTS) is None


def test_no_flipped_bit_comes_back(tmp_path: Path) -> None:
    part, logits, random = tmp_path / "1.json", tmp_path / "1.pt", np.random.default_rng(0)
    write_part(part, INPUTS, CONTENT)
    write_tensors_of(logits, INPUTS, {"logits": LOGITS})
    for path, read in ((part, lambda: read_part(part, INPUTS)[0]), (logits, lambda: read_tensors_of(logits, INPUTS))):
        whole = path.read_bytes()
        for place in random.integers(len(whole), size=100):
            damaged = bytearray(whole)
            damaged[place] ^= 1 << int(random.integers(8))
            path.write_bytes(damaged)
            found = read()
            assert found is None or found == CONTENT or torch.equal(found["logits"], LOGITS), place


def test_other_inputs_are_named_and_unknown_ones_pass(tmp_path: Path) -> None:
    path = tmp_path / "1.json"
    write_part(path, INPUTS, CONTENT)
    assert read_part(path, {"settings": "a", "frames": "c"}) == (None, "its frames changed")
    assert read_part(path, {"settings": "x", "frames": "c"}) == (None, "its settings and frames changed")
    assert read_part(path, INPUTS | {"weights": "w"}) == (None, "its weights changed")
    assert read_part(path, {"settings": "a", "frames": None}) == (CONTENT, ""), "the frames are gone"


def test_frames_are_known_by_their_contents(demo_data: tuple[Path, Path], tmp_path: Path) -> None:
    video, other = load_dataset(demo_data[1]).videos
    assert hash_of_frames(video) != hash_of_frames(other)
    for frame in video.frames:
        shutil.copy(frame, tmp_path / frame.name)
    moved = replace(video, frames=tuple(tmp_path / frame.name for frame in video.frames))
    assert hash_of_frames(moved) == hash_of_frames(video)
    assert hash_of_frames(replace(moved, frames=moved.frames[::-1])) != hash_of_frames(video)
    moved.frames[2].write_bytes(moved.frames[2].read_bytes() + b" ")
    assert hash_of_frames(moved) != hash_of_frames(video)
    moved.frames[2].unlink()
    assert hash_of_frames(moved) is None


def test_weights_and_values_are_known_by_their_contents() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    before = hash_of_weights(model)
    assert hash_of_weights(model) == before
    model[1].running_mean[0] += 1
    assert hash_of_weights(model) != before
    assert hash_of({"a": 1, "b": [2.5, None]}) == hash_of(json.loads('{"b": [2.5, null], "a": 1}')) != hash_of({"a": 1})
