"""The discriminator in training: its own AdamW, its updates before each of the sampler's, past samples, its state."""

from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from e2ed2.objectives.adversarial import adversarial_loss, discriminator_loss, r1_penalty
from e2ed2.objectives.total import total
from e2ed2.recipe.objective import AdversarialConfig
from e2ed2.training.cluster.sharding import in_one_piece, shard_model
from e2ed2.training.saved import adamw_state, content_of, read_torch

Draw = Callable[[nn.Module, Tensor, torch.Generator], Tensor]
Look = Callable[[Tensor, torch.Generator], list[Tensor]]

FILE = "discriminator.pt"


class Adversary:
    """A discriminator that learns to tell data from samples, and tells the sampler (Eq. 8).

    A stack is m samples of each caption and, last, its data: [m + 1, B, C, H, W], latents or images, without a graph.

    Args:
        network: maps [n, C, h, w] -> a list of logits.
        draw: (sampler's network, rows [B], generator) -> a stack of new samples.
        look: (stack, generator) -> the maps that the discriminator is shown of it, [(m + 1) B, C, h, w] each.
    Attributes:
        weights: of the discriminator's own terms by name.
        past: the stacks that are kept.
    """

    def __init__(self, settings: AdversarialConfig, network: nn.Module, device: torch.device, draw: Draw, look: Look):
        self.settings = settings
        self.network = network.to(device)
        self.optimizer: torch.optim.Optimizer
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=settings.lr, betas=(0.5, 0.99))
        self.weights = {"discriminator": 1.0} | ({"r1": settings.r1_weight} if settings.r1_weight > 0 else {})
        self._draw, self._look, self.device = draw, look, device
        self.past: list[Tensor] = []
        self._of_all: list[list[Tensor]] = []  # of a checkpoint, or for one: what every process has kept
        self._training: nn.Module = self.network

    def prepare(self, accelerator: Accelerator) -> None:
        """Its updates average over the processes, like the sampler's; each goes on with the samples that it kept."""
        if self._of_all:
            own = self._of_all[min(accelerator.process_index, len(self._of_all) - 1)]
            self.past, self._of_all = [stack.to(self.device) for stack in own], []
        if accelerator.is_fsdp2:
            with in_one_piece(accelerator):
                self._training, self.optimizer = shard_model(accelerator, self.network, self.optimizer)
            assert isinstance(self.network, FSDPModule)
            self.network.set_reshard_after_backward("r1" not in self.weights)  # which goes back twice
        else:
            self._training, self.optimizer = accelerator.prepare(self.network, self.optimizer)

    def remember(self, stack: Tensor) -> None:
        """Keep what the sampler was just trained on, for `buffer_size` micro-batches (at least one)."""
        self.past = [*self.past, stack.detach()][-self.settings.buffer_size :]

    def loss_terms(self, sampler: nn.Module, rows: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """`discriminator`, and with a weight `r1`, on a stack from the buffer, or on a new one where there is none."""
        if self.past:
            stack = self.past[int(torch.randint(len(self.past), (), generator=generator))]
        else:
            stack = self._draw(sampler, rows, generator)
        with torch.no_grad():
            maps = self._look(stack, generator)
        num_real = stack.shape[1]
        real = [x[-num_real:].requires_grad_("r1" in self.weights) for x in maps]
        fake = [x[:-num_real] for x in maps]
        logits = self._training([torch.cat(pair) for pair in zip(fake, real, strict=True)])
        split = [(x[-num_real:].float(), x[:-num_real].float()) for x in logits]
        losses = [discriminator_loss(*pair, self.settings.loss) for pair in split]
        terms = {"discriminator": torch.stack(losses).mean()}
        if "r1" in self.weights:
            terms["r1"] = r1_penalty(torch.stack([logits.sum() for logits, _ in split]), real)
        return terms

    def step(self, terms: dict[str, Tensor], accelerator: Accelerator) -> None:
        """One update of the discriminator on the weighted sum of its terms."""
        self.optimizer.zero_grad()  # the sampler's backward pass left gradients here too
        accelerator.backward(total(terms, self.weights))
        if isinstance(self.network, FSDPModule):
            self.network.reshard()  # else it would not see what is stepped
        self.optimizer.step()

    def adversarial_loss(self, fake: list[Tensor]) -> Tensor:
        """What the sampler minimises against it; the gradient goes to the maps [n, C, h, w] of its samples."""
        return torch.stack([adversarial_loss(x.float(), self.settings.loss) for x in self.network(fake)]).mean()

    def gather_past(self, accelerator: Accelerator) -> None:
        """Before `save`: the past samples of all processes come to each. All have to call it."""
        self._of_all = []
        if accelerator.num_processes > 1 and self.settings.buffer_size > 0:
            self._of_all = gather_object([[stack.cpu() for stack in self.past]])

    def save(self, folder: Path) -> None:
        with (folder / FILE).open("wb") as file:
            states = {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}
            others = {"others": self._of_all[1:]} if self._of_all else {}
            torch.save({**states, "buffer": self.past, **others}, file)
        self._of_all = []

    def load(self, folder: Path) -> None:
        """Raises UserError when `folder` holds no state of this discriminator."""
        path = folder / FILE
        with content_of(path, "this discriminator"):
            saved = read_torch(path)
            self.network.load_state_dict(saved["network"])
            state = adamw_state(self.optimizer, saved["optimizer"])
            of_all: list[list[Tensor]] = [[*saved["buffer"]], *([*past] for past in saved.get("others", []))]
            if any(stack.dim() != 5 or not stack.is_floating_point() for past in of_all for stack in past):
                raise ValueError("no stacks of samples")
        self.optimizer.load_state_dict(state)
        self.past, self._of_all = [stack.to(self.device) for stack in of_all[0]], of_all
