from __future__ import annotations

import torch
from torch import Tensor

from mfvis_ext.ops import forbid_backward, forbid_forward_mode, private

__all__ = ["ms_deform_attn"]


def ms_deform_attn(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    softmax: bool = False,
) -> Tensor:
    """Multi-scale deformable attention (Zhu et al., Deformable DETR, ICLR 2021, eq. 3).

    Each query samples a few points of each feature map and returns their weighted sum. The center of pixel (i, j) of an
    H x W level lies at ``((j + 0.5) / W, (i + 0.5) / H)``, with zeros outside (`grid_sample`: bilinear,
    ``align_corners=False``).

    Args:
        value: ``[B, S, heads, D]``, float16, bfloat16, float32 or float64; the pixels of the levels, row by row.
        spatial_shapes: int64 ``[L, 2]``, (H, W) of each level; L up to 16. On the CPU or on the device of ``value``;
            nothing waits for the device. Only on the CPU the levels are checked to lie within ``value``.
        level_start_index: int64 ``[L]``, the row of ``value`` where each level begins; where `spatial_shapes` is.
        sampling_locations: ``[B, Q, heads, L, points, 2]``, (x, y), 0 to 1 from edge to edge; any floating dtype.
        attention_weights: ``[B, Q, heads, L, points]``, any floating dtype.
        softmax: Whether ``attention_weights`` are logits x, and the weights ``exp(x) / sum(exp(x))`` over the
            L * points samples of each query and head, computed in float32 (float64 for float64).

    Returns:
        ``[B, Q, heads * D]`` of the dtype of ``value``, summed in float32 (float64 for float64). Differentiable in
        value, locations and weights or logits, each gradient of its input's dtype; a second derivative is an error.
        Gradients are repeatable on the CPU, and on CUDA under `torch.use_deterministic_algorithms`.

    Raises:
        ValueError: a wrong shape, dtype or device, or levels that leave ``value``, naming the argument.
    """
    forbid_forward_mode("mfvis::ms_deform_attn", value, sampling_locations, attention_weights)
    return torch.ops.mfvis.ms_deform_attn(
        value, spatial_shapes, level_start_index, sampling_locations, attention_weights, softmax
    )


@torch.library.register_fake("mfvis::ms_deform_attn")
def _(value, spatial_shapes, level_start_index, sampling_locations, attention_weights, softmax=False) -> Tensor:
    batch, _, heads, channels = value.shape
    return value.new_empty((batch, sampling_locations.shape[1], heads * channels))


@torch.library.register_fake("mfvis::ms_deform_attn_backward")
def _(
    grad_output,
    value,
    spatial_shapes,
    level_start_index,
    sampling_locations,
    attention_weights,
    softmax,
    deterministic,
) -> tuple[Tensor, Tensor, Tensor]:
    return tuple(x.new_empty(x.shape) for x in (value, sampling_locations, attention_weights))


def _setup_context(ctx, inputs, output) -> None:
    value, spatial_shapes, level_start_index, locations, weights, ctx.softmax = inputs
    ctx.save_for_backward(value, private(spatial_shapes), private(level_start_index), locations, weights)


def _backward(ctx, grad_output: Tensor) -> tuple[Tensor | None, ...]:
    grad_value, grad_locations, grad_weights = torch.ops.mfvis.ms_deform_attn_backward(
        grad_output, *ctx.saved_tensors, ctx.softmax, torch.are_deterministic_algorithms_enabled()
    )
    return grad_value, None, None, grad_locations, grad_weights, None


torch.library.register_autograd("mfvis::ms_deform_attn", _backward, setup_context=_setup_context)
forbid_backward(
    "mfvis::ms_deform_attn_backward", "cannot be differentiated: the attention has no second derivative here"
)
