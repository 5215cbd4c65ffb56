"""Sharding: the parts of several processes, joined, are the results of one, bit for bit."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from mfvis.errors import ConfigError
from mfvis.labeling import run as label
from mfvis.labeling.config import LabelConfig, RefineConfig
from mfvis.parsing import to_plain
from mfvis.predict import run as predict
from mfvis.predict.config import PredictConfig
from mfvis.sharding import Shard, parse_shard
from mfvis.train.log import Log, require_trackers
from mfvis.writing import LOCK, run_lock
from test_predict import CATEGORIES, TRAINED
from tiny import tiny_label_config, tiny_model


def array(task: int, least: int, most: int, count: int) -> dict[str, str]:
    """Variables of a task of a SLURM array."""
    values = {"ID": task, "MIN": least, "MAX": most, "COUNT": count}
    return {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in values.items()}


@pytest.fixture(scope="module")
def config(demo_data, tmp_path_factory) -> LabelConfig:
    """Settings of a tiny run over four videos, each with boxes only."""
    folder = tmp_path_factory.mktemp("shards")
    content = json.loads(demo_data[0].read_text())
    for annotation in content["annotations"]:
        del annotation["segmentations"]
    (folder / "boxes.json").write_text(json.dumps(content))
    (folder / "JPEGImages").symlink_to(demo_data[0].parent / "JPEGImages")
    return tiny_label_config(
        folder / "boxes.json", folder, out=folder / "whole", num_models=2, refine=RefineConfig(steps=1)
    )


@pytest.fixture(scope="module")
def whole(config) -> bytes:
    """The JSON of a single run."""
    return label.run(config).read_bytes()


def test_four_shards_joined_are_one_run(config, whole, tmp_path, capsys):
    config = replace(config, out=config.out.with_name("shards"))
    for i in (3, 1, 4, 2):
        completed = label.run(replace(config, shard=f"{i}/4"))
        assert not completed.exists()
    said = capsys.readouterr().out
    assert "shard 3/4 (from --shard): 1 of 4 videos" in said and "--shard 1/1 to join" in said
    assert said.count("cross-video network: trained") == 1  # the last shard knew all first passes
    label.run(replace(config, shard="2/4"))  # a shard that is started again finishes its second pass
    assert "cross-video network: trained" not in capsys.readouterr().out
    assert label.run(replace(config, shard="1/1")).read_bytes() == whole
    assert not (config.out / LOCK).exists()


TWO = """
import json, os, sys
import torch
from pathlib import Path
from mfvis.labeling import run as label
from mfvis.labeling.config import LabelConfig
from mfvis.parsing import build
from mfvis.predict import run as predict
from mfvis.train.log import Log
from test_predict import CATEGORIES, TRAINED, tiny_model

label_config, data, out = sys.argv[1:]
label.run(build(LabelConfig, json.loads(label_config), ""))
predict.load_model = lambda path, device: (tiny_model(), CATEGORIES, TRAINED)
# another address, since the first process may still be closing that of the labeling
os.environ["MASTER_PORT"] = os.environ["SECOND_PORT"]
predict.run(predict.PredictConfig((data,), Path("any"), Path(out, "found"), device="cpu", overlays=False))
rank = int(os.environ["RANK"])
torch.distributed.init_process_group("gloo", init_method=f"file://{out}/group", rank=rank, world_size=2)
log = Log(Path(out, "log"), 0, 2, 2, rank == 0)
for step in (1, 2):
    log.step(step, {"total": torch.tensor(float(step + 10 * rank))}, torch.tensor(1.0), 0.1, 0.0)
torch.distributed.destroy_process_group()  # its threads may abort a process that ends without this
"""


def test_two_processes_of_a_launcher_are_one_run(config, whole, tmp_path, monkeypatch):
    """Labels and predictions are those of one process; logged losses are means over both."""
    monkeypatch.setattr(predict, "load_model", lambda path, device: (tiny_model(), CATEGORIES, TRAINED))
    predict.run(PredictConfig((str(config.data),), Path("any"), tmp_path / "one", device="cpu", overlays=False))
    with socket.socket() as one, socket.socket() as two:
        one.bind(("127.0.0.1", 0))
        two.bind(("127.0.0.1", 0))
        port, second = one.getsockname()[1], two.getsockname()[1]
    flags = json.dumps(to_plain(replace(config, out=tmp_path / "two")))
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "PYTHONPATH": paths}
    common["SECOND_PORT"] = str(second)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", TWO, flags, str(config.data), str(tmp_path)],
            env=os.environ | common | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    said = "".join(process.communicate(timeout=400)[0] for process in processes)
    assert [process.returncode for process in processes] == [0, 0], said
    assert (tmp_path / "two" / "boxes.json").read_bytes() == whole
    assert said.count("2 processes share 4 videos") == 2 and said.count("cross-video network: trained") == 1
    for name in ("results.json", "results.zip", "tracks.json"):
        assert (tmp_path / "found" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()
    (record,) = map(json.loads, (tmp_path / "log" / "log.jsonl").read_text().splitlines())
    assert record["total"] == (1 + 2 + 11 + 12) / 4


def test_predicted_shards_joined_are_one_run(config, tmp_path, monkeypatch):
    monkeypatch.setattr(predict, "load_model", lambda path, device: (tiny_model(), CATEGORIES, TRAINED))
    given = PredictConfig((str(config.data),), Path("any"), tmp_path / "one", device="cpu", overlays=False)
    predict.run(given)
    shards = replace(given, out=tmp_path / "shards")
    for i in (2, 3, 1):
        predict.run(replace(shards, shard=f"{i}/3"))
        assert not (shards.out / "results.json").exists()
    monkeypatch.setattr(predict, "predict_video", None)  # everything is there
    predict.run(shards)
    for name in ("results.json", "results.zip", "tracks.json"):
        assert (shards.out / name).read_bytes() == (given.out / name).read_bytes()


def test_every_item_belongs_to_one_shard():
    for count in (1, 3, 5):
        parts = [Shard(i, count).own(range(4)) for i in range(count)]
        assert sorted(item for part in parts for item in part) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, (0, 1, False)),
        ({"RANK": "1", "WORLD_SIZE": "2"}, (1, 2, True)),
        ({"RANK": "0", "WORLD_SIZE": "1"}, (0, 1, False)),
        (array(5, 1, 8, 8), (4, 8, False)),
        (array(0, 0, 3, 4), (0, 4, False)),
        (array(20, 0, 30, 4), (2, 4, False)),  # --array=0-30:10
        (array(7, 7, 7, 1), (0, 1, False)),
    ],
)
def test_variables_of_launchers_and_arrays_name_the_shard(environ, expected):
    shard = parse_shard(None, environ)
    assert (shard.index, shard.count, shard.launched) == expected
    if not shard.launched:
        assert str(parse_shard("2/3", environ)) == "2/3"


@pytest.mark.parametrize("text", ["0/4", "5/4", "4", "1/0", "a/b", ""])
def test_a_faulty_shard_is_one_error(text):
    with pytest.raises(ConfigError, match="expected I/N with I from 1 to N"):
        parse_shard(text, {})


def test_shards_that_contradict_are_one_error():
    with pytest.raises(ConfigError, match="drop one"):
        parse_shard("1/2", {"RANK": "0", "WORLD_SIZE": "2"})
    with pytest.raises(ConfigError, match="not evenly spaced"):
        parse_shard(None, array(4, 0, 9, 3))  # --array=0,4,9


def test_shards_share_a_folder_and_a_whole_run_does_not(tmp_path):
    out = tmp_path / "out"
    with run_lock(out, shared=True):
        with run_lock(out, shared=True):
            pass
        assert (out / LOCK).exists()
        with pytest.raises(ConfigError, match="in use by another run"), run_lock(out):
            pass
    assert not out.exists()
    with run_lock(out), pytest.raises(ConfigError, match="in use by another run"), run_lock(out, shared=True):
        pass


def test_trackers_get_the_records_and_those_that_are_missing_are_named(tmp_path):
    tracker = Mock()
    log = Log(tmp_path, 0, 1, 1, active=True)
    log.trackers.append(tracker)
    log.step(1, {"total": torch.tensor(2.0)}, torch.tensor(1.0), 0.1, 0.0)
    log.close()
    assert tracker.log.call_args.args[0]["total"] == 2 and tracker.log.call_args.kwargs == {"step": 1}
    tracker.finish.assert_called_once()
    with pytest.raises(ConfigError, match="pip install comet-ml"):
        require_trackers(["comet_ml"])
    assert require_trackers([]) == []
