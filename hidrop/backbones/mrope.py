"""RoPE positions of three axes (M-RoPE): time, height and width of each visual token, one number for each word.

Written from the reports: Qwen2-VL (arXiv 2409.12191, section 2.1), Qwen2.5-VL (2502.13923, section 2.1.2) and Qwen3-VL
(2511.21631). A word's three numbers are equal, and one more than the largest number of anything before it. The tokens
of an image or a video of frames x rows x columns start there, too, and count frames, rows and columns from it; each
frame is `interval` numbers after the one before. transformers' own function differs for videos: version 5.17 lets the
text after a video begin where its rows and columns end, and rounds seconds to whole numbers.

Shapes: B batch, S input length. Everything is computed on the device, without a wait.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hidrop.backbones.model_inputs import TEXT, Places, numbered


@dataclass(frozen=True)
class Runs:
    """Runs of visual tokens in the order of the features of the batch, (R,) each.

    A run has its own start: an image, a video, or one frame of a video whose frames have text between them.
    `interval`: numbers from one frame to the next.
    """

    frames: torch.Tensor
    rows: torch.Tensor
    columns: torch.Tensor
    interval: torch.Tensor

    @property
    def tokens(self) -> torch.Tensor:
        return self.frames * self.rows * self.columns

    @property
    def extent(self) -> torch.Tensor:
        """How many numbers a run takes up: the text after it starts so much later than the run itself."""
        last = ((self.frames - 1) * self.interval).floor().long() + 1
        return torch.stack([last, self.rows, self.columns]).amax(0)


def three_axes(valid_BS: torch.Tensor, kind_BS: torch.Tensor, runs: Runs | None) -> Places:
    """Positions (3, B, S) of an input; `kind_BS`: TEXT or a kind of visual token, `runs`: those of the visual ones.

    Places of padding get some position; nothing reads it. Places beyond the tokens of `runs` get one, too: who calls
    has compared the counts.
    """
    visual_BS = valid_BS & (kind_BS != TEXT)
    step_BS = (valid_BS & ~visual_BS).long()
    if runs is None:
        position_BS = (step_BS.cumsum(1) - 1).clamp(min=0)
        return Places(position_BS.expand(3, -1, -1), step_BS.sum(1))
    feature_BS = numbered(torch.where(valid_BS, kind_BS, TEXT)).clamp(min=0)
    end_R = runs.tokens.cumsum(0)
    run_BS = torch.searchsorted(end_R, feature_BS, right=True).clamp(max=len(end_R) - 1)
    inside_BS = feature_BS - (end_R - runs.tokens)[run_BS]
    extent_BS = runs.extent[run_BS]
    # A run takes up its numbers at its first token, so that the sum up to any of its tokens has them all.
    step_BS = torch.where(visual_BS & (inside_BS == 0), extent_BS, step_BS)
    sum_BS = step_BS.cumsum(1)
    start_BS = sum_BS - torch.where(visual_BS, extent_BS, 1)
    columns_BS = runs.columns[run_BS]
    area_BS = runs.rows[run_BS] * columns_BS
    frame_BS = (inside_BS // area_BS * runs.interval[run_BS]).floor().long()
    offsets = frame_BS, inside_BS % area_BS // columns_BS, inside_BS % columns_BS
    position = torch.stack([start_BS + torch.where(visual_BS, offset, 0) for offset in offsets])
    return Places(position.clamp(min=0), step_BS.sum(1))
