"""The one self-supervised training loop. Methods differ in what follows the encoder and in the loss of two views."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from nab.errors import DataError, NabError
from nab.progress import bar
from nab.selfsupervised.views import Views
from nab.training import Monitor, Predictor, Recipe

Loss = Callable[[Tensor, Tensor], Tensor]
"""Of the embeddings of two views of the same images (both float32, B x E): a scalar."""


def train_on_views(
    images: Tensor,
    predictor: Predictor,
    recipe: Recipe,
    *,
    head: nn.Module,
    loss: Loss,
    views: Views,
    generator: torch.Generator,
    title: str,
    monitor: Monitor | None = None,
) -> list[dict[str, float]]:
    """Train the network of ``predictor`` up to its penultimate features; its last layer stays as it is.

    Args:
        images: uint8, N x C x H x W.
        predictor: fresh; left in evaluation mode.
        recipe: epochs, batches, SGD (whatever its optimizer) and normalisation. What does not fill a batch is left out
            of its epoch, for the losses depend on how many samples are compared; a set smaller than a batch is one
            batch.
        head: features (B x D) to embeddings (B x E), on the predictor's device; trained along and then of no use.
        loss: of two views.
        views: how they are drawn.
        generator: on the predictor's device; of order and views.
        title: shown on the progress bar.
        monitor: called after every epoch, with the network in evaluation mode.

    Returns:
        a row per epoch: ``epoch`` (from 1), ``loss``, ``lr``, and what the monitor returned.

    Raises:
        DataError: fewer than two images.
        NabError: the loss stopped being a finite number.
    """
    if len(images) < 2:
        raise DataError(f"{title}: expected at least two training images, got {len(images)}")
    network, device = predictor.model, predictor.runtime.device
    images = images.to(device)
    batch_size = min(recipe.batch_size, len(images))
    steps = len(images) // batch_size
    optimizer = torch.optim.SGD(
        [*network.parameters(), *head.parameters()],  # the last layer gets no gradient, so no update
        lr=recipe.lr,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        fused=True,
    )
    network.train()
    head.train()
    curve = []
    with bar(title, recipe.epochs) as progress:
        for epoch in range(recipe.epochs):
            lr = optimizer.param_groups[0]["lr"] = recipe.learning_rate(epoch * steps, steps)
            total = torch.zeros((), device=device)
            order = torch.randperm(len(images), generator=generator, device=device)[: steps * batch_size]
            for index in order.split(batch_size):
                # One pass for both views, which so share the statistics of batch normalisation.
                both = recipe.normalise(views.draw(images[index].repeat(2, 1, 1, 1), generator))
                first, second = predictor.apply(lambda x: head(network.features(x)), both).chunk(2)
                value = loss(first, second)
                optimizer.zero_grad(set_to_none=True)
                value.backward()
                optimizer.step()
                total += value.detach()
            mean = total.item() / steps
            if not abs(mean) < float("inf"):
                raise NabError(f"{title}: the loss is {mean} after epoch {epoch + 1}; use a lower learning rate (lr)")
            curve.append({"epoch": epoch + 1, "loss": mean, "lr": lr})
            if monitor:
                curve[-1] |= monitor(predictor)
                network.train()
            progress.advance(f"loss {mean:.3g}")
    network.eval()
    return curve
