"""Training loop: one function from the configuration to the last checkpoint, readable from top to bottom."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import gather_object
from torch.utils.data import DataLoader, Dataset

from mfvis.data.categories import category_map, remap_categories
from mfvis.data.check import check_frames_of
from mfvis.data.clips import ClipDataset, ClipRequest, ClipSampler, collate_by_kind
from mfvis.device import device_of
from mfvis.errors import DataError, MfvisError, TrainingError
from mfvis.losses.criterion import Criterion, LossTerms
from mfvis.models.video_model import build_model
from mfvis.parsing import flatten, to_plain, to_yaml
from mfvis.text import counted
from mfvis.train import checkpoint, resume
from mfvis.train.checkpoint import CheckpointInfo
from mfvis.train.config import Config, accumulation_steps, sampling_ratios, summarize_schedule
from mfvis.train.log import Log, require_trackers
from mfvis.train.optim import make_optimizer, set_learning_rate
from mfvis.train.replay import require_finite_step
from mfvis.train.step import forward, is_prompted, seed_everything
from mfvis.types import Batch, Clip
from mfvis.writing import run_lock


def train(config: Config) -> Path:
    """Train with `config`, in a single process or in one of those started by ``accelerate launch`` or ``torchrun``.

    Writes ``log.jsonl`` and ``checkpoints/`` to `config.out`; returns the last checkpoint. Interrupted trainings can be
    resumed; on the CPU the result is the same, bit for bit, as that of an uninterrupted training.

    Raises:
        ConfigError, DataError, CheckpointError: before the first step.
        TrainingError: a loss or gradient is not finite; the batch is saved for ``mfvis replay``.
    """
    settings = config.train
    notes: list[str] = []
    device = device_of(settings.device, notes.append)
    accelerator = Accelerator(
        log_with=require_trackers(settings.log_with) or None,
        project_dir=config.out,
        cpu=device.type == "cpu",
        mixed_precision="no",  # done in `forward`, because replay needs it too and accelerate has no fp16 on the CPU
        # Each step uses either queries made from boxes or learned queries, so the others' parameters are unused.
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=0 < settings.prompt_probability < 1)],
    )
    with run_lock(config.out, ("checkpoints", "failed"), accelerator.is_main_process):
        return _train(config, accelerator, notes)


def _train(config: Config, accelerator: Accelerator, notes: list[str]) -> Path:
    settings = config.train
    scaler = torch.amp.GradScaler(accelerator.device.type, enabled=settings.amp == "fp16")
    processes, rank = accelerator.num_processes, accelerator.process_index
    passes = accumulation_steps(settings, processes)
    candidates = resume.candidates(config)

    # ---- Data ---------------------------------------------------------------------------------------------------
    clips = clip_datasets(config)
    categories = clips[0].dataset.categories
    _check_frames(clips, accelerator)
    ratios = sampling_ratios(config.specs)
    sampler = ClipSampler([len(part) for part in clips], settings.seed, ratios, block_size=processes)

    # ---- Model, losses, optimizer -------------------------------------------------------------------------------
    torch.manual_seed(settings.seed)
    unwrapped_model = build_model(config.model, len(categories), pretrained=not (candidates or config.init))
    criteria = {masks: Criterion(config.loss, len(categories), masks) for masks in (False, True)}
    unwrapped_model.to(accelerator.device)
    started = ""
    if config.init and not candidates:
        started = checkpoint.initialize_from(config.init, unwrapped_model, categories)
    optimizer = make_optimizer(unwrapped_model, settings)
    model, optimizer = accelerator.prepare(unwrapped_model, optimizer)

    # ---- Resume -------------------------------------------------------------------------------------------------
    first_step, last = 0, None
    if candidates:
        resumed = resume.restore(candidates, unwrapped_model, optimizer, sampler, scaler, settings.batch_size, clips)
        first_step, last = resumed.step, resumed.checkpoint
        notes += resumed.notes
        started = f"resumed from {last}, step {first_step}"
    log = Log(config.out, first_step, settings.steps, settings.log_every, accelerator.is_main_process)
    if settings.log_with:
        accelerator.init_trackers("mfvis", flatten(to_plain(config)))
        log.trackers += accelerator.trackers
    log.say(to_yaml(config) + "\n".join(summarize_schedule(config, processes, [len(part) for part in clips])))
    for note in [*notes, *(note for part in clips for note in part.dataset.notes)]:
        log.say(note)
    trainable = sum(p.numel() for p in unwrapped_model.parameters() if p.requires_grad)
    log.say(f"parameters {trainable:,} trained of {sum(p.numel() for p in unwrapped_model.parameters()):,}")
    if started:
        log.say(started)
    if accelerator.device.type == "cpu" and settings.amp == "fp16":
        log.say("float16 on a CPU is mostly slower than float32; --train.amp bf16 or no may be many times faster")
    batches = _batches(clips, sampler, config, processes, rank, accelerator.device)

    # ---- Steps --------------------------------------------------------------------------------------------------
    model.train()
    data_hashes = [resume.hash_of_data(part) for part in clips]
    for step in range(first_step, settings.steps):
        rate = set_learning_rate(optimizer, settings, step)
        sums: dict[str, torch.Tensor] = {}
        waited = 0.0
        parts: list[tuple[Batch, LossTerms]] = []
        for forward_pass in range(passes):
            asked = time.perf_counter()
            # One batch for each clip length and supervision, in the same order in all processes.
            same_kind = next(batches)
            waited += time.perf_counter() - asked
            for i, batch in enumerate(same_kind):
                batch = batch.to(accelerator.device)
                seed_everything(settings.seed, step, len(parts), rank)
                share = len(batch.clips) / settings.batch_size_per_device / passes
                # Gradients are synchronized once per step, with its last part.
                last_part = forward_pass == passes - 1 and i == len(same_kind) - 1
                synchronization = contextlib.nullcontext() if last_part else accelerator.no_sync(model)
                with synchronization:
                    criterion = criteria[batch.masks_NTHW is not None]
                    terms = forward(model, criterion, batch, step, is_prompted(config, step), settings.amp)
                    accelerator.backward(scaler.scale(terms.total * share))
                for name, value in terms.as_dict().items():
                    sums[name] = sums.get(name, 0) + value * share
                parts.append((batch, terms))

        scaler.unscale_(optimizer)
        norm = accelerator.clip_grad_norm_(model.parameters(), settings.clip_norm or float("inf"))
        require_finite_step(parts, norm, scaler, CheckpointInfo(step, config, categories), unwrapped_model, rank)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        sampler.advance(settings.batch_size)
        done = step + 1
        log.step(done, sums, norm.detach(), rate, waited)

        # ---- Checkpoint -----------------------------------------------------------------------------------------
        if done % settings.checkpoint_every == 0 or done == settings.steps:
            parameters = unwrapped_model.named_parameters()
            if broken := next((name for name, p in parameters if not torch.isfinite(p).all()), None):
                raise TrainingError(
                    f"step {done}: the weights are not finite any more, such as {broken}; no checkpoint was written. "
                    "A lower --train.lr or a longer --train.warmup is what usually helps"
                )
            if accelerator.is_main_process:
                last = checkpoint.save(
                    config.out / "checkpoints",
                    f"{done:06}",
                    CheckpointInfo(done, config, categories),
                    unwrapped_model,
                    resume.training_state(optimizer, sampler, scaler, data_hashes),
                )
                checkpoint.update_last_link(last, settings.keep_checkpoints)
            accelerator.wait_for_everyone()
    log.close()
    if last is None or not accelerator.is_main_process:
        last = checkpoint.find(config.out)
    log.say(f"trained {counted(settings.steps, 'step')}: {last}")
    return last


def clip_datasets(config: Config) -> list[ClipDataset]:
    """Data sets of a training, all mapped to the classes of the first.

    Raises:
        DataError: a data set has problems, or none of its classes is among those of the first data set.
    """
    parts: list[ClipDataset] = []
    for spec in config.specs:
        with_masks = (spec.supervision or config.supervision) == "masks"
        dataset = spec.load("train", config.frames, with_masks=with_masks)
        if parts:
            name, categories = config.specs[0].name, parts[0].dataset.categories
            ids = category_map(spec.name, dataset.categories, name, categories)
            dataset = remap_categories(dataset, categories, ids)
        clip = replace(config.clip, frames=spec.length or config.clip.frames)
        parts.append(ClipDataset(dataset, clip, with_masks))
    return parts


def _check_frames(clips: Sequence[ClipDataset], accelerator: Accelerator) -> None:
    """Raise DataError with all unreadable frames; each process checks a part of the videos."""
    videos = [video for part in clips for video in part.videos]
    if accelerator.is_main_process:
        print(f"checking {counted(sum(video.length for video in videos), 'frame')}", file=sys.stderr, flush=True)
    problems = check_frames_of(videos[accelerator.process_index :: accelerator.num_processes])
    if problems := gather_object(problems):
        raise DataError(problems)


class _ErrorsAsItems(Dataset):
    """Clips, or errors returned as items: an error raised in a worker would be printed with a traceback."""

    def __init__(self, clips: Sequence[ClipDataset]):
        self.clips = clips

    def __getitem__(self, draw: ClipRequest) -> Clip | MfvisError:
        try:
            return self.clips[draw.source][draw]
        except MfvisError as error:
            return error


def _collate(clips: list[Clip | MfvisError]) -> list[Batch] | MfvisError:
    return next((clip for clip in clips if isinstance(clip, MfvisError)), None) or collate_by_kind(clips)


class _RankBatchSampler:
    """Batches of clip requests for this process, which takes every `processes`-th clip of each joint batch.

    All processes then have equally many clips of each data set, so that none waits for a loss that others do not have.
    """

    def __init__(self, sampler: ClipSampler, per_device: int, processes: int, rank: int):
        self.sampler, self.per_device, self.processes, self.rank = sampler, per_device, processes, rank

    def __iter__(self) -> Iterator[list[ClipRequest]]:
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
        _ErrorsAsItems(clips),
        batch_sampler=_RankBatchSampler(sampler, config.train.batch_size_per_device, processes, rank),
        num_workers=min(config.train.num_workers, len(os.sched_getaffinity(0))),
        collate_fn=_collate,
        pin_memory=device.type == "cuda",
    )
    for batches in loader:
        if isinstance(batches, MfvisError):
            raise batches
        yield batches
