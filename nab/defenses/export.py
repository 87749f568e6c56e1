"""Export of what was deployed to ONNX, so that it can answer without Python."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nab.defenses.deployed import Deployed
from nab.errors import ConfigError
from nab.files import write_atomically
from nab.training import Runtime

ONNX_EXTRA = "pip install 'nab-defense[onnx]'"


class Answering(nn.Module):
    """A deployed defense as one function of pixels.

    Args:
        deployed: what answers; its networks are copied.
    """

    def __init__(self, deployed: Deployed) -> None:
        super().__init__()
        copies: dict[str, Any] = {name: p.copy().frozen() for name, p in deployed.predictors.items()}
        copied = dataclasses.replace(deployed, **copies).to(torch.device("cpu"))
        runtime = Runtime(torch.device("cpu"), torch.float32, channels_last=False)
        plain: dict[str, Any] = {
            name: dataclasses.replace(predictor, runtime=runtime) for name, predictor in copied.predictors.items()
        }
        self.deployed = dataclasses.replace(copied, **plain)
        self.networks = nn.ModuleDict({name: predictor.network for name, predictor in plain.items()})

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Logits and, where the defense has them, refusals (bool, N) and scores (float32, N)."""
        response = self.deployed.respond(pixels)
        return tuple(part for part in response[:3] if part is not None)


def export_onnx(deployed: Deployed, path: str | Path) -> list[str]:
    """Store a deployed defense as an ONNX model, which computes in float32.

    Its input ``pixels`` is uint8, N x C x H x W with any N.

    Args:
        deployed: what to export.
        path: of the file.

    Returns:
        the names of the outputs: ``logits``, and ``is_refused`` and ``scores`` where the defense has them.

    Raises:
        ConfigError: the exporter is not installed.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError:
        raise ConfigError(f"export to ONNX needs onnx and onnxscript: {ONNX_EXTRA}") from None
    module = Answering(deployed).eval()
    example = torch.zeros(2, *deployed.predictor.shape, dtype=torch.uint8)
    with torch.no_grad():
        response = module.deployed.respond(example)
    names = [name for name, part in zip(response._fields[:3], response, strict=False) if part is not None]
    batch = torch.export.Dim("batch", min=1)
    options: dict[str, Any] = {"input_names": ["pixels"], "output_names": names, "dynamic_shapes": ({0: batch},)}
    options["verbose"] = False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's remarks on its own internals
        program = torch.onnx.export(module, (example,), dynamo=True, **options)
    assert program is not None  # it would be without dynamo
    write_atomically(Path(path).expanduser(), lambda temporary: program.save(temporary))
    return names
