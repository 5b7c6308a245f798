"""The generator as a program, `generator.onnx`, which needs onnxruntime and numpy and nothing of this project.

Not torch's own form of a program, `.pt2`: a reader of it needs torch, and opening one may run what is pickled in it.
"""

import copy
import logging
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim

from trainables.config import ModelConfig
from trainables.methods import methods_of, use_methods
from trainables.metrics import z_score
from trainables.networks import AnyGenerator

INPUTS, OUTPUT = ("latent", "label"), "wave"
# Windows of the example that the program is made with; of one alone it would take the number for a part of the shape.
EXAMPLES = 2


class _Normalised(nn.Module):
    """A generator whose waveforms have mean 0 and standard deviation 1."""

    def __init__(self, generator: AnyGenerator):
        super().__init__()
        self.generator = generator

    def forward(self, latent_BZ: Tensor, label_BL: Tensor) -> Tensor:
        """Waveforms (B, C, T)."""
        return z_score(self.generator(latent_BZ, label_BL))


def write_program(generator: AnyGenerator, model: ModelConfig, file: Path) -> None:
    """Write a program from `latent` (B, Z) and `label` (B, L) to normalised waveforms `wave` (B, C, T), all float32.

    B is any number. Beside weights and arithmetic it holds nothing: not where it was made, nor by which code.
    """
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass  # here, as it would hold up every start

    network = _Normalised(copy.deepcopy(generator)).eval().requires_grad_(False)
    use_methods(network, ["direct"] * len(methods_of(network)))  # the other one is made of what ONNX has no words for
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
