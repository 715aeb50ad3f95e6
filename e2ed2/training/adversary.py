"""The discriminator in training: its own AdamW, its updates before each of the sampler's, its state on disk."""

import pickle
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from e2ed2.errors import UserError
from e2ed2.models.discriminator import Discriminator
from e2ed2.objectives.adversarial import adversarial_loss, discriminator_loss, r1_penalty
from e2ed2.objectives.total import total
from e2ed2.training.config import AdversarialConfig

Pairs = Callable[[nn.Module, Tensor, torch.Generator], tuple[Tensor, Tensor]]

FILE = "discriminator.pt"


class Adversary:
    """A discriminator that learns to tell data from samples, and tells the sampler (Eq. 8).

    Attributes:
        weights: of the discriminator's own terms by name.
        pairs: (sampler's network, rows [B], generator) -> data and samples, [n, C, H, W] each, without a graph.
    """

    def __init__(self, settings: AdversarialConfig, channels: int, device: torch.device, pairs: Pairs):
        self.settings = settings
        self.pairs = pairs
        self.network = Discriminator(channels).to(device)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=settings.lr, betas=(0.5, 0.99))
        self.weights = {"discriminator": 1.0} | ({"r1": settings.r1_weight} if settings.r1_weight > 0 else {})
        self._training: nn.Module = self.network

    def prepare(self, accelerator: Accelerator) -> None:
        """Its updates average over the processes, like the sampler's."""
        self._training, self.optimizer = accelerator.prepare(self.network, self.optimizer)

    def loss_terms(self, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
        """`discriminator`, and with a weight `r1`, on data and samples [n, C, H, W]."""
        real = real.detach().requires_grad_("r1" in self.weights)
        real_logits, fake_logits = self._training(torch.cat([real, fake.detach()])).float().chunk(2)
        terms = {"discriminator": discriminator_loss(real_logits, fake_logits, self.settings.loss)}
        if "r1" in self.weights:
            terms["r1"] = r1_penalty(real_logits, real)
        return terms

    def step(self, terms: dict[str, Tensor], accelerator: Accelerator) -> None:
        """One update of the discriminator on the weighted sum of its terms."""
        self.optimizer.zero_grad()  # the sampler's backward pass left gradients here too
        accelerator.backward(total(terms, self.weights))
        self.optimizer.step()

    def adversarial_loss(self, fake: Tensor) -> Tensor:
        """What the sampler minimises against it; the gradient goes to the samples [B, C, H, W]."""
        return adversarial_loss(self.network(fake).float(), self.settings.loss)

    def save(self, folder: Path) -> None:
        with (folder / FILE).open("wb") as file:
            torch.save({"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}, file)

    def load(self, folder: Path) -> None:
        """Raises UserError when `folder` holds no state of this discriminator."""
        path = folder / FILE
        try:
            state = torch.load(path, weights_only=True, map_location="cpu")
            self.network.load_state_dict(state["network"])
            self.optimizer.load_state_dict(state["optimizer"])
        except (OSError, KeyError, ValueError, RuntimeError, pickle.UnpicklingError) as error:
            raise UserError(f"{path}: not the state of this discriminator; use another run.dir") from error
