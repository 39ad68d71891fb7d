import torch
from torch.func import functional_call
from torch.nn.utils import prune

from mrda.networks import RDAN


def random_rdan(seed=0):
    torch.manual_seed(seed)
    return RDAN(scale=2, num_feat=8, num_blocks=2, idr_dim=8).eval()


def random_inputs():
    draws = torch.Generator().manual_seed(0)
    return torch.rand(1, 3, 6, 7, generator=draws), torch.randn(1, 8, generator=draws)


def test_other_weights_at_the_same_address_are_other_weights():
    rdan, inputs = random_rdan(), random_inputs()
    for seed in range(8):
        # as from a file: once they are dropped, the next ones come to lie where they were
        weights = {name: value.clone() for name, value in random_rdan(seed).state_dict().items()}
        with torch.no_grad():
            found = functional_call(rdan, weights, inputs)
            expected = random_rdan(seed)(*inputs)
        del weights
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_pruned_predictors_are_heeded():
    rdan, inputs = random_rdan(), random_inputs()
    with torch.no_grad():
        before = rdan(*inputs)
    prune.random_unstructured(rdan.blocks[0].rda_conv1.kernel[2], "weight", 0.9)
    kernels = rdan._predict_kernels(torch.ones(1, 8), torch.float32)[0][0]
    torch.testing.assert_close(kernels, rdan.blocks[0].rda_conv1.predict_kernels(torch.ones(1, 8)))
    with torch.no_grad():
        assert not torch.equal(rdan(*inputs), before)
