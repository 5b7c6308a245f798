"""The generator as a program, `generator.onnx`, which needs onnxruntime and numpy and nothing of this project.

Not torch's own form of a program, `.pt2`: a reader of it needs torch, and opening one may run what is pickled in it.
SeismoGen's generator computes in double precision there too: float32 is out by more than 1e-5 now and then.
"""

import copy
import logging
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim

from trainables.config import ModelConfig
from trainables.fixed import fix
from trainables.generator import Generator
from trainables.metrics import z_score
from trainables.networks import AnyGenerator

INPUTS, OUTPUT = ("latent", "label"), "wave"
# Windows of the example that the program is made with; of one alone it would take the number for a part of the shape.
EXAMPLES = 2


class _Normalised(nn.Module):
    """A generator whose waveforms have mean 0 and standard deviation 1, from float32 to float32."""

    def __init__(self, generator: AnyGenerator):
        super().__init__()
        self.generator = copy.deepcopy(generator).eval().requires_grad_(False)
        self.precision = torch.float32
        # Runtimes have no convolutions in double precision, but products of matrices.
        if isinstance(generator, Generator):
            self.precision = torch.float64
            fix(self.generator.double())

    def forward(self, latent_BZ: Tensor, label_BL: Tensor) -> Tensor:
        """Waveforms (B, C, T)."""
        wave_BCT = self.generator(latent_BZ.to(self.precision), label_BL.to(self.precision))
        return z_score(wave_BCT).float()


def write_program(generator: AnyGenerator, model: ModelConfig, file: Path) -> None:
    """Write a program from `latent` (B, Z) and `label` (B, L) to normalised waveforms `wave` (B, C, T), all float32.

    B is any number. Beside weights and arithmetic it holds nothing: not where it was made, nor by which code.
    """
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass  # here, as it would hold up every start

    network = _Normalised(generator).eval()
    example = torch.zeros(EXAMPLES, model.latent_dim), torch.zeros(EXAMPLES, model.label_dim)
    # Of packages that are not needed here, and of torch's own use of itself.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(action="ignore", category=FutureWarning):
        program = torch.onnx.export(
            network,
            example,
            input_names=INPUTS,
            output_names=[OUTPUT],
            dynamic_shapes=({0: "batch"}, {0: Dim.DYNAMIC}),
            verbose=False,
        )
    assert program is not None
    ClearMetadataAndDocStringPass()(program.model)  # paths of the code, among others
    program.save(file)
