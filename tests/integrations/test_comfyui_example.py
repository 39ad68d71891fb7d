"""The node for ComfyUI, called as ComfyUI calls nodes: images are (B, H, W, C) in [0, 1]."""

import runpy
from pathlib import Path

import torch

from mrda import Upscaler
from mrda.networks import MRDAStudent

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "comfyui_mrda.py"


def test_each_image_of_a_batch_is_upscaled_by_itself(tmp_path):
    torch.manual_seed(0)
    upscaler = Upscaler(MRDAStudent(scale=2, num_feat=4, num_blocks=1, den_width=2), device="cpu")
    upscaler.save_pretrained(tmp_path)
    node = runpy.run_path(str(EXAMPLE))["NODE_CLASS_MAPPINGS"]["UpscaleMRDA"]
    asked = node.INPUT_TYPES()["required"]
    assert set(asked) == {"image", "weights"}
    assert asked["image"] == ("IMAGE",)
    assert node.RETURN_TYPES == ("IMAGE",)
    images = torch.rand(2, 6, 9, 3)
    (result,) = getattr(node(), node.FUNCTION)(image=images, weights=str(tmp_path))
    assert result.shape == (2, 12, 18, 3)
    assert result.min() >= 0
    assert result.max() <= 1
    alone = upscaler(images[1].movedim(-1, 0).contiguous())
    torch.testing.assert_close(result[1], alone.movedim(0, -1), rtol=0, atol=1e-5)
