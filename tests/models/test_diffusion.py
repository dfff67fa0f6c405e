"""Against diffusers' own scheduler, on tiny models that diffusers wrote."""

import json

import pytest
import torch
from diffusers import DDPMScheduler, UNet2DModel
from safetensors.torch import load_file, save_file

from service.errors import ConfigurationError
from service.models.diffusion import DiffusionPurifier, diffusion_digest, load_diffusion


class Told(torch.nn.Module):
    """In place of the network: says what it is asked to."""

    def __init__(self, answer):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.answer = answer
        self.shown = self.timesteps = None

    def forward(self, shown, timesteps):
        self.shown, self.timesteps = shown, timesteps
        return type("Output", (), {"sample": self.answer(shown)})


@pytest.fixture(scope="module")
def scheduler():
    return DDPMScheduler()


def tiny(**changes):
    torch.manual_seed(0)
    return UNet2DModel(
        **{
            "sample_size": 16,
            "block_out_channels": (8, 8),
            "norm_num_groups": 4,
            "layers_per_block": 1,
            "down_block_types": ("DownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "UpBlock2D"),
            "add_attention": False,
            **changes,
        }
    )


def written(folder, scheduler=None, **changes):
    tiny(**changes).save_pretrained(folder / "unet" if scheduler else folder)
    if scheduler:
        scheduler.save_pretrained(folder / "scheduler")
    return folder


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
def test_a_network_that_knows_the_noise_gives_the_picture_back(scheduler, prediction):
    """With exact x, e and v from diffusers' own formulas at sigmas of whole steps."""
    generator = torch.Generator().manual_seed(1)
    steps = torch.tensor([20, 300, 700])
    alphas = scheduler.alphas_cumprod[steps]
    sigmas = ((1 - alphas) / alphas).sqrt() / 2
    x = torch.rand(3, 3, 8, 8, generator=generator)
    epsilon = torch.randn(x.shape, generator=generator)
    noisy = x + sigmas.view(-1, 1, 1, 1) * epsilon
    truth = {
        "epsilon": epsilon,
        "sample": 2 * x - 1,
        "v_prediction": scheduler.get_velocity(2 * x - 1, epsilon, steps),
    }[prediction]
    network = Told(lambda shown: truth)
    purifier = DiffusionPurifier(network, scheduler.alphas_cumprod, prediction, 1)
    torch.testing.assert_close(purifier(noisy, sigmas), x, atol=1e-4, rtol=0)
    assert network.timesteps.tolist() == steps.tolist()
    expected = scheduler.add_noise(2 * x - 1, epsilon, steps)
    torch.testing.assert_close(network.shown, expected, atol=1e-4, rtol=1e-4)


def test_sigma_on_0_1_is_half_of_the_models_and_only_the_step_is_rounded(scheduler):
    network = Told(torch.zeros_like)
    purifier = DiffusionPurifier(network, scheduler.alphas_cumprod, "epsilon", 1)
    sigmas = torch.tensor([0.25, 0.2501])
    purifier(torch.full((2, 3, 4, 4), 1.0), sigmas)
    ratios = (1 - scheduler.alphas_cumprod) / scheduler.alphas_cumprod
    assert network.timesteps[0] == (ratios.sqrt() - 0.5).abs().argmin()
    assert network.timesteps[0] == network.timesteps[1]
    kept = 1 / (1 + (2 * sigmas) ** 2).sqrt()
    torch.testing.assert_close(network.shown[:, 0, 0, 0], kept)


def test_a_row_without_noise_comes_back_bit_for_bit(tmp_path):
    purifier = load_diffusion(written(tmp_path))
    pictures = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        estimate = purifier(pictures, torch.tensor([0.0, 0.3]))
    assert torch.equal(estimate[0], pictures[0])
    assert not torch.equal(estimate[1], pictures[1])


def test_a_learned_variance_is_left_out_and_odd_sizes_are_padded(tmp_path):
    purifier = load_diffusion(written(tmp_path, out_channels=6))
    with torch.no_grad():
        assert purifier(torch.rand(1, 3, 13, 15), torch.tensor([0.3])).shape == (1, 3, 13, 15)


def test_a_pipeline_folder_brings_its_own_schedule(tmp_path):
    own = DDPMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction")
    purifier = load_diffusion(written(tmp_path, own))
    assert purifier.prediction == "v_prediction"
    alphas = own.alphas_cumprod.double()
    torch.testing.assert_close(
        purifier.log_sigmas, (0.5 * torch.log((1 - alphas) / alphas)).float()
    )


def test_weights_in_bfloat16_keep_the_schedule_exact(tmp_path):
    purifier = load_diffusion(written(tmp_path))
    before = purifier.timesteps(torch.tensor([0.1, 0.25, 0.5]))
    assert torch.equal(purifier.bfloat16().timesteps(torch.tensor([0.1, 0.25, 0.5])), before)
    with torch.no_grad():
        assert purifier(torch.rand(1, 3, 16, 16), torch.tensor([0.3])).dtype == torch.float32


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"in_channels": 1, "out_channels": 1}, "1 channels in"),
        ({"num_class_embeds": 10}, "class-conditional"),
        ({"class_embed_type": "timestep"}, "class-conditional"),
    ],
)
def test_a_model_that_is_no_purifier_of_pictures_is_refused(tmp_path, changes, reason):
    with pytest.raises(ConfigurationError, match=reason):
        load_diffusion(written(tmp_path, **changes))


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="no usable UNet2DModel"):
        load_diffusion(tmp_path)


def test_the_digest_follows_the_schedule_as_well_as_the_weights(tmp_path):
    folder = written(tmp_path / "a", DDPMScheduler())
    before = diffusion_digest(folder)
    assert diffusion_digest(written(tmp_path / "b", DDPMScheduler())) == before
    DDPMScheduler(prediction_type="sample").save_pretrained(folder / "scheduler")
    assert diffusion_digest(folder) != before


def test_a_folder_whose_index_names_other_weights_is_refused(tmp_path):
    folder = written(tmp_path)
    index = {"metadata": {}, "weight_map": {"conv_in.weight": "another.safetensors"}}
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ConfigurationError, match="weights in several files"):
        diffusion_digest(folder)


def test_a_schedule_that_is_no_object_is_refused(tmp_path):
    folder = written(tmp_path, DDPMScheduler())
    (folder / "scheduler" / "scheduler_config.json").write_text("[1]")
    with pytest.raises(ConfigurationError, match="holds no JSON object"):
        load_diffusion(folder)


def test_a_schedule_of_a_neighbour_is_not_taken_for_its_own(tmp_path):
    flat = written(tmp_path / "flat")
    DDPMScheduler(prediction_type="sample").save_pretrained(tmp_path / "scheduler")
    assert load_diffusion(flat).prediction == "epsilon"
    DDPMScheduler(prediction_type="sample").save_pretrained(flat)
    assert load_diffusion(flat).prediction == "sample"


def test_weights_that_are_missing_are_not_made_up(tmp_path):
    folder = written(tmp_path)
    (file,) = folder.glob("*.safetensors")
    tensors = load_file(file)
    tensors.pop("conv_in.weight")
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(ConfigurationError, match="conv_in"):
        load_diffusion(folder)


@pytest.mark.parametrize("kind", ["ScoreSdeVeScheduler", "FlowMatchEulerDiscreteScheduler"])
def test_a_schedule_of_another_process_is_refused(tmp_path, kind):
    folder = written(tmp_path, DDPMScheduler())
    file = folder / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "_class_name": kind}))
    with pytest.raises(ConfigurationError, match=f"a {kind} is no schedule"):
        load_diffusion(folder)
