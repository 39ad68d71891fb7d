import json

import pytest
import torch
import torch.nn.functional as F

from mrda.networks import DEN, MRDAOracle, MRDAStudent, MRDATeacher, lr_with_hr

TINY = {"scale": 2, "num_feat": 4, "num_blocks": 1, "den_width": 2}
MEAN_SHIFT = 24  # fixed values that the published totals count


def parameters(network):
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(("scale", "total"), [(2, 5_691_025), (3, 5_875_665), (4, 5_838_737)])
def test_published_student_parameter_counts(scale, total):
    assert parameters(MRDAStudent(scale=scale)) == total - MEAN_SHIFT


def test_published_teacher_and_gan_parameter_counts():
    assert parameters(MRDATeacher()) == 5_910_737 - MEAN_SHIFT
    gan = {"num_feat": 128, "num_blocks": 21, "den_width": 128}
    assert parameters(MRDAStudent(**gan)) == 19_587_781 - MEAN_SHIFT
    assert parameters(MRDATeacher(**gan)) == 19_731_781 - MEAN_SHIFT


def test_student_forward_is_rdan_of_its_own_idr():
    student = MRDAStudent(**TINY)
    lr = torch.rand(2, 3, 5, 6)
    idr = student.degradation(lr)
    assert idr.shape == (2, 8)
    assert student(lr).shape == (2, 3, 10, 12)
    assert torch.equal(student(lr), student.rdan(lr, idr))
    assert torch.equal(student(lr), student(lr, degradation=idr))
    assert not torch.equal(student(lr), student(lr, degradation=idr + 1))
    student.eval()
    assert isinstance(student(lr), torch.Tensor)


def test_teacher_forward_is_rdan_of_the_features_idr():
    teacher = MRDATeacher(**TINY, mln_feat=5)
    lr, features = torch.rand(2, 3, 5, 6), torch.randn(2, 5, 5, 6)
    idr = teacher.degradation(features)
    assert idr.shape == (2, 8)
    assert torch.equal(teacher(lr, features), teacher.rdan(lr, idr))


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_a_teacher_may_read_lr_with_hr(scale):
    teacher = MRDATeacher(**TINY | {"scale": scale}, den_input="lr_hr")
    lr, hr = torch.rand(2, 3, 5, 6), torch.rand(2, 3, 5 * scale, 6 * scale)
    seen = lr_with_hr(lr, hr)
    assert torch.equal(seen[:, :3], lr)
    for colour, i, j in ((0, 0, 0), (1, 0, 1), (2, 1, 0)):
        assert torch.equal(seen[:, 3 + colour * scale**2 + scale * i + j], hr[:, colour, i::scale, j::scale])
    assert teacher(lr, seen).shape == hr.shape


def test_the_student_can_start_from_the_teachers_rdan():
    teacher, student = MRDATeacher(**TINY, mln_feat=5), MRDAStudent(**TINY)
    student.rdan.load_state_dict(teacher.rdan.state_dict())
    lr, idr = torch.rand(1, 3, 4, 4), torch.randn(1, 8)
    assert torch.equal(student.rdan(lr, idr), teacher.rdan(lr, idr))


def test_oracle_forward_is_rdan_of_the_kernels_idr():
    oracle = MRDAOracle(**TINY, blur_size=5)
    lr, kernels = torch.rand(2, 3, 5, 6), torch.rand(2, 5, 5)
    idr = oracle.degradation(kernels)
    assert idr.shape == (2, 8)
    assert torch.equal(oracle(lr, kernels), oracle.rdan(lr, idr))
    shared = oracle(lr, kernels[:1])
    assert torch.equal(shared, oracle.rdan(lr, oracle.degradation(kernels[:1]).expand(2, -1)))
    assert not torch.equal(shared[1], oracle(lr, kernels)[1])


def test_oracle_is_five_linear_layers_on_the_flattened_kernel():
    torch.manual_seed(0)
    oracle = MRDAOracle(num_blocks=1).double()
    linear = [module for module in oracle.den.modules() if isinstance(module, torch.nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in linear] == [(441, 256)] + [(256, 256)] * 4
    kernel = torch.rand(3, 21, 21).double()
    expected = kernel.reshape(3, 441)
    for layer in linear[:-1]:
        expected = F.leaky_relu(layer(expected), 0.1)
    # The same float64 operations.
    torch.testing.assert_close(oracle.degradation(kernel), linear[-1](expected), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    "network",
    [
        MRDAStudent(**TINY),
        MRDATeacher(**TINY, mln_feat=5, mask_input="F1"),
        MRDAStudent(**TINY, conv_type="dasr_da"),
        MRDATeacher(**TINY, conv_type="static", static_groups="dense"),
        MRDAOracle(**TINY, blur_size=5, conv_type="static"),
    ],
)
def test_hyperparameters_rebuild(network):
    options = json.loads(json.dumps(network.hyperparameters))
    rebuilt = type(network)(**options)
    assert rebuilt.hyperparameters == network.hyperparameters
    assert "backend" not in options
    assert rebuilt.scale == 2
    rebuilt.load_state_dict(network.state_dict())


@pytest.mark.parametrize("network", [MRDAStudent, MRDATeacher, MRDAOracle])
def test_bad_options(network):
    with pytest.raises(ValueError, match="den_width is 0, but must be at least 1"):
        network(**{**TINY, "den_width": 0})
    with pytest.raises(ValueError, match="mask_input is 'F2', but must be one of"):
        network(**TINY, mask_input="F2")
    with pytest.raises(TypeError, match="num_feats"):
        network(**TINY, num_feats=3)


def test_bad_input():
    with pytest.raises(ValueError, match="mln_feat is 0, but must be at least 1"):
        MRDATeacher(**TINY, mln_feat=0)
    with pytest.raises(ValueError, match=r"has shape \(1, 3, 4, 4\), but must be \(B, 5, H, W\)"):
        MRDATeacher(**TINY, mln_feat=5)(torch.rand(1, 3, 4, 4), torch.rand(1, 3, 4, 4))
    with pytest.raises(ValueError, match=r"degradation has shape \(2, 8\), but must be \(1, 8\)"):
        MRDAStudent(**TINY)(torch.rand(1, 3, 4, 4), torch.rand(2, 8))
    oracle = MRDAOracle(**TINY, blur_size=5)
    with pytest.raises(ValueError, match="blur_size is 4, but must be odd"):
        MRDAOracle(**TINY, blur_size=4)
    for shape in ((1, 5, 6), (5, 5), (1, 1, 5, 5)):
        with pytest.raises(ValueError, match=r"kernel has shape .*, but must be \(B, 5, 5\)"):
            oracle(torch.rand(1, 3, 4, 4), torch.rand(shape))
    with pytest.raises(ValueError, match="kernel has a batch of 2, but must have 1 or that of lr, 3"):
        oracle(torch.rand(3, 3, 4, 4), torch.rand(2, 5, 5))
    with pytest.raises(TypeError, match=r"kernel has dtype torch\.float64, but must have torch\.float32"):
        oracle(torch.rand(1, 3, 4, 4), torch.rand(1, 5, 5).double())
    with pytest.raises(ValueError, match=r"lr has shape \(3, 4, 4\)"):
        oracle(torch.rand(3, 4, 4), torch.rand(1, 5, 5))
    with pytest.raises(TypeError, match=r"torch\.uint8"):
        MRDAStudent(**TINY)(torch.ones(1, 3, 4, 4, dtype=torch.uint8))


def test_each_has_the_den_of_its_input():
    assert MRDAStudent(**TINY).den.hyperparameters == DEN(in_channels=3, width=2).hyperparameters
    assert MRDATeacher(**TINY, mln_feat=5).den.in_channels == 5
