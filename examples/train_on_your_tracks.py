"""From the box tracks of your tracker to a model of your own: import, check, train, predict, evaluate.

    python examples/train_on_your_tracks.py [FOLDER]

Each step is a command of mfvis, shown as it runs. The tracks are generated, and the model is tiny (preset test): it
shows the steps and learns nothing useful. For a real model use ``--preset paper,r50`` or ``--preset real``.
"""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

from mfvis.cli import main as mfvis
from mfvis.data.config import SyntheticConfig
from mfvis.data.synthetic import write_demo
from mfvis.data.ytvis import load_dataset

CATEGORY = "toy"
"""The class of all tracks, since these CSV files have none."""


def run(*command: str | Path) -> None:
    """Run one command of mfvis, as in a shell."""
    arguments = [str(argument) for argument in command]
    print("\n$ mfvis", *arguments, flush=True)
    if mfvis(arguments) != 0:
        raise SystemExit(1)


def write_tracks(folder: Path) -> tuple[Path, Path]:
    """Generated videos as a tracker would leave them: a CSV per video, and its frames. Also a JSON with true masks."""
    config = SyntheticConfig(videos=2, val_videos=1, frames=6, height=64, width=96)
    train_json, val_json = write_demo(folder / "generated", config)
    (folder / "tracks").mkdir(exist_ok=True)
    for video in load_dataset(train_json).videos:
        with open(folder / "tracks" / f"{video.name}.csv", "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["frame", "id", "x", "y", "w", "h"])
            for track in video.tracks:
                for t in track.present_T.nonzero()[0]:
                    x1, y1, x2, y2 = track.boxes_T4[t].tolist()
                    writer.writerow([t, track.id, x1, y1, x2 - x1, y2 - y1])
    truth = json.loads(val_json.read_text())
    truth["categories"] = [{"id": 1, "name": CATEGORY}]
    for annotation in truth["annotations"]:
        annotation["category_id"] = 1
    val_json.write_text(json.dumps(truth))
    return folder / "generated" / "JPEGImages", val_json


def main(folder: Path = Path("own_tracks")) -> Path:
    """Run every step below `folder`; returns the predicted tracks."""
    folder.mkdir(parents=True, exist_ok=True)
    frames, val_json = write_tracks(folder)
    boxes, model, found = folder / "boxes.json", folder / "run", folder / "found"
    run(
        "data",
        "import",
        folder / "tracks",
        "--frames",
        frames,
        "--out",
        boxes,
        "--first-frame",
        "0",
        "--categories",
        CATEGORY,
    )
    run("data", "check", boxes)
    run("train", "--preset", "test", "--data", boxes, "--out", model)
    run("predict", val_json, "--checkpoint", model, "--out", found)
    run("eval", found / "results.json", "--data", val_json)
    return found / "results.json"


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
