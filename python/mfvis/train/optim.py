"""AdamW with the parameter groups and schedule of Mask2Former, and the training loop of the small networks.

The learning rate depends only on the step.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from mfvis.errors import TrainingError
from mfvis.train.optim_config import OptimConfig

REMEDY = (
    "Lower the learning rate (optim.lr) or lengthen its warm-up (optim.warmup); if that does not help, the weights at "
    "the start may be damaged"
)
"""Usual remedies for a loss that is not finite."""


def learning_rate(config: OptimConfig, step: int) -> float:
    """Factor on all learning rates at `step`, counted from 0."""
    if step < config.warmup:
        return (step + 1) / config.warmup
    progress = (step - config.warmup) / max(config.steps - config.warmup, 1)
    if config.schedule == "step":
        return 0.1 ** sum(step >= round(fraction * config.steps) for fraction in config.lr_milestones)
    if config.schedule == "linear":
        return 1 - progress
    if config.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    return 1.0


def make_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """AdamW over the trainable parameters. Each group keeps its full learning rate under ``base_lr``.

    All parameters below a module named ``backbone`` are the backbone's; sampling offsets and reference points are the
    modules of these names. Frozen parameters are omitted.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    seen: set[int] = set()
    for module_name, module in model.named_modules():
        # Norms are identified by type or, in backbones of other libraries, by having only 1-D parameters.
        direct = list(module.named_parameters(recurse=False))
        plain = isinstance(module, nn.Embedding) or (direct and all(p.dim() <= 1 for _, p in direct))
        for name, parameter in direct:
            if not parameter.requires_grad or id(parameter) in seen:
                continue
            seen.add(id(parameter))
            path = f"{module_name}.{name}".split(".")
            multiplier = 1.0
            if "backbone" in path:
                multiplier = config.backbone_lr_multiplier
            elif "sampling_offsets" in path or "reference_points" in path:
                multiplier = config.sampling_lr_multiplier
            embedding = plain or "embed" in name or name.endswith("bias_table")
            key = (
                config.lr * multiplier,
                0.0 if embedding else config.weight_decay,
            )
            groups.setdefault(key, []).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": parameters, "lr": lr, "base_lr": lr, "weight_decay": decay}
            for (lr, decay), parameters in sorted(groups.items())
            if lr > 0
        ]
    )


def train_small(
    model: nn.Module,
    config: OptimConfig,
    loss_of: Callable[[int], Tensor],
    name: str,
    remedy: str = REMEDY,
    after_step: Callable[[str], None] = lambda text: None,
) -> None:
    """Train a network that needs neither checkpoints nor several processes.

    Args:
        loss_of: Computes the loss of a step, counted from 0.
        name: Description of the training, for messages.
        remedy: Advice for a loss that is not finite.
        after_step: Called after each step with a text that names it.

    Raises:
        TrainingError: a loss is not finite.
    """
    optimizer = make_optimizer(model, config)
    model.train()
    for step in range(config.steps):
        set_learning_rate(optimizer, config, step)
        head = f"{name}: step {step + 1}/{config.steps}"
        loss = loss_of(step)
        if not torch.isfinite(loss):
            raise TrainingError(f"{head}: the loss is {loss.item()}. {remedy}")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if config.clip_norm > 0:
            nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
        optimizer.step()
        after_step(head)


def set_learning_rate(optimizer: torch.optim.Optimizer, config: OptimConfig, step: int) -> float:
    """Set the optimizer's learning rates for `step`; returns the decoder's."""
    factor = learning_rate(config, step)
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor
    return config.lr * factor
