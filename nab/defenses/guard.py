"""`Guard`: a deployed defense as a `torch.nn.Module`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nab.defenses.deployed import REFUSED, Deployed, Response
from nab.defenses.pixels import check_pixels


class Guard(nn.Module):
    """A view of a deployed defense for whoever works with modules.

    Its input is what the deployed defense takes: pixels, 0 to 255. If the normalization is `nab.data.IDENTITY`, that is
    what the network takes.

    Args:
        deployed: what answers.
    """

    def __init__(self, deployed: Deployed) -> None:
        super().__init__()
        self.deployed = deployed
        self.network: nn.Module = deployed.predictor.network
        others = {name: p.network for name, p in deployed.predictors.items() if p is not deployed.predictor}
        self.others = nn.ModuleDict(others)
        self.training = self.network.training

    def respond(self, images: Tensor, *, is_full: bool = True) -> Response:
        """What is said of images (N x C x H x W), as one batch; see `Deployed.respond`."""
        device = next((tensor.device for tensor in self.parameters()), self.deployed.predictor.runtime.device)
        if device != self.deployed.predictor.runtime.device:  # the module was moved since
            self.deployed = self.deployed.to(device)
        return self.deployed.respond(images.to(device), is_full=is_full)

    def forward(self, images: Tensor) -> Tensor:
        """Logits; float32, N x K."""
        return self.respond(images, is_full=False).logits

    @torch.no_grad()
    def predict(self, images: Tensor, *, reject: bool = False) -> Tensor:
        """The most likely class; int64, N. Every layer is left in the mode it was in.

        Args:
            images: as for `forward`.
            reject: whether to answer `REFUSED` (-1) for images that the defense refuses.

        Raises:
            ConfigError: the images are of another size, type or range.
        """
        check_pixels(images, self.deployed.predictor)
        modes = [(module, module.training) for module in self.modules()]
        self.eval()
        try:
            response = self.respond(images, is_full=reject)
        finally:
            for module, mode in modes:  # a frozen layer inside a model in training mode stays frozen
                module.training = mode
        labels = response.logits.argmax(1)
        if reject and response.is_refused is not None:
            labels = labels.masked_fill(response.is_refused, REFUSED)
        return labels
