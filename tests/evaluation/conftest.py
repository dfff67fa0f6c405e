import pytest
import torch

from service.config import load_settings
from service.models.store import load_model
from service.pictures.decode import decode
from service.pictures.preprocess import preprocess
from tests.models import tiny_folders
from tests.photos import locate


@pytest.fixture(autouse=True)
def one_thread():
    """As in a lane: two threads inside one small layer stall each other on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def lively_vit(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny-vit"
    tiny_folders.write("vit", folder, tiny_folders.LIVELY)
    return folder


@pytest.fixture(scope="session")
def vit(lively_vit):
    return load_model(str(lively_vit), load_settings())


@pytest.fixture(scope="session")
def lite0():
    return load_model("efficientnet-lite0-160", load_settings())


def picture(model, name="chelsea.png"):
    return preprocess(decode(locate(name).read_bytes(), 10**7, name), model.preprocessing)
