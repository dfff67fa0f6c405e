import pytest
from transformers import CLIPImageProcessorPil, Idefics3ImageProcessorPil, ViTImageProcessorPil

from service.errors import ConfigurationError
from service.models.processors import derive, load_preprocessing


def test_clip_resizes_the_shortest_edge_and_crops():
    how = derive(CLIPImageProcessorPil(), "clip")
    assert (how.resize, how.crop, how.resample) == (224, (224, 224), "bicubic")
    assert how.mean == pytest.approx((0.48145466, 0.4578275, 0.40821073))


def test_steps_that_are_switched_off_do_not_count():
    how = derive(ViTImageProcessorPil(do_normalize=False), "vit")
    assert how.mean == pytest.approx((0, 0, 0))
    assert how.std == pytest.approx((1, 1, 1))


@pytest.mark.parametrize(
    ("processor", "reason"),
    [
        (CLIPImageProcessorPil(do_center_crop=False), "needs a centre crop"),
        (ViTImageProcessorPil(do_resize=False), "no fixed size"),
        (ViTImageProcessorPil(size={"longest_edge": 64}), "longest edge"),
        (Idefics3ImageProcessorPil(), "not supported"),
    ],
    ids=["no crop", "no resize", "longest edge", "tiles"],
)
def test_what_leads_to_no_fixed_x_is_refused(processor, reason):
    with pytest.raises(ConfigurationError, match=reason):
        derive(processor, "here")


def test_a_folder_without_a_processor_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="no usable image processor"):
        load_preprocessing(tmp_path)
