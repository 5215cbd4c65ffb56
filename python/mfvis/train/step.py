"""One training forward pass including its random state, shared by the training loop and ``mfvis replay``."""

from __future__ import annotations

import numpy as np
import torch

from mfvis.losses.criterion import Criterion, LossTerms
from mfvis.train.config import Config
from mfvis.types import Batch, BoxPrompts, Match


def seed_everything(seed: int, step: int, part: int, rank: int) -> None:
    """Seed torch from these four numbers, so that checkpoints need no random state."""
    torch.manual_seed(int(np.random.SeedSequence([seed, step, part, rank]).generate_state(1, np.uint64)[0] >> 1))


def is_prompted(config: Config, step: int) -> bool:
    """True if the queries of this step are made from boxes; the same in all processes."""
    return bool(np.random.default_rng([config.train.seed, step]).random() < config.train.prompt_probability)


def autocast(device: str, amp: str) -> torch.autocast:
    """Autocast context for a device type and a value of `TrainConfig.amp`."""
    precision = {"no": None, "bf16": torch.bfloat16, "fp16": torch.float16}[amp]
    return torch.autocast(device, precision, enabled=precision is not None)


def forward(
    model: torch.nn.Module, criterion: Criterion, batch: Batch, step: int, prompted: bool, amp: str = "no"
) -> LossTerms:
    """Losses of a batch, with learned queries or with queries made from the batch's boxes.

    amp: precision of the model, as for `autocast`. The losses accept logits of any precision and accumulate in float32.
    """
    prompts, query_N = box_prompts(batch) if prompted else (None, None)
    with autocast(batch.frames_BTCHW.device.type, amp):
        prediction = model(batch.frames_BTCHW, batch.sizes_B2, prompts)
    matched = None if query_N is None else Match(query_N.expand(len(prediction.logits_LBQK), -1))
    return criterion(prediction, batch, step, matched)


def box_prompts(batch: Batch) -> tuple[BoxPrompts, torch.Tensor]:
    """The boxes of a batch as prompts, and int64 ``[N]``: index of each object's query within its clip."""
    index = batch.video_index_N
    mine = index[:, None] == torch.arange(len(batch.clips), device=index.device)
    query_N = mine.cumsum(0).gather(1, index[:, None])[:, 0] - 1
    queries = max((len(origin.track_ids) for origin in batch.clips), default=0)
    frames = batch.boxes_NT4.shape[1]
    boxes_BQT4 = batch.boxes_NT4.new_zeros(len(batch.clips), max(queries, 1), frames, 4)
    boxes_BQT4[index, query_N] = batch.boxes_NT4
    valid_BQ = torch.zeros(boxes_BQT4.shape[:2], dtype=torch.bool, device=index.device)
    valid_BQ[index, query_N] = True
    return BoxPrompts(boxes_BQT4, valid_BQ), query_N
