"""Training what stands between an encoder and a chat model on questions about scenes.

Encoder and chat model stay frozen; a projector and low-rank adapters of the chat model's attention
are trained. The token map is shown as it is served: the mean direction, from the mean map, of a few
noisy, purified scenes at the distance they came at, or of the clean scene alone.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from service.models.answerer.llava import Llava
from service.models.answerer.trained import TrainedParts
from service.models.pipeline import Pipeline
from service.training.asked import Asked
from service.training.task import add_gaussian

_CLEAN = 0.4  # of the batches
_MAPS = 2  # noisy ones that are averaged
_SCORED = 16  # pictures of a forward pass
_CENTRE = 0.01  # how much of the mean map each batch is
ADAPTED = ("q_proj", "k_proj", "v_proj", "o_proj")


def adapt(chat: Any, rank: int, scale: int) -> dict[str, tuple[nn.Module, nn.Module]]:
    """Put low-rank adapters beside the attention weights of a chat model; (A, B) by path.

    Args:
        chat: its layers are changed in place; the adapters begin as nothing.
        rank: of each; 0 for none.
        scale: of their product.
    """
    if not rank:
        return {}
    from peft import LoraConfig, inject_adapter_in_model

    wanted = LoraConfig(r=rank, lora_alpha=scale * rank, target_modules=list(ADAPTED))
    inject_adapter_in_model(wanted, chat, "trained")
    return {
        path: (module.lora_A["trained"], module.lora_B["trained"])
        for path, module in chat.named_modules()
        if path.endswith(ADAPTED)
    }


class AnswererTask:
    """A projector, and adapters, between one encoder and one chat model.

    Args:
        family: the whole model; its chat model calls the adapters.
        parts: what is trained.
        pipeline: of the encoder, with the purifier it will serve with.
        sigmas: noise levels that batches are drawn from.
        validation: asked scenes for the score.
        about: of the run, for its identity.
    """

    def __init__(
        self,
        family: Llava,
        parts: TrainedParts,
        pipeline: Pipeline,
        sigmas: tuple[float, ...],
        validation: Asked,
        about: Mapping[str, Any],
    ) -> None:
        self.module = parts
        self._language = family.model.model.language_model
        self._head = family.model.lm_head
        self._mark = family.image_token
        self._pipeline, self._sigmas = pipeline, sigmas
        self._validation = validation
        self.identity = {**about, "sigmas": list(sigmas)}
        levels = validation.levels[:_SCORED].to(pipeline.device)
        with torch.no_grad():
            first = parts.projector(self._tokens(levels.float() / 255, torch.zeros(len(levels))))
            parts.centre.copy_(first.mean(0))

    def loss(self, module: nn.Module, batch: Asked, noise: torch.Generator) -> Tensor:
        """Mean cross-entropy of the answers' tokens."""
        clean = float(torch.rand((), generator=noise)) < _CLEAN
        chosen = int(torch.randint(len(self._sigmas), (), generator=noise))
        sigma = 0.0 if clean else self._sigmas[chosen]
        logits, labels = self._answer(module, batch, sigma, noise)
        return functional.cross_entropy(logits, labels)

    @torch.no_grad()
    def score(self, module: nn.Module) -> dict[str, float]:
        """Share of validation answers that are right to the last token, clean and noisy."""
        found: dict[str, float] = {}
        for sigma in (0.0, *sorted(set(self._sigmas))):
            noise = torch.Generator().manual_seed(0)
            right = []
            whole = self._validation
            for first in range(0, len(whole.ids), _SCORED):
                part = whole.rows(slice(first, first + _SCORED))
                logits, labels = self._answer(module, part, sigma, noise)
                right += _whole_answers(part, logits.argmax(1) == labels)
            found[f"right@{sigma:g}"] = sum(right) / len(right)
        return {"score": sum(found.values()) / len(found), **found}

    def _answer(
        self, module: nn.Module, batch: Asked, sigma: float, noise: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Logits [answer tokens, V] and the tokens that they should have chosen."""
        shown = self._shown(module, batch.levels, sigma, noise)
        words = self._language.get_input_embeddings()(batch.ids)
        places = (batch.ids == self._mark)[..., None].expand_as(words)
        words = words.masked_scatter(places, shown.to(words.dtype))
        hidden = self._language(
            inputs_embeds=words,
            attention_mask=_additive(batch.visible(), words.dtype),
            position_ids=batch.positions,
            use_cache=False,
        ).last_hidden_state
        asked = batch.labels >= 0
        return self._head(hidden[asked]).float(), batch.labels[asked]

    def _shown(
        self, module: nn.Module, levels: Tensor, sigma: float, noise: torch.Generator
    ) -> Tensor:
        """Token maps [n, T, D] as they are served; the centre follows them."""
        pictures = levels.float() / 255
        sigmas = torch.full((len(levels),), sigma, device=levels.device)
        maps = []
        for _ in range(_MAPS if sigma else 1):
            noisy = add_gaussian(pictures, sigmas, noise) if sigma else pictures
            maps.append(module(self._tokens(noisy, sigmas)).float())
        centre = self.module.centre
        if module.training:
            with torch.no_grad():
                centre.lerp_(torch.stack(maps).mean((0, 1)), _CENTRE)
        apart = [one - centre for one in maps]
        norms = [one.flatten(1).norm(dim=1) for one in apart]
        units = [one / norm[:, None, None] for one, norm in zip(apart, norms, strict=True)]
        mean = torch.stack(units).mean(0)
        scale = torch.stack(norms).mean(0) / mean.flatten(1).norm(dim=1)
        shown: Tensor = centre + mean * scale[:, None, None]
        return shown

    @torch.no_grad()
    def _tokens(self, pictures: Tensor, sigmas: Tensor) -> Tensor:
        """Of pictures [n, 3, H, W] in [0, 1], purified."""
        purified = self._pipeline.purify(255 * pictures, sigmas)
        return self._pipeline.encoder.tokens(self._pipeline.normalised(purified)).float()


def _additive(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """As attention wants it: 0 where it may look, the least number where it may not."""
    mask = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
    return mask.masked_fill(~visible, torch.finfo(dtype).min)


def _whole_answers(batch: Asked, right: Tensor) -> list[bool]:
    """For each turn of a batch, whether all of its answer's tokens are right."""
    asked = batch.labels >= 0
    rows, _ = asked.nonzero(as_tuple=True)
    turns = batch.turns[asked]
    whole: dict[tuple[int, int], bool] = {}
    for row, turn, ok in zip(rows.tolist(), turns.tolist(), right.tolist(), strict=True):
        whole[row, turn] = whole.get((row, turn), True) and ok
    return list(whole.values())
