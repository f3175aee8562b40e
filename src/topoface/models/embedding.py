"""The embedding contract: images of any consumer in, embeddings out, whatever the backbone."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from topoface.errors import UserError
from topoface.models.backbone import BackboneConfig
from topoface.models.spec import EmbeddingSpec

PRECISIONS = ("fp32", "bf16")


class EmbeddingModel(nn.Module):
    """A backbone, and what it expects of its images.

    Args:
        backbone: maps normalised images ``[n, 3, input_size, input_size]`` to ``[n, D]``.
        spec: size, colour order and normalisation of the images, width of the embeddings.
        name: the registered model that the backbone was built from.
        config: the settings that rebuild the backbone.

    Attributes:
        precision: ``"fp32"``, or ``"bf16"`` to run the backbone under autocast; may be set at any time.
        channels_last: memory layout of images and weights; see `set_channels_last`.
        recompute: whether blocks keep their input alone for backward and compute the rest again; see `set_recompute`.
    """

    def __init__(
        self, backbone: nn.Module, spec: EmbeddingSpec, *, name: str, config: BackboneConfig
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.spec = spec
        self.name = name
        self.config = config
        self._precision = "fp32"
        self.recompute = False
        self.set_channels_last(True)

    @property
    def precision(self) -> str:
        """``"fp32"`` or ``"bf16"``."""
        return self._precision

    @precision.setter
    def precision(self, value: str) -> None:
        if value not in PRECISIONS:
            raise UserError(f"{value!r} is unknown", "model.precision", f"write {' or '.join(PRECISIONS)}")
        self._precision = value

    def set_channels_last(self, on: bool) -> None:
        """Lay out images and weights with channels last in memory (the default) or first; values stay."""
        self.channels_last = on
        for parameter in self.parameters():
            if parameter.ndim == 4:
                # not `contiguous`, which leaves 1 x 1 weights with the other order's strides: their gradients come with this one's
                laid_out = torch.empty_like(parameter.data, memory_format=self._memory_format)
                parameter.data = laid_out.copy_(parameter.data)

    def set_recompute(self, on: bool) -> None:
        """Trade time for memory in training: each block runs twice, and its activations are not kept in between."""
        self.recompute = on
        for module in self.backbone.modules():
            if hasattr(module, "recompute"):
                setattr(module, "recompute", on)  # noqa: B010 - torch types every attribute as a tensor or module

    @property
    def _memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def forward(self, images: Tensor) -> Tensor:
        """Embeddings ``[n, D]``, not normalised: their norms carry information.

        Args:
            images: RGB ``[n, 3, image_size, image_size]``, uint8, or float in [0, 255] (a perturbed view);
                never changed in place.

        Returns:
            float32, or float64 if the parameters are; autocast never reaches the result.

        Raises:
            UserError: when the images have another shape.
        """
        size = self.spec.image_size
        if tuple(images.shape[1:]) != (3, size, size):
            raise UserError(
                f"images of shape {list(images.shape)}", f"model {self.name}", f"give [n, 3, {size}, {size}]"
            )
        dtype = self._dtype()
        pixels = _area_resized(images.to(dtype), self.spec.input_size)
        if self.spec.colour == "bgr":
            pixels = pixels.flip(1)
        inputs = ((pixels - self.spec.mean) / self.spec.scale).contiguous(memory_format=self._memory_format)
        with torch.autocast(inputs.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            embeddings: Tensor = self.backbone(inputs)
        return embeddings.to(dtype)

    def embed(
        self, images: NDArray[np.uint8] | Tensor, *, batch_size: int = 128, flip: bool = False
    ) -> NDArray[np.float32]:
        """Unit embeddings of aligned faces, in evaluation mode and without gradient.

        Args:
            images: uint8 RGB ``[n, image_size, image_size, 3]``, an array or a tensor; n may be 0.
            batch_size: images per pass; changes the result by float rounding at most.
            flip: add the embedding of the mirrored image before normalising.

        Returns:
            float32 ``[n, D]``, each row of length 1; a row of zeros where the embedding is zero.

        Raises:
            UserError: when shape or dtype of the images, or the batch size, is wrong.
        """
        self._check_images(images)
        if batch_size < 1:
            raise UserError(f"{batch_size} images a pass", "embed batch_size", "give at least 1")
        modes = [(module, module.training) for module in self.modules()]
        self.eval()
        try:
            rows = [
                self._embed_batch(images[start : start + batch_size], flip)
                for start in range(0, len(images), batch_size)
            ]
        finally:
            for module, training in modes:  # one by one: a frozen part may have been in evaluation mode
                module.training = training
        return np.concatenate([np.zeros((0, self.spec.dimension), np.float32), *rows])

    @torch.inference_mode()
    def _embed_batch(self, images: NDArray[np.uint8] | Tensor, flip: bool) -> NDArray[np.float32]:
        # The copy is small beside the model's work and spares it read-only and mirrored arrays.
        pixels = images if isinstance(images, Tensor) else torch.from_numpy(np.array(images))
        pixels = pixels.to(next(self.parameters()).device).permute(0, 3, 1, 2)
        embeddings = self(pixels).double()
        if flip:
            embeddings = embeddings + self(pixels.flip(3)).double()
        lengths = embeddings.norm(dim=1, keepdim=True)
        units: NDArray[np.float32] = (embeddings / lengths.where(lengths > 0, 1)).float().cpu().numpy()
        return units

    def _check_images(self, images: Any) -> None:
        size = self.spec.image_size
        remedy = f"give uint8 RGB [n, {size}, {size}, 3]"
        if not isinstance(images, np.ndarray | Tensor):
            raise UserError(f"images are a {type(images).__name__}", "embed", remedy)
        if images.dtype not in (np.uint8, torch.uint8):
            raise UserError(f"images are {images.dtype}", "embed", remedy)
        if tuple(images.shape[1:]) != (size, size, 3):
            raise UserError(f"images have the shape {list(images.shape)}", "embed", remedy)

    def _dtype(self) -> torch.dtype:
        return next(self.backbone.parameters()).dtype


def _area_resized(pixels: Tensor, size: int) -> Tensor:
    """Images ``[n, C, H, H]`` averaged down to ``size``; exact for 8-bit values.

    Halving by two sums is four times faster than torch's area interpolation, which took 4 % of a small training step.
    """
    while pixels.shape[-1] % (2 * size) == 0:
        rows = pixels[..., 0::2, :] + pixels[..., 1::2, :]
        pixels = (rows[..., 0::2] + rows[..., 1::2]) / 4
    return pixels if pixels.shape[-1] == size else nn.functional.interpolate(pixels, size=size, mode="area")
