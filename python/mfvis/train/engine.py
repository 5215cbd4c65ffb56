"""The training loop: one function, from the configuration to the last checkpoint, that reads from top to bottom."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from torch.utils.data import DataLoader, Dataset

import mfvis_ext
from mfvis.config import Config, accumulation, derived
from mfvis.data.clips import ClipDataset, ClipSampler, Draw, collate
from mfvis.data.ytvis import load_dataset
from mfvis.errors import ConfigError, MfvisError
from mfvis.losses.criterion import Criterion
from mfvis.models.mask2former import VideoMask2Former
from mfvis.parsing import to_plain, to_yaml
from mfvis.train import checkpoint
from mfvis.train.checkpoint import Description
from mfvis.train.log import Log
from mfvis.train.optim import make_optimizer, set_learning_rate
from mfvis.train.replay import stop_for_replay
from mfvis.train.step import forward, is_prompted, seed_everything
from mfvis.types import Batch, Clip

FREE_TO_CHANGE = {"out", "resume", "data", "frames", "init", "train.workers", "train.log_every", "train.keep"}
"""What may differ when a training is resumed; everything else would make it another training."""


def train(config: Config) -> Path:
    """Train as `config` says, alone or as one of the processes that ``accelerate launch`` or ``torchrun`` started.

    Writes ``log.jsonl`` and ``checkpoints/`` to `config.out`; returns the last checkpoint. May be killed at any moment
    and resumed: on the CPU the result is the same, bit for bit, as that of an uninterrupted training.

    Raises:
        ConfigError, DataError, CheckpointError: before the first step.
        TrainingError: at a loss or gradient that is not finite; the batch is kept for ``mfvis replay``.
    """
    # ---- Where it runs ------------------------------------------------------------------------------------------
    settings = config.train
    has_cuda = mfvis_ext.build_info()["cuda"] is not None
    accelerator = Accelerator(
        cpu=settings.device == "cpu" or not has_cuda,
        mixed_precision=settings.amp,
        # Queries made from boxes and learnt queries take turns, so either's parameters are idle in some steps.
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=0 < settings.prompted < 1)],
    )
    processes, rank = accelerator.num_processes, accelerator.process_index
    passes = accumulation(settings, processes)
    resumed_from = _resumed(config)

    # ---- Data ---------------------------------------------------------------------------------------------------
    dataset = load_dataset(config.data, config.frames)
    with_masks = config.supervision == "masks"
    clips = ClipDataset(dataset, config.clip, with_masks=with_masks)
    sampler = ClipSampler(len(clips), settings.seed)

    # ---- Model, losses, optimiser -------------------------------------------------------------------------------
    torch.manual_seed(settings.seed)
    bare = VideoMask2Former(config.model, len(dataset.categories), pretrained=not (resumed_from or config.init))
    criterion = Criterion(config.loss, len(dataset.categories), with_masks)
    bare.to(accelerator.device)
    started = ""
    if config.init and not resumed_from:
        started = checkpoint.start_from(config.init, bare, dataset.categories)
    optimizer = make_optimizer(bare, settings)
    model, optimizer = accelerator.prepare(bare, optimizer)

    # ---- Resume -------------------------------------------------------------------------------------------------
    first_step = 0
    if resumed_from:
        state = checkpoint.restore(resumed_from, bare)
        first_step = checkpoint.describe(resumed_from).step
        checkpoint.apply_training(state, optimizer, sampler, accelerator.scaler, str(resumed_from))
        started = f"resumed from {resumed_from}, step {first_step}"
    log = Log(config.out, first_step, settings.steps, settings.log_every, accelerator.is_main_process)
    log.say(to_yaml(config) + "\n".join(derived(config, processes, len(clips))))
    trainable = sum(p.numel() for p in bare.parameters() if p.requires_grad)
    log.say(f"parameters {trainable:,} trained of {sum(p.numel() for p in bare.parameters()):,}")
    if started:
        log.say(started)
    if torch.cuda.is_available() and not has_cuda:
        log.say("trains on the CPU: mfvis_ext was built without CUDA")
    batches = _batches(clips, sampler, config, processes, rank)

    # ---- Steps --------------------------------------------------------------------------------------------------
    model.train()
    last = resumed_from
    for step in range(first_step, settings.steps):
        rate = set_learning_rate(optimizer, settings, step)
        sums: dict[str, torch.Tensor] = {}
        waited = 0.0
        for part in range(passes):
            asked = time.perf_counter()
            batch = next(batches).to(accelerator.device)
            waited += time.perf_counter() - asked
            seed_everything(settings.seed, step, part, rank)
            # Gradients travel between processes once a step, with its last part.
            alone = accelerator.no_sync(model) if part < passes - 1 else contextlib.nullcontext()
            with alone:
                terms = forward(model, criterion, batch, step, is_prompted(config, step))
                if not torch.isfinite(terms.total):
                    description = Description(step, config, dataset.categories)
                    stop_for_replay("loss", description, bare, batch, part, rank, terms)
                accelerator.backward(terms.total / passes)
            for name, value in terms.named().items():
                sums[name] = sums.get(name, 0) + value / passes

        norm = accelerator.clip_grad_norm_(model.parameters(), settings.clip_norm or float("inf"))
        if settings.amp != "fp16" and not torch.isfinite(norm):  # the scaler of fp16 skips such steps by itself
            description = Description(step, config, dataset.categories)
            stop_for_replay("gradient", description, bare, batch, passes - 1, rank, terms)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        sampler.advance(settings.batch)
        done = step + 1
        log.step(done, sums | {"grad_norm": norm.detach()}, {"lr": rate}, waited)

        # ---- Checkpoint -----------------------------------------------------------------------------------------
        if done % settings.checkpoint_every == 0 or done == settings.steps:
            if accelerator.is_main_process:
                last = checkpoint.save(
                    config.out / "checkpoints",
                    f"{done:06}",
                    Description(done, config, dataset.categories),
                    bare,
                    checkpoint.training_state(optimizer, sampler, accelerator.scaler),
                )
                checkpoint.point_last(last, settings.keep)
            accelerator.wait_for_everyone()
    log.close()
    if last is None or not accelerator.is_main_process:
        last = checkpoint.find(config.out)
    log.say(f"trained {settings.steps} steps: {last}")
    return last


def plan(config: Config) -> list[str]:
    """The derived numbers of a training, for ``--dry-run``: reads the annotations, trains nothing."""
    clips = ClipDataset(load_dataset(config.data, config.frames), config.clip, config.supervision == "masks")
    return derived(config, int(os.environ.get("WORLD_SIZE", 1)), len(clips))


class _Reported(Dataset):
    """Clips, or the user's error that came instead: raised in a worker it would arrive as a traceback."""

    def __init__(self, clips: ClipDataset):
        self.clips = clips

    def __getitem__(self, draw: Draw) -> Clip | MfvisError:
        try:
            return self.clips[draw]
        except MfvisError as error:
            return error


def _collate(clips: list[Clip | MfvisError]) -> Batch | MfvisError:
    return next((clip for clip in clips if isinstance(clip, MfvisError)), None) or collate(clips)


class _Shares:
    """The draws of this process: of each group of clips that the processes take at once, its own slice."""

    def __init__(self, sampler: ClipSampler, per_device: int, processes: int, rank: int):
        self.sampler, self.per_device, self.processes, self.rank = sampler, per_device, processes, rank

    def __iter__(self) -> Iterator[list[Draw]]:
        draws = iter(self.sampler)
        while True:
            together = [next(draws) for _ in range(self.per_device * self.processes)]
            yield together[self.rank * self.per_device :][: self.per_device]


def _batches(clips: ClipDataset, sampler: ClipSampler, config: Config, processes: int, rank: int) -> Iterator[Batch]:
    loader = DataLoader(
        _Reported(clips),
        batch_sampler=_Shares(sampler, config.train.per_device, processes, rank),
        num_workers=config.train.workers,
        collate_fn=_collate,
        pin_memory=torch.cuda.is_available(),
    )
    for batch in loader:
        if isinstance(batch, MfvisError):
            raise batch
        yield batch


def _resumed(config: Config) -> Path | None:
    """The checkpoint to go on from; ConfigError where `config.out` and `config.resume` do not fit."""
    try:
        found = checkpoint.find(config.out / "checkpoints" / "last")
    except MfvisError:
        if config.resume:
            raise ConfigError(f"nothing to resume: {config.out} has no checkpoint; leave out --resume") from None
        return None
    description = checkpoint.describe(found)
    if not config.resume:
        raise ConfigError(
            f"{config.out} holds a training at step {description.step}; add --resume to go on, or choose another --out"
        )
    before, now = _flat(to_plain(description.config)), _flat(to_plain(config))
    changed = [key for key in now if before.get(key) != now[key] and key not in FREE_TO_CHANGE]
    if changed:
        lines = "\n".join(f"  {key}: {before.get(key)} then, {now[key]} now" for key in changed)
        raise ConfigError(
            f"{found} was trained with other settings:\n{lines}\n"
            f"Resume with the old ones, or start anew from its weights: --init {found} with another --out"
        )
    return found


def _flat(values: dict, prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
