"""Captions by a model that sees the image: in this process, or behind a server with OpenAI's interface (vLLM's too)."""

import base64
import io
import json
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from PIL import Image

from e2ed2.curation.hashes import share_of
from e2ed2.curation.items import Item
from e2ed2.curation.pipeline import CaptionConfig
from e2ed2.curation.stages.models import ONE_AT_A_TIME, ask_model, loaded
from e2ed2.system.errors import UserError, said

NAME = "caption"
SIDE = 512  # pixels that a model is shown at least, of an image that has them
TIMEOUT = 120.0  # seconds for one answer of a server
WAITS = (1.0, 4.0)  # seconds before it is asked again
OF_THE_IMAGE = (400, 413, 415, 422)  # answers that concern one request; others would be those to every one
LATER = (408, 425, 429)  # beside 5xx: worth to be asked again
REMEDIES: dict[int | None, str] = {
    None: "start it",
    401: "set OPENAI_API_KEY to its key",
    403: "set OPENAI_API_KEY to a key that may use caption.model",
    404: "see that the address ends as the server's does (often /v1) and that it serves caption.model",
}


def captioner(asked: CaptionConfig, seed: int) -> Callable[[Sequence[Item]], None]:
    """The stage, for one worker. The caption that an item came with stays in `original_caption`."""
    ask = LocalModel(asked) if asked.server is None else Server(asked)
    alone = ONE_AT_A_TIME if asked.server is None else nullcontext()

    def caption(items: Sequence[Item]) -> None:
        described = [
            item for item in items if not item.original_caption or share_of(seed, item.id) >= asked.keep_original
        ]
        with alone:
            for item, text in ask_model(described, NAME, ask, asked.batch_size, SIDE // 2):
                item.caption, item.captioner = " ".join(text.split()), asked.model
                if not item.caption:
                    item.drop(NAME, "the model said nothing")

    return caption


class LocalModel:
    """Any image-text-to-text model of transformers, LLaVA among them, by its own chat template.

    Raises:
        UserError: it cannot be loaded, or has no template.
    """

    def __init__(self, asked: CaptionConfig) -> None:
        import torch
        from transformers import AutoModelForImageTextToText, AutoProcessor

        field = "caption.model"
        kind = torch.float32 if asked.device == "cpu" else "auto"
        self._processor = loaded(AutoProcessor, asked.model, asked.revision, field)
        self._network = loaded(
            AutoModelForImageTextToText, asked.model, asked.revision, field, dtype=kind, use_safetensors=True
        )
        self._network.to(asked.device).eval()
        self._asked = asked
        content = [{"type": "image"}, {"type": "text", "text": asked.prompt}]
        try:
            self._text = self._processor.apply_chat_template(
                [{"role": "user", "content": content}], add_generation_prompt=True
            )
        except ValueError as error:
            raise UserError(f"{field} {asked.model}: has no chat template; name one that has, or a server") from error
        self._processor.tokenizer.padding_side = "left"  # answers begin where prompts end

    def __call__(self, images: list[Image.Image]) -> list[str]:
        """What it says of each image."""
        inputs = self._processor(
            images=[[image] for image in images], text=[self._text] * len(images), padding=True, return_tensors="pt"
        ).to(self._asked.device, self._network.dtype)
        tokens = self._network.generate(**inputs, max_new_tokens=self._asked.max_tokens, do_sample=False)
        return self._processor.batch_decode(tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


class Server:
    """`POST SERVER/chat/completions`, an image a request; the key is in `OPENAI_API_KEY`, where one is asked for.

    When called: UserError where it does not answer, or refuses what is not about one image.
    """

    def __init__(self, asked: CaptionConfig) -> None:
        self._asked = asked
        self._pool = ThreadPoolExecutor(asked.batch_size)

    def __call__(self, images: list[Image.Image]) -> list[str]:
        """What the model there says of each image."""
        return list(self._pool.map(self._ask, images))

    def _ask(self, image: Image.Image) -> str:
        image.thumbnail((2 * SIDE, 2 * SIDE))
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=90)
        picture = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
        content = [{"type": "image_url", "image_url": {"url": picture}}, {"type": "text", "text": self._asked.prompt}]
        answer = self._post(
            {
                "model": self._asked.model,
                "messages": [{"role": "user", "content": content}],
                "max_tokens": self._asked.max_tokens,
                "temperature": 0,
            }
        )
        return str(answer["choices"][0]["message"]["content"] or "")

    def _post(self, body: dict[str, Any]) -> Any:
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get("OPENAI_API_KEY"):
            headers["Authorization"] = f"Bearer {key}"
        request = Request(f"{str(self._asked.server).rstrip('/')}/chat/completions", json.dumps(body).encode(), headers)
        for wait in (*WAITS, None):
            try:
                with urlopen(request, timeout=TIMEOUT) as response:
                    return json.load(response)
            except OSError as error:
                code = error.code if isinstance(error, HTTPError) else None
                if code in OF_THE_IMAGE:
                    raise
                if wait is None or code is not None and code < 500 and code not in LATER:
                    answer = "no answer" if code is None else "no caption"
                    remedy = REMEDIES.get(code, "see that it runs and is not overloaded")
                    raise UserError(
                        f"caption.server {self._asked.server}: {answer} ({said(error)}); {remedy}, then run the same "
                        "command again"
                    ) from error
                time.sleep(wait)
        raise AssertionError
