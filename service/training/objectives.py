"""What training minimises: the losses of the paper (docs/psm.md), all on the mean over a batch."""

import torch
from torch import Tensor
from torch.nn import functional

_PIXEL_STD = 0.25  # of pictures in [0, 1], as `service.models.unet` scales them


def denoising_loss(estimate: Tensor, pictures: Tensor, sigmas: Tensor) -> Tensor:
    """l_diff in one step: the squared error, weighted so that every sigma counts alike.

    Weights of Karras et al. 2022 (arXiv:2206.00364), lambda(sigma) = 1 / c_out^2.

    Args:
        estimate: P(x + noise), [n, 3, H, W], RGB in [0, 1].
        pictures: x.
        sigmas: [n].
    """
    weights = (sigmas**2 + _PIXEL_STD**2) / (sigmas * _PIXEL_STD) ** 2
    return (weights * (estimate - pictures).square().mean((1, 2, 3))).mean()


def distance_loss(estimate: Tensor, pictures: Tensor) -> Tensor:
    """l_mse: the l2 distance ||x - P(x + delta)||_2, for each pixel value."""
    squares = (estimate - pictures).square().mean((1, 2, 3))
    return (squares + 1e-8).sqrt().mean()


def robustness_loss(features: Tensor, clean: Tensor) -> Tensor:
    """l_rb, as 1 - cos, of features [n, d] of noisy pictures and of the same without noise."""
    # In float32 whatever the encoder ran in: bfloat16 cosines come in steps of 0.004.
    return 1 - functional.cosine_similarity(features.float(), clean.float(), dim=1).mean()


def statistics_loss(features: Tensor, clean: Tensor) -> Tensor:
    """l_stats: squared differences of mean and standard deviation, summed over dimensions.

    Of unit features [n, d]; it keeps different pictures as different as they were.
    """
    ours, wanted = functional.normalize(features.float()), functional.normalize(clean.float())
    means = ours.mean(0) - wanted.mean(0)
    spreads = _spread(ours) - _spread(wanted)
    return means.square().sum() + spreads.square().sum()


def relations_loss(features: Tensor, clean: Tensor) -> Tensor:
    """Squared differences of the cosines of every two pictures of a batch, [n, d] each.

    Relational distillation (Park et al. 2019, arXiv:1904.05068), of cosines: what moves all
    pictures nearer to each other gains nothing by it.
    """
    ours, wanted = functional.normalize(features.float()), functional.normalize(clean.float())
    return (ours @ ours.T - wanted @ wanted.T).square().mean()


def _spread(features: Tensor) -> Tensor:
    return (features.var(0, correction=0) + 1e-12).sqrt()


def cosines(features: Tensor, clean: Tensor) -> Tensor:
    """Cosine of each row, [n], without gradient."""
    with torch.no_grad():
        one, other = features.flatten(1).float(), clean.flatten(1).float()
        return functional.cosine_similarity(one, other, dim=1)
