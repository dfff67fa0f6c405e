"""Training the projector of an embedded language model on questions about scenes.

Both encoder and language stay frozen. The token map is shown as it is served: the mean of unit maps
of a few noisy, purified scenes at the scale they came at, or of the clean scene alone.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from service.models.answerer.llava import Llava
from service.models.pipeline import Pipeline
from service.training.asked import Asked
from service.training.task import add_gaussian

_CLEAN = 0.4  # of the batches
_MAPS = 2  # noisy ones that are averaged
_SCORED = 16  # pictures of a forward pass


class ProjectorTask:
    """A projector between one encoder and one chat model.

    Args:
        family: the whole model; its projector is what is trained.
        pipeline: of the encoder, with the purifier it will serve with.
        sigmas: noise levels that batches are drawn from.
        validation: asked scenes for the score.
        about: of the run, for its identity.
    """

    def __init__(
        self,
        family: Llava,
        pipeline: Pipeline,
        sigmas: tuple[float, ...],
        validation: Asked,
        about: Mapping[str, Any],
    ) -> None:
        self.module: nn.Module = family.model.model.multi_modal_projector.requires_grad_(True)
        self._language = family.model.model.language_model
        self._head = family.model.lm_head
        self._mark = family.image_token
        self._pipeline, self._sigmas = pipeline, sigmas
        self._validation = validation
        self.identity = {**about, "sigmas": list(sigmas)}

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
        """Token maps [n, T, D] as they are served."""
        pictures = levels.float() / 255
        sigmas = torch.full((len(levels),), sigma, device=levels.device)
        maps = []
        for _ in range(_MAPS if sigma else 1):
            with torch.no_grad():
                noisy = add_gaussian(pictures, sigmas, noise) if sigma else pictures
                purified = self._pipeline.purify(255 * noisy, sigmas)
                tokens = self._pipeline.encoder.tokens(self._pipeline.normalised(purified))
            maps.append(module(tokens.float()).float())
        norms = [one.flatten(1).norm(dim=1) for one in maps]
        units = [one / norm[:, None, None] for one, norm in zip(maps, norms, strict=True)]
        mean = torch.stack(units).mean(0)
        scale = torch.stack(norms).mean(0) / mean.flatten(1).norm(dim=1)
        shown: Tensor = mean * scale[:, None, None]
        return shown


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
