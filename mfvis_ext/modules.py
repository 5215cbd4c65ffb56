"""The TK-Loss as a module: match once per clip, then the loss for any number of decoder layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mfvis_ext.ops.match_weight import match_weight
from mfvis_ext.ops.rgb_to_lab import rgb_to_lab
from mfvis_ext.ops.temporal_topk import temporal_topk
from mfvis_ext.ops.tk_loss import tk_loss, tk_loss_terms

TUBES = ("cyclic", "chain", "dense")


def tube_pairs(frames: int, tube: str = "cyclic", device: torch.device | str | None = None) -> Tensor:
    """The frame pairs of a clip, int64 ``[P, 2]`` (target, source).

    "cyclic": (0, 1), (1, 2), ..., (T - 1, 0), the paper's; "chain" leaves the last one out; "dense" is every
    ordered pair of different frames. One frame has no pairs.
    """
    if tube not in TUBES:
        raise ValueError(f"tube is {tube!r}; expected one of {', '.join(map(repr, TUBES))}")
    if tube == "dense":  # without a mask on the device, whose number of pairs the host would wait for
        index, others = torch.arange(frames * (frames - 1), device=device), max(frames - 1, 1)
        target, source = index // others, index % others
        return torch.stack([target, source + (source >= target)], 1)
    count = frames if tube == "cyclic" and frames > 1 else max(frames - 1, 0)
    target = torch.arange(count, device=device)
    return torch.stack([target, (target + 1) % max(frames, 1)], 1)


@dataclass(frozen=True)
class Matches:
    """Matches of each pixel of a clip in the clip's other frames, from `TKLoss.match`."""

    offset: Tensor
    """int16 ``[B, P, k, H, W]``, see `temporal_topk`."""
    weight: Tensor
    """float32 ``[B, P, k, H, W]``; 0 where the patches are too different."""
    pairs: Tensor
    """int64 ``[P, 2]``."""
    shift: Tensor | None
    """int64 ``[B, P, 2]``, or None."""
    radius: int
    """Search radius, which the candidates' indices in `offset` depend on."""
    dilation: int
    """Distance between the candidates, in pixels."""


def _check_rgb(frames: Tensor) -> None:
    """ValueError if values in floating point cannot be RGB in 0..255."""
    if not (frames.is_floating_point() and frames.numel()) or torch.compiler.is_compiling():
        return
    if frames.is_cuda and torch.cuda.is_current_stream_capturing():
        return
    low, high = torch.stack(torch.aminmax(frames)).tolist()
    problem = f"mfvis::TKLoss: frames has values from {low:.4g} to {high:.4g}; expected RGB in 0..255"
    # 1e-4: interpolation may round below 0, but LAB of a gray image, with a from -0.0025, is not RGB.
    # 256: 255 and a fraction in bfloat16.
    if not (low >= -1e-4 and high <= 256):
        raise ValueError(
            f"{problem}. Match LAB and other features with rgb=False, at the size of the masks; undo the mean and "
            "standard deviation of frames that were normalized for a network; clamp frames after bicubic resizing"
        )
    # Frames that are black but for the noise of a level hold whole numbers.
    if 0 < high <= 1 and (frames != frames.round()).any():
        raise ValueError(f"{problem}. Multiply images in 0..1 by 255, or match them as they are with rgb=False")


class TKLoss(nn.Module):
    """The temporal KNN-patch loss of MaskFreeVIS (Ke et al., CVPR 2023, section 3.2) in a training loop of your own.

    The defaults are the paper's settings; its released code searches with ``radius=1, dilation=3``. The matches depend
    only on the frames, so a clip is matched once for all decoder layers.

    Args:
        patch_size, radius, dilation, k: search settings, see `temporal_topk`; in pixels of the mask logits.
        threshold: smallest similarity ``exp(-distance / 2)`` of two patches that match; the paper's D.
        tube: which frames are compared, see `tube_pairs`.
        rgb: True converts frames, RGB in 0..255, to LAB before they are matched. False matches them as they are.
        downsample: image pixels per mask pixel, 4 for masks at a quarter of the size; only with ``rgb``.

    Training from scratch needs a warm-up of the pairwise and temporal losses, as in the example. Both only
    ask for agreement, which empty masks reach most easily: with full weights from the first step, the training of an
    untrained network can collapse to them. A network that already segments needs no warm-up.

    Some mistakes are valid input and raise no error. Boxes ``x, y, width, height`` are mostly read as absent, and boxes
    in image pixels reach beyond the masks. Blue and red in the wrong order give other colors. Random noise matches
    nowhere, so its loss is 0: the mean of ``Matches.weight`` is the share of pixels that were matched.

    Example::

        import torch, mfvis_ext

        image = torch.randint(0, 256, (1, 1, 3, 96, 128), dtype=torch.uint8)
        frames = image.expand(1, 5, 3, 96, 128)  # [B, T, 3, H, W], RGB in 0..255
        boxes = torch.tensor([[4.0, 3.0, 20.0, 18.0]]).expand(1, 5, 4)  # [N, T, 4], in mask pixels
        video_index = torch.tensor([0])  # [N], the video of each instance
        logits = torch.randn(1, 5, 24, 32, requires_grad=True)  # [N, T, H / 4, W / 4], your model's
        tk = mfvis_ext.TKLoss(downsample=4)
        matches = tk.match(frames)  # once per clip
        step = 100  # of your training loop
        warmup = min(step / 500, 1)  # from scratch; 1 for a network that already segments
        pairwise = mfvis_ext.pairwise_loss(logits, mfvis_ext.rgb_to_lab(frames, 4), boxes, video_index)
        temporal = 0.1 * tk(logits, boxes, video_index, matches)
        loss = mfvis_ext.box_projection_loss(logits, boxes) + warmup * (pairwise + temporal)
        loss.backward()
    """

    def __init__(
        self,
        patch_size: int = 3,
        radius: int = 5,
        dilation: int = 1,
        k: int = 5,
        threshold: float = 0.05,
        tube: str = "cyclic",
        rgb: bool = True,
        downsample: int = 1,
    ):
        super().__init__()
        tube_pairs(1, tube)
        if downsample != 1 and not rgb:
            raise ValueError(f"downsample is {downsample} with rgb=False; expected 1, only RGB frames are downsampled")
        self.patch_size, self.radius, self.dilation, self.k = patch_size, radius, dilation, k
        self.threshold, self.tube, self.rgb, self.downsample = threshold, tube, rgb, downsample

    @torch.no_grad()
    def match(self, frames: Tensor, shift: Tensor | None = None) -> Matches:
        """Find the matches of clips ``[B, T, 3, H, W]``: once per clip, without gradient.

        The matches must have the size of the network's logits. If your network pads its input, pad the frames the same
        way before the call; likewise if their size is not a multiple of ``downsample``.

        Raises ValueError if ``rgb`` and the frames cannot be RGB in 0..255: LAB, or images in 0..1 or normalized for a
        network. For frames in floating point on a GPU the check waits for the GPU; uint8 frames need none. It is left
        out under `torch.compile` and while a CUDA graph is captured.

        shift: int64 ``[B, P, 2]``, (dy, dx) in mask pixels by which the camera moved within each pair; None is zero.
        """
        if not isinstance(frames, Tensor):
            raise TypeError(f"frames is a {type(frames).__name__}; expected a tensor [B, T, 3, H, W]")
        if frames.dim() != 5:
            raise ValueError(f"frames has shape {list(frames.shape)}; expected [B, T, 3, H, W]")
        if self.rgb:
            _check_rgb(frames)
        images = rgb_to_lab(frames, self.downsample) if self.rgb else frames
        pairs = tube_pairs(frames.shape[1], self.tube, frames.device)
        distance, offset = temporal_topk(images, pairs, self.patch_size, self.radius, self.dilation, self.k, shift)
        weight = match_weight(distance, self.threshold)
        return Matches(offset, weight, pairs, shift, self.radius, self.dilation)

    def forward(self, mask_logits: Tensor, boxes: Tensor, video_index: Tensor, matches: Matches) -> Tensor:
        """The loss of instances ``[N, T, H, W]``, a scalar; see `tk_loss`.

        For L decoder layers in one call, repeat boxes ``[N, T, 4]`` and video_index ``[N]`` and give logits of L·N
        instances: the mean over all layers' matches then has a common denominator.
        """
        return tk_loss(*self._arguments(mask_logits, boxes, video_index, matches))

    def terms(self, mask_logits: Tensor, boxes: Tensor, video_index: Tensor, matches: Matches) -> tuple[Tensor, Tensor]:
        """The sums of the loss before the division, ``[N, P]`` each, see `tk_loss_terms`.

        They serve training on several processes, where the sums of all processes are joined before the division.
        Arguments as `forward`.
        """
        return tk_loss_terms(*self._arguments(mask_logits, boxes, video_index, matches))

    def _arguments(self, mask_logits: Tensor, boxes: Tensor, video_index: Tensor, matches: Matches) -> tuple[Any, ...]:
        if not isinstance(matches, Matches):
            raise TypeError(f"matches is a {type(matches).__name__}; expected what TKLoss.match returns")
        if mask_logits.shape[-2:] != matches.offset.shape[-2:]:
            (height, width), side = mask_logits.shape[-2:], self.downsample
            raise ValueError(
                f"mask_logits has shape {list(mask_logits.shape)}, the matches are {list(matches.offset.shape[-2:])}; "
                f"expected one size: match frames of {side * height} x {side * width}, padded or resized as those that "
                f"the network sees, or set downsample, which is {side}"
            )
        arguments = (matches.offset, matches.weight, matches.pairs)
        return mask_logits, *arguments, boxes, video_index, matches.radius, matches.dilation, matches.shift

    def extra_repr(self) -> str:
        names = ("patch_size", "radius", "dilation", "k", "threshold", "tube", "rgb", "downsample")
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in names)
