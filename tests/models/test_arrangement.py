import pytest
import torch

from service.config import load_settings
from service.models import arrangement
from service.models.arrangement import space
from service.types import Arrangement

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def multiplies_bfloat16(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})


def test_the_own_arrangement_is_a_thread_a_core_in_lanes_and_the_packages_batch():
    found = space(8, load_settings(), CPU, cores=4)
    assert found.own == Arrangement("bfloat16", "channels_last", 8, 4, 1)
    assert found.layouts()[0] == found.batches(found.own)[0] == found.own


def test_all_combinations_are_candidates_once():
    found = space(8, load_settings(), CPU, cores=4)
    layouts = found.layouts()
    assert len(layouts) == len(set(layouts)) == 8
    assert {(a.lanes, a.threads) for a in layouts} == {(4, 1), (1, 4)}
    assert [a.batch_size for a in found.batches(layouts[3])] == [8, 4, 16, 32]
    assert found.size == 8 * 4


def test_many_cores_are_shared_out_as_threads_too():
    found = space(8, load_settings(), CPU, cores=64)
    assert found.shares == ((16, 1), (16, 4), (1, 64))


def test_bfloat16_is_no_candidate_where_the_hardware_does_not_multiply_it(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    assert space(8, load_settings(), CPU, cores=2).dtypes == ("float32",)


@pytest.mark.parametrize(
    ("pin", "shares"),
    [
        ({"lanes": 2}, ((2, 1), (2, 4))),
        ({"threads": 2}, ((4, 2),)),
        ({"lanes": 3, "threads": 5}, ((3, 5),)),
        ({"lanes": 20}, ((20, 1),)),
        ({"threads": 20}, ((1, 20),)),
    ],
    ids=str,
)
def test_pinned_lanes_and_threads_leave_the_rest_of_the_cores(pin, shares):
    assert space(8, load_settings(**pin), CPU, cores=8).shares == shares


@pytest.mark.parametrize(
    ("name", "value"),
    [("dtype", "float32"), ("memory_format", "contiguous"), ("batch_size", 5), ("threads", 3)],
)
def test_what_is_pinned_has_one_value_and_nothing_else_is_a_member(name, value):
    found = space(8, load_settings(**{name: value}), CPU, cores=4)
    every = [b for layout in found.layouts() for b in found.batches(layout)]
    assert {getattr(a, name) for a in every} == {value}
    assert all(a in found for a in every)
    assert space(8, load_settings(), CPU, cores=4).own not in found
    assert not found.pinned


def test_all_five_pinned_leave_nothing_to_choose():
    pins = {"dtype": "float32", "memory_format": "contiguous", "batch_size": 2, "lanes": 1}
    found = space(8, load_settings(**pins, threads=2), CPU, cores=4)
    assert found.pinned
    assert found.size == 1
    assert found.own == Arrangement("float32", "contiguous", 2, 1, 2)


def test_on_a_gpu_there_is_one_of_each_kind():
    found = space(8, load_settings(), torch.device("cuda"), cores=4)
    assert found.size == 1
    assert (found.own.dtype, found.own.batch_size) == ("bfloat16", 128)
    assert (found.own.lanes, found.own.threads) == (2, 1)


def test_there_is_a_torch_value_for_every_name():
    assert set(arrangement.DTYPES) == {"float32", "bfloat16"}
    assert set(arrangement.MEMORY_FORMATS) == {"channels_last", "contiguous"}
