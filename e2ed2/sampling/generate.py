"""Seeded samples: every image has its own noise, so that it does not depend on how images are batched."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from e2ed2.models.autoencoder import decode_parts, to_uint8
from e2ed2.models.denoiser import denoiser_of
from e2ed2.models.families import network_of
from e2ed2.models.folders.inference import Inference
from e2ed2.models.folders.pipeline import latent_shape
from e2ed2.models.prompt_embeds import PromptEmbeds
from e2ed2.models.scheduler import prediction_type_of, schedule_of
from e2ed2.models.text import encode_prompts, encode_uncond, text_encoders
from e2ed2.system.errors import UserError
from e2ed2.trajectory import draw_noises, unroll


@dataclass(frozen=True)
class Request:
    """One image to make: a prompt and the seed of its noise."""

    prompt: str
    seed: int


class Sampler:
    """A loaded model with its few-step sampler; calling it makes images.

    Args:
        pipeline, inference: from `load_pipeline`.
        num_inference_steps: None for the number the model was made for.
        transformers: one for each step, where they are not all the pipeline's (`load_transformers`).
    Raises:
        UserError: a step count outside the model's grid.
    """

    def __init__(
        self,
        pipeline: Any,
        inference: Inference,
        num_inference_steps: int | None = None,
        transformers: Sequence[nn.Module] | None = None,
    ):
        self.timesteps = inference.grid(num_inference_steps)
        self.nfe = len(self.timesteps) * inference.evaluations_per_step
        self.dtype = next(network_of(pipeline).parameters()).dtype
        self._pipeline = pipeline
        self._inference, self._transformers = inference, transformers
        self._schedule = schedule_of(pipeline.scheduler)
        self._device = next(network_of(pipeline).parameters()).device
        networks = list(transformers or [network_of(pipeline)])
        for module in (*networks, pipeline.vae, *text_encoders(pipeline).values()):
            module.eval()
        uncond = encode_uncond(pipeline, inference.max_sequence_length).to(self._device)
        denoisers = [denoiser_of(pipeline, network, inference.guidance_scale, uncond) for network in networks]
        self._denoisers = denoisers if len(denoisers) > 1 else denoisers * len(self.timesteps)

    def at(self, num_inference_steps: int) -> "Sampler":
        """The same model with another number of steps; UserError where it does not have them."""
        return Sampler(self._pipeline, self._inference, num_inference_steps, self._transformers)

    def __call__(self, requests: list[Request], batch_size: int = 32) -> Tensor:
        """uint8 images [N, 3, H, W], one per request, in order."""
        if not requests:
            raise UserError("nothing to sample: give at least one prompt")
        prompts = list(dict.fromkeys(r.prompt for r in requests))
        place = {prompt: i for i, prompt in enumerate(prompts)}
        embeds = encode_prompts(prompts, self._pipeline, self._inference.max_sequence_length)
        images = []
        for start in range(0, len(requests), batch_size):
            batch = requests[start : start + batch_size]
            rows = torch.tensor([place[r.prompt] for r in batch])
            images.append(self._sample(embeds.select(rows).to(self._device), batch))
        return torch.cat(images)

    @torch.inference_mode()
    def _sample(self, cond: PromptEmbeds, batch: list[Request]) -> Tensor:
        shape = latent_shape(self._pipeline, self._inference.height, self._inference.width)
        noises = torch.stack(
            [draw_noises(shape, len(self.timesteps), torch.Generator().manual_seed(r.seed)) for r in batch], dim=1
        ).to(self._device)
        x0 = unroll(
            self._denoisers,
            noises[0],
            self.timesteps.to(self._device),
            cond,
            schedule=self._schedule,
            prediction_type=prediction_type_of(self._pipeline.scheduler),
            solver=self._inference.solver,
            noises=noises[1:],
        )
        pixels = torch.cat(list(decode_parts(self._pipeline.vae, x0)))
        check_finite(pixels, batch)
        return to_uint8(pixels).cpu()


def check_finite(pixels: Tensor, requests: Sequence[Request]) -> None:
    """Raise UserError where an image, [N, ...], has pixels that are not finite: files would show them black."""
    finite = pixels.isfinite().flatten(1).all(1)
    if not finite.all():
        request = requests[int((~finite).nonzero()[0])]
        raise UserError(
            f"prompt {request.prompt!r}, seed {request.seed}: the image has pixels that are not finite; "
            "check the weights, or sample them in bfloat16 or float32"
        )
