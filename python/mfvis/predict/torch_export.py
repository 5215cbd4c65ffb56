"""Trained models as programs of `torch.export`, which run without mfvis' Python code."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from mfvis.errors import ConfigError
from mfvis.train.checkpoint import TrainedModel, load_model
from mfvis.writing import atomic_write


def export_model(
    model: TrainedModel | str | Path, size: tuple[int, int, int], path: str | Path | None = None
) -> ExportedProgram:
    """Export a trained model of either family by `torch.export`.

        program = mfvis.export_model("runs/mine", size=(5, 384, 640), path="mine.pt2")
        scores, masks = program.module()(frames, sizes)

    The program takes ``frames``, uint8 RGB ``[1, T, 3, H, W]``, padded at the right and bottom, and ``sizes``, int64
    ``[1, 2]``: height and width before the padding. It returns ``scores``, float32 ``[1, Q, K]`` in 0..1, and
    ``masks``, float32 logits ``[1, Q, T, H / 4, W / 4]``: a pixel above 0 is in the mask. A process that loads the file
    with `torch.export.load` imports `mfvis_ext` first, which registers the operators.

    Args:
        model: As returned by `mfvis.load_model`, or the directory of a run or checkpoint.
        size: T, H and W of the clips that the program takes; H and W are multiples of 32.
        path: File to write with `torch.export.save`, by convention ``*.pt2``. Default: none is written.

    Raises:
        ConfigError: The size is invalid.
        CheckpointError: The checkpoint is missing or damaged.
    """
    frames, height, width = size
    if frames < 1 or height < 32 or width < 32 or height % 32 or width % 32:
        raise ConfigError(f"size is {size}; expected (T, H, W) with T of 1 or more, and H and W multiples of 32")
    trained = model if isinstance(model, TrainedModel) else load_model(model)
    device = next(trained.model.parameters()).device
    example = (
        torch.zeros((1, frames, 3, height, width), dtype=torch.uint8, device=device),
        torch.tensor([[height, width]], device=device),
    )
    with torch.no_grad():
        program = torch.export.export(_LastLayer(trained.model).eval(), example)
    if path is not None:
        with atomic_write(path) as temporary, temporary.open("wb") as file:
            torch.export.save(program, file)
    return program


class _LastLayer(nn.Module):
    """Scores and mask logits of all queries after the last decoder layer."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, frames_BTCHW: Tensor, sizes_B2: Tensor) -> tuple[Tensor, Tensor]:
        prediction = self.model(frames_BTCHW, sizes_B2, last_only=True)
        return prediction.scores_LBQK[-1], prediction.masks.all_queries(-1, 0)[None]
