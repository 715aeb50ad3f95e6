"""A recipe's `objective`: the terms of the loss and their weights."""

from collections.abc import Collection
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from e2ed2.recipe.fields import Held, HeldOrZero, NonNegative, Number, PathOrUrl, Positive, Section


class TermConfig(Section):
    """One loss term."""

    weight: NonNegative = 0.0


class EnergyConfig(TermConfig):
    """A scoring rule; `beta` is the exponent of its distance, strictly between 0 and 2."""

    beta: Annotated[Number, Field(gt=0, lt=2)] = 1.0


class KeepConfig(TermConfig):
    """Stay near the start: on prompts outside the data, a sample and the frozen start's sample from the same noise.

    `prompts`: `general` or `emoji`, which ship, `classes` of a start that has them, a text file of one a line, or what
    else holds captions.
    `batch_size`: how many a micro-batch (default: half as many as it has captions).
    """

    prompts: PathOrUrl = "general"
    batch_size: Held | None = None

    def rows(self, micro_batch_size: int) -> int:
        """How many prompts a micro-batch of so many captions has beside it."""
        return self.batch_size or -(-micro_batch_size // 2)


class CropConfig(Section):
    """What losses on images decode: `size` x `size` latent cells, a random place per micro-batch (default: all).

    `halo`: cells decoded around them and cut off.
    """

    size: Held | None = None
    halo: HeldOrZero = 4


class AdversarialConfig(TermConfig):
    """The GAN term (Eq. 8, App. C.2); the paper's weight is 0.01. `lr`: of the discriminator, AdamW.

    `space`: what it looks at; `feature` is maps of the frozen feature network. `buffer_size`: micro-batches of past
    samples that its updates reuse instead of new ones.
    """

    space: Literal["latent", "pixel", "feature"] = "latent"
    loss: Literal["hinge", "non_saturating", "least_squares"] = "hinge"
    num_discriminator_updates: Held = 5
    lr: Positive = 2e-4
    r1_weight: NonNegative = 0.0
    buffer_size: HeldOrZero = 0


def _is_function(name: str) -> str:
    module, _, function = name.partition(":")
    if not (all(map(str.isidentifier, module.split("."))) and function.isidentifier()):
        raise ValueError("give package.module:function")
    return name


class PlugInConfig(TermConfig):
    """A term of the user's own: `function`(images, prompts) -> loss, as `package.module:function`; lower is better.

    `images`: decoded samples, float32 [n, 3, H, W], about [-1, 1], of `crop` where that is set; `prompts`: theirs.
    """

    function: Annotated[str, AfterValidator(_is_function)] | None = None


class ObjectiveConfig(Section):
    """Weights of the end-to-end loss's terms; `num_samples` samples per image (scoring rules need 2 of a caption).

    `perceptual_network`: whose features terms on images compare; all but `bundled` are those of the `lpips` package.
    `denoising`: the ordinary loss of diffusion training (Eq. 3), which unrolls nothing. `keep`: stay near the start.
    `intermediate_weight`: of the latent terms on each earlier step's estimate of x0, relative to the end's.
    """

    l1: TermConfig = TermConfig()
    l2: TermConfig = TermConfig()
    huber: TermConfig = TermConfig()
    energy: EnergyConfig = EnergyConfig()
    patch_energy: EnergyConfig = EnergyConfig()
    lpips: TermConfig = TermConfig()
    latent_lpips: TermConfig = TermConfig()
    lpips_energy: EnergyConfig = EnergyConfig()
    latent_lpips_energy: EnergyConfig = EnergyConfig()
    mmd: TermConfig = TermConfig()
    adversarial: AdversarialConfig = AdversarialConfig()
    denoising: TermConfig = TermConfig()
    keep: KeepConfig = KeepConfig()
    plugin: PlugInConfig = PlugInConfig()
    kl: TermConfig = TermConfig(weight=2e-4)
    crop: CropConfig = CropConfig()
    perceptual_network: Literal["bundled", "alex", "vgg", "squeeze"] = "bundled"
    num_samples: Held = 1
    intermediate_weight: NonNegative = 0.0


OBJECTIVES = {  # name -> field of every term
    name: field
    for name, field in ObjectiveConfig.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, TermConfig)
}
SCORING_RULES = {name for name, field in OBJECTIVES.items() if isinstance(field.default, EnergyConfig)}
IMAGE_TERMS = {"lpips", "lpips_energy", "mmd"}  # see features of decoded images, and of the pictures
TERMS = {  # stage -> the objectives it can weigh
    "autoencoder": ("l1", "kl"),
    "e2ed2": tuple(name for name in OBJECTIVES if name != "kl"),
}


def judges_features(objective: ObjectiveConfig, terms: Collection[str]) -> bool:
    """Whether one of `terms` sees features of decoded samples and of the pictures themselves."""
    return bool(IMAGE_TERMS & set(terms)) or ("adversarial" in terms and objective.adversarial.space == "feature")


def decodes(objective: ObjectiveConfig, terms: Collection[str]) -> bool:
    """Whether one of `terms` sees decoded samples."""
    is_pixel = "adversarial" in terms and objective.adversarial.space == "pixel"
    return judges_features(objective, terms) or is_pixel or "plugin" in terms
