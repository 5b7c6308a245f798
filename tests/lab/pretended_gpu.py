"""A GPU that machines of the lab pretend to have: where the project asks PyTorch for `cuda`, it is given the CPU.

Part of the image of their containers: imported whenever Python starts there. Only where `docker run` was told to show
the GPU is there anything to pretend; elsewhere PyTorch says, as on real machines, that it has none.
"""

import importlib.abc
import importlib.machinery
import os
import sys

# The modules that choose a device.
CHOOSING = {"trainables.trainable", "search.probe"}
SHARE = 0.7


class _Torch:
    """PyTorch, but for the device."""

    def __init__(self, real):
        self._real = real

    def __getattr__(self, name):
        return getattr(self._real, name)

    def device(self, _name):
        return self._real.device("cpu")


def _fill(measuring):
    """Has every training take most of the GPU's memory: none shares it."""
    of_process = measuring.memory
    measuring.memory = lambda self: (of_process(self)[0], SHARE)


class _Finder(importlib.abc.MetaPathFinder):
    """Finds those modules as Python does, and changes what they know as `torch` when they have been loaded."""

    def find_spec(self, name, path, target=None):
        if name not in CHOOSING:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        load = spec.loader.exec_module

        def exec_module(module):
            load(module)
            module.torch = _Torch(module.torch)
            if hasattr(module, "ShortTraining"):
                _fill(module.ShortTraining)

        spec.loader.exec_module = exec_module
        return spec


if os.environ.get("PRETENDED_GPU"):
    sys.meta_path.insert(0, _Finder())
