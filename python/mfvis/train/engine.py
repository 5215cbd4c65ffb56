"""The training loop: one function, from the configuration to the last checkpoint, that reads from top to bottom."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from torch.utils.data import DataLoader, Dataset

from mfvis.config import Config, accumulation, derived, shares
from mfvis.data.clips import ClipDataset, ClipSampler, Draw, collate_alike
from mfvis.data.datasets import counterparts, load_source, translated
from mfvis.device import device_of
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
from mfvis.writing import run_lock

FREE_TO_CHANGE = {
    "out",
    "resume",
    "data",
    "frames",
    "init",
    "train.num_workers",
    "train.log_every",
    "train.keep_checkpoints",
}
"""What may differ when a training is resumed; everything else would make it another training."""


def train(config: Config) -> Path:
    """Train as `config` says, alone or as one of the processes that ``accelerate launch`` or ``torchrun`` started.

    Writes ``log.jsonl`` and ``checkpoints/`` to `config.out`; returns the last checkpoint. May be killed at any moment
    and resumed: on the CPU the result is the same, bit for bit, as that of an uninterrupted training.

    Raises:
        ConfigError, DataError, CheckpointError: before the first step.
        TrainingError: at a loss or gradient that is not finite; the batch is kept for ``mfvis replay``.
    """
    settings = config.train
    notes: list[str] = []
    device = device_of(settings.device, notes.append)
    accelerator = Accelerator(
        cpu=device.type == "cpu",
        mixed_precision="no",  # is `forward`'s, as replay needs it too, and accelerate has no fp16 on the CPU
        # Queries made from boxes and learnt queries take turns, so either's parameters are idle in some steps.
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=0 < settings.prompt_probability < 1)],
    )
    with run_lock(config.out, ("checkpoints", "failed"), accelerator.is_main_process):
        return _train(config, accelerator, notes)


def _train(config: Config, accelerator: Accelerator, notes: list[str]) -> Path:
    settings = config.train
    scaler = torch.amp.GradScaler(accelerator.device.type, enabled=settings.amp == "fp16")
    processes, rank = accelerator.num_processes, accelerator.process_index
    passes = accumulation(settings, processes)
    resumed_from = _resumed(config)

    # ---- Data ---------------------------------------------------------------------------------------------------
    clips = clip_datasets(config)
    categories = clips[0].dataset.categories
    sampler = ClipSampler([len(part) for part in clips], settings.seed, shares(config.sources()), together=processes)

    # ---- Model, losses, optimiser -------------------------------------------------------------------------------
    torch.manual_seed(settings.seed)
    bare = VideoMask2Former(config.model, len(categories), pretrained=not (resumed_from or config.init))
    criteria = {masks: Criterion(config.loss, len(categories), masks) for masks in (False, True)}
    bare.to(accelerator.device)
    started = ""
    if config.init and not resumed_from:
        started = checkpoint.start_from(config.init, bare, categories)
    optimizer = make_optimizer(bare, settings)
    model, optimizer = accelerator.prepare(bare, optimizer)

    # ---- Resume -------------------------------------------------------------------------------------------------
    first_step = 0
    if resumed_from:
        state = checkpoint.restore(resumed_from, bare)
        first_step = checkpoint.describe(resumed_from).step
        checkpoint.apply_training(state, optimizer, sampler, scaler, str(resumed_from))
        started = f"resumed from {resumed_from}, step {first_step}"
    log = Log(config.out, first_step, settings.steps, settings.log_every, accelerator.is_main_process)
    log.say(to_yaml(config) + "\n".join(derived(config, processes, [len(part) for part in clips])))
    for note in [*notes, *(note for part in clips for note in part.dataset.notes)]:
        log.say(note)
    trainable = sum(p.numel() for p in bare.parameters() if p.requires_grad)
    log.say(f"parameters {trainable:,} trained of {sum(p.numel() for p in bare.parameters()):,}")
    if started:
        log.say(started)
    if accelerator.device.type == "cpu" and settings.amp == "fp16":
        log.say("float16 on a CPU is mostly slower than float32; --train.amp bf16 or no may be many times faster")
    batches = _batches(clips, sampler, config, processes, rank, accelerator.device)

    # ---- Steps --------------------------------------------------------------------------------------------------
    model.train()
    last = resumed_from
    for step in range(first_step, settings.steps):
        rate = set_learning_rate(optimizer, settings, step)
        sums: dict[str, torch.Tensor] = {}
        waited = 0.0
        parts = 0
        for forward_pass in range(passes):
            asked = time.perf_counter()
            # One batch for each clip length and supervision; the same ones in all processes.
            alike = next(batches)
            waited += time.perf_counter() - asked
            for place, batch in enumerate(alike):
                batch = batch.to(accelerator.device)
                seed_everything(settings.seed, step, parts, rank)
                share = len(batch.clips) / settings.batch_size_per_device / passes
                # Gradients travel between processes once a step, with its last part.
                last_part = forward_pass == passes - 1 and place == len(alike) - 1
                alone = contextlib.nullcontext() if last_part else accelerator.no_sync(model)
                with alone:
                    criterion = criteria[batch.masks_NTHW is not None]
                    terms = forward(model, criterion, batch, step, is_prompted(config, step), settings.amp)
                    if not torch.isfinite(terms.total):
                        description = Description(step, config, categories)
                        stop_for_replay("loss", description, bare, batch, parts, rank, terms)
                    accelerator.backward(scaler.scale(terms.total * share))
                for name, value in terms.named().items():
                    sums[name] = sums.get(name, 0) + value * share
                parts += 1

        scaler.unscale_(optimizer)
        norm = accelerator.clip_grad_norm_(model.parameters(), settings.clip_norm or float("inf"))
        # Scaled gradients overflow now and then; the scaler skips those steps and scales less until they do not.
        if not torch.isfinite(norm) and scaler.get_scale() <= 1:
            description = Description(step, config, categories)
            stop_for_replay("gradient", description, bare, batch, parts - 1, rank, terms)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        sampler.advance(settings.batch_size)
        done = step + 1
        log.step(done, sums, norm.detach(), rate, waited)

        # ---- Checkpoint -----------------------------------------------------------------------------------------
        if done % settings.checkpoint_every == 0 or done == settings.steps:
            if accelerator.is_main_process:
                last = checkpoint.save(
                    config.out / "checkpoints",
                    f"{done:06}",
                    Description(done, config, categories),
                    bare,
                    checkpoint.training_state(optimizer, sampler, scaler),
                )
                checkpoint.point_last(last, settings.keep_checkpoints)
            accelerator.wait_for_everyone()
    log.close()
    if last is None or not accelerator.is_main_process:
        last = checkpoint.find(config.out)
    log.say(f"trained {settings.steps} steps: {last}")
    return last


def clip_datasets(config: Config) -> list[ClipDataset]:
    """The data sets of a training, all in the classes of the first.

    Raises:
        DataError: with the problems of the first data set that has any, or where no class of one is among the classes.
    """
    parts: list[ClipDataset] = []
    for source in config.sources():
        with_masks = (source.supervision or config.supervision) == "masks"
        dataset = load_source(source, "train", config.frames, with_masks=with_masks)
        if parts:
            name, categories = config.sources()[0].name, parts[0].dataset.categories
            ids = counterparts(source.name, dataset.categories, name, categories)
            dataset = translated(dataset, categories, ids)
        clip = replace(config.clip, frames=source.length or config.clip.frames)
        parts.append(ClipDataset(dataset, clip, with_masks))
    return parts


class _Reported(Dataset):
    """Clips, or the user's error that came instead: raised in a worker it would arrive as a traceback."""

    def __init__(self, clips: Sequence[ClipDataset]):
        self.clips = clips

    def __getitem__(self, draw: Draw) -> Clip | MfvisError:
        try:
            return self.clips[draw.source][draw]
        except MfvisError as error:
            return error


def _collate(clips: list[Clip | MfvisError]) -> list[Batch] | MfvisError:
    return next((clip for clip in clips if isinstance(clip, MfvisError)), None) or collate_alike(clips)


class _Shares:
    """The draws of this process: of the clips that the processes take at once every so many-th, so that each has as
    many of a data set as the others and none waits for losses that another does not have."""

    def __init__(self, sampler: ClipSampler, per_device: int, processes: int, rank: int):
        self.sampler, self.per_device, self.processes, self.rank = sampler, per_device, processes, rank

    def __iter__(self) -> Iterator[list[Draw]]:
        draws = iter(self.sampler)
        while True:
            together = [next(draws) for _ in range(self.per_device * self.processes)]
            yield together[self.rank :: self.processes]


def _batches(
    clips: Sequence[ClipDataset],
    sampler: ClipSampler,
    config: Config,
    processes: int,
    rank: int,
    device: torch.device,
) -> Iterator[list[Batch]]:
    loader = DataLoader(
        _Reported(clips),
        batch_sampler=_Shares(sampler, config.train.batch_size_per_device, processes, rank),
        num_workers=min(config.train.num_workers, len(os.sched_getaffinity(0))),
        collate_fn=_collate,
        pin_memory=device.type == "cuda",
    )
    for batches in loader:
        if isinstance(batches, MfvisError):
            raise batches
        yield batches


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
    before, now = _flat(_comparable(description.config)), _flat(_comparable(config))
    changed = [key for key in now if before.get(key) != now[key] and key not in FREE_TO_CHANGE]
    if changed:
        lines = "\n".join(f"  {key}: {before.get(key)} then, {now[key]} now" for key in changed)
        raise ConfigError(
            f"{found} was trained with other settings:\n{lines}\n"
            f"Resume with the old ones, or start anew from its weights: --init {found} with another --out"
        )
    return found


def _comparable(config: Config) -> dict[str, object]:
    """The configuration, and of its data sets everything but where they lie."""
    return to_plain(config) | {"data sets": [to_plain(replace(source, path=Path())) for source in config.sources()]}


def _flat(values: dict, prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
