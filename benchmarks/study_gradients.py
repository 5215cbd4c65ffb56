"""The gradients of the loss terms along a training: how large they are, and how much of them points to the true masks.

    python benchmarks/study_gradients.py CHECKPOINT [CHECKPOINT ...] --masks MASKS.json

CHECKPOINTs are those of a run from boxes (`--train.keep-checkpoints` keeps more than the last two). MASKS.json holds
the masks of its training videos, which are looked at for this table only. The size is the norm of a term's gradient on
the mask logits of the last decoder layer, as a share of the sum over the terms. The agreement is taken inside the
boxes, where boxes leave the mask open: on pixels of the object, the part of a term's gradient that raises logits minus
the part that lowers them, as a share of both; on the background the opposite. 100 % on both is what masks would say; a
term that only fills boxes has 100 % and -100 %, one that only empties them -100 % and 100 %.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from machine import machine
from mfvis.data.clips import ClipSampler, collate
from mfvis.losses.criterion import STRIDE, Criterion, matched_masks
from mfvis.losses.matcher import match
from mfvis.train.checkpoint import describe, find, load_model
from mfvis.train.engine import clip_datasets
from report import add_out, write
from study_matches import inside_boxes

TERMS = ("projection", "pairwise", "temporal")


def gradients(checkpoint: Path, masks: Path, batches: int) -> dict[str, dict[str, float]]:
    """Each term's "size", and its agreement on the "object" and the "background", over some training batches."""
    model, categories, config = load_model(checkpoint)
    step = describe(find(checkpoint)).step
    config = replace(config, data=(str(masks),), frames=None, supervision="masks")
    (clips,) = clip_datasets(config)
    requests = iter(ClipSampler([len(clips)], seed=1))
    criterion = Criterion(config.loss, len(categories))
    size, *agreements = (dict.fromkeys(TERMS, 0.0) for _ in range(5))
    for _ in range(batches):
        batch = collate([clips[next(requests)] for _ in range(4)])
        with torch.no_grad():
            prediction = model(batch.frames_BTCHW, last_only=True)
            matched = match(prediction, batch, batch.boxes_NT4 / STRIDE, config.loss.match)
            masks_LNTHW = matched_masks(prediction, matched, batch)
        masks_LNTHW.requires_grad_()
        terms = criterion.terms(prediction, matched, masks_LNTHW, batch, step)
        true_NTHW = F.avg_pool2d(batch.masks_NTHW.float(), STRIDE) > 0.5
        inside_NTHW = inside_boxes(batch.boxes_NT4 / STRIDE, *true_NTHW.shape[-2:])
        for term in TERMS:
            (gradient_LNTHW,) = torch.autograd.grad(terms.by_name[term], masks_LNTHW, retain_graph=True)
            size[term] += gradient_LNTHW.norm().item() / batches
            # A descent step raises a logit where the gradient is negative.
            pulls = torch.where(true_NTHW, -gradient_LNTHW[0], gradient_LNTHW[0])
            for region, (right, whole) in zip((true_NTHW, ~true_NTHW), (agreements[:2], agreements[2:]), strict=True):
                right[term] += pulls[region & inside_NTHW].sum().item()
                whole[term] += pulls[region & inside_NTHW].abs().sum().item()
    total = sum(size.values())
    found = {"size": {term: size[term] / total for term in TERMS}}
    for region, right, whole in (("object", *agreements[:2]), ("background", *agreements[2:])):
        found[region] = {term: right[term] / max(whole[term], 1e-12) for term in TERMS}
    return found


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("checkpoints", type=Path, nargs="+")
    arguments.add_argument("--masks", type=Path, required=True)
    arguments.add_argument("--batches", type=int, default=12)
    add_out(arguments)
    given = arguments.parse_args()
    kinds = {"size": "size", "object": "agreement on the object", "background": "agreement on the background"}
    names = [f"{term}: {kinds[kind]}" for term in TERMS for kind in kinds]
    lines = ["# Gradients of the loss terms", __doc__.split("\n\n")[2].strip()]
    lines.append(f"| step | {' | '.join(names)} |\n" + "|---" * (1 + len(names)) + "|")
    for checkpoint in given.checkpoints:
        found = gradients(checkpoint, given.masks, given.batches)
        cells = [f"{100 * found[kind][term]:.0f} %" for term in TERMS for kind in kinds]
        lines[-1] += f"\n| {describe(find(checkpoint)).step} | {' | '.join(cells)} |"
    where = machine(1) | {"command": f"python benchmarks/study_gradients.py CHECKPOINTS --masks {given.masks.name}"}
    lines.append("\n".join(f"* {key}: {value}" for key, value in where.items()))
    text = "\n\n".join(lines) + "\n"
    print(text)
    if given.out:
        write(given.out / "gradients.md", text)


if __name__ == "__main__":
    main()
