import pytest
import torch

from service.evaluation.attacks.objectives import CropMatching, transport


def test_the_transport_plan_is_uniform_on_both_sides():
    cost = torch.rand(3, 5, 7, generator=torch.Generator().manual_seed(0))
    plan = transport(cost, 0.1, 200)
    torch.testing.assert_close(plan.sum(2), torch.full((3, 5), 1 / 5))
    torch.testing.assert_close(plan.sum(1), torch.full((3, 7), 1 / 7))


def test_transport_finds_the_tokens_that_belong_together():
    order = torch.tensor([2, 0, 3, 1])
    cost = torch.ones(1, 4, 4)
    cost[0, torch.arange(4), order] = 0.0
    plan = transport(cost, 0.05, 200)[0]
    assert plan.argmax(1).tolist() == order.tolist()
    assert float((plan * cost[0]).sum()) == pytest.approx(0, abs=1e-3)


def test_crops_are_of_half_the_side_at_least_and_fill_the_whole():
    """A picture whose columns rise: a crop's first value tells where it begins."""
    wide = torch.arange(32.0).expand(1, 3, 32, 32)
    made = CropMatching([], wide[0], torch.Generator().manual_seed(0))
    spans = []
    for _ in range(50):
        crop = made._crop(wide)
        assert crop.shape == wide.shape
        spans.append(float(crop[0, 0, 0, -1] - crop[0, 0, 0, 0]) + 1)
    assert min(spans) >= 15
    assert max(spans) > 28
    assert max(spans) - min(spans) > 8
