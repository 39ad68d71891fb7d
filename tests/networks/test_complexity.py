import pytest
import torch
from torch import nn

from mrda.networks import (
    DASR,
    DEN,
    MLN,
    MODELS,
    RDAN,
    Complexity,
    KDSRStudent,
    MRDAOracle,
    MRDAStudent,
    MRDATeacher,
    complexity,
)

MEAN_SHIFT = 24
TINY = {"scale": 2, "num_feat": 8, "num_blocks": 1, "den_width": 2}


def on_meta(build):
    with torch.device("meta"):
        return build()


def test_the_published_student():
    assert complexity(on_meta(MODELS["mrda-x4"])) == Complexity(
        parameters=5_838_737,
        parameters_trainable=5_838_713,
        mult_adds=171_539_364_096,
        mult_adds_static_conv=169_745_414_400,
        mult_adds_dynamic_conv=54 * 64 * 9 * 180 * 320,
        # of the DEN's MLP, the compression and 54 predictors
        mult_adds_linear=2 * 256**2 + 256 * 64 + 54 * (64 * 64 + 64 * 576),
        # instead of 3x3 convolutions 64 -> 256 at LR and twice its size and 64 -> 3 at four times: 5x5, 64 -> 48
        mult_adds_executed=171_539_364_096
        - 180 * 320 * 9 * (64 * 256 * (1 + 4) + 64 * 3 * 16)
        + 182 * 322 * 25 * 64 * 48
        - 180 * 320 * 9 * (1 + 16),  # the mean shift is an addition
    )


@pytest.mark.parametrize(
    ("name", "parameters", "giga"),
    [
        ("mrda-x2", 5_691_025, None),
        ("mrda-x3", 5_875_665, None),
        ("mrda-teacher-x4", 5_910_737, "175.687"),
        ("mrda-gan-x4", 19_587_781, "575.758"),
        ("mrda-gan-teacher-x4", 19_731_781, None),
        ("mln-x4", 2_073_219, "224.214"),
        ("mln-x2", 1_482_883, None),
        ("mln-x3", 2_220_803, None),
    ],
)
def test_the_published_totals(name, parameters, giga):
    counted = complexity(on_meta(MODELS[name]))
    assert counted.parameters == parameters
    assert counted.parameters_trainable == parameters - (0 if name.startswith("mln") else MEAN_SHIFT)
    if giga is not None:
        assert f"{counted.mult_adds / 1e9:.3f}" == giga


def test_the_static_convolutions_of_the_gan_are_what_table_iv_counts():
    assert complexity(on_meta(MODELS["mrda-gan-x4"])).mult_adds_static_conv == 572_963_846_400


def test_the_models_are_all_there_and_of_their_scale():
    sisters = {"dasr": DASR, "kdsr-m": KDSRStudent, "kdsr-l": KDSRStudent}
    every = {f"{kind}-x{scale}" for kind in ("mrda", "mrda-teacher", "mln", *sisters) for scale in (2, 3, 4)}
    assert set(MODELS) == every | {"mrda-gan-x4", "mrda-gan-teacher-x4"}
    students, teachers = ("mrda", "mrda-gan"), ("mrda-teacher", "mrda-gan-teacher")
    classes = {**dict.fromkeys(students, MRDAStudent), **dict.fromkeys(teachers, MRDATeacher), "mln": MLN, **sisters}
    for name, build in MODELS.items():
        kind, _, scale = name.rpartition("-x")
        network = on_meta(build)
        assert type(network) is classes[kind]
        assert network.scale == int(scale)


def test_one_mask_per_channel_is_not_the_published_model():
    counted = complexity(on_meta(lambda: MRDAStudent(mask_channels=64)))
    assert counted.parameters == 6_059_867
    assert f"{counted.mult_adds / 1e9:.2f}" == "184.08"


def test_the_published_parts():
    assert f"{complexity(on_meta(DEN)).mult_adds / 1e9:.3f}" == "8.593"
    assert complexity(on_meta(RDAN)).parameters == 4_561_745
    gan = complexity(on_meta(lambda: MRDAStudent(num_feat=128, num_blocks=21, den_width=128)))
    assert gan.parameters == 19_587_781
    assert f"{gan.mult_adds_static_conv / 1e9:.4f}" == "572.9638"


def test_where_the_mask_comes_from_costs_nothing():
    assert complexity(on_meta(lambda: MRDAStudent(mask_input="F1"))) == complexity(on_meta(MRDAStudent))


H, W = 5, 7
CONV = 9 * 8 * 8 * H * W  # a 3x3 convolution of 8 channels
# Head, two convolutions of the block, body tail, the two of the upscaler and the mean shifts, of TINY.
FRAME = H * W * (9 * 3 * 8) + 4 * H * W * (9 * 8 * 3) + 3 * CONV + 4 * CONV + 9 * 5 * H * W


@pytest.mark.parametrize(
    ("options", "static", "dynamic", "linear"),
    [
        ({}, 2 * 8 * H * W, 2 * 9 * 8 * H * W, 2 * (8 * 8 + 8 * 72)),
        ({"mask_channels": 8}, 2 * 64 * H * W, 2 * 9 * 8 * H * W, 2 * (8 * 8 + 8 * 72)),
        ({"kernel_size": 5}, 2 * 8 * H * W, 2 * 25 * 8 * H * W, 2 * (8 * 8 + 8 * 200)),
        ({"conv_type": "dasr_da"}, 2 * 64 * H * W, 2 * 9 * 8 * H * W, 2 * (8 * 8 + 8 * 72 + 2 * 8)),
        ({"conv_type": "static"}, 2 * (64 + 9 * 8) * H * W, 0, 2 * (2 * 8)),
        ({"conv_type": "static", "static_groups": "dense"}, 2 * (64 * H * W + CONV), 0, 2 * (2 * 8)),
    ],
)
def test_the_ablations_cost_what_their_formulas_say(options, static, dynamic, linear):
    oracle = MRDAOracle(**TINY, blur_size=3, **options)
    counted = complexity(oracle, H, W)
    encoder = 9 * 8 + 4 * 8 * 8
    compress = 8 * 8
    assert counted.mult_adds_static_conv == FRAME + static
    assert counted.mult_adds_dynamic_conv == dynamic
    assert counted.mult_adds_linear == encoder + compress + linear
    assert counted.mult_adds == FRAME + static + dynamic + encoder + compress + linear
    assert counted.parameters_trainable == sum(parameter.numel() for parameter in oracle.parameters())
    assert counted.parameters == counted.parameters_trainable + MEAN_SHIFT


def test_the_students_cost_is_its_parts():
    student = MRDAStudent(**TINY)
    counted = complexity(student, H, W)
    rdan, den = complexity(student.rdan, H, W), complexity(student.den, H, W)
    assert counted.mult_adds == rdan.mult_adds + den.mult_adds
    assert counted.parameters == rdan.parameters + den.parameters


def test_counting_leaves_the_network_and_the_random_generator_alone():
    network = MRDAStudent(**TINY)
    before = torch.random.get_rng_state()
    complexity(network, 4, 4)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert next(network.parameters()).device.type == "cpu"
    assert network.training
    assert not any(module._forward_hooks for module in network.modules())


@pytest.mark.parametrize(
    ("size", "error", "match"),
    [
        ((0, 4), ValueError, "height is 0, but must be at least 1"),
        ((4, -1), ValueError, "width is -1, but must be at least 1"),
        ((4, 65_537), ValueError, "width is 65537, but must be at most 65536"),
        ((4.0, 4), TypeError, r"height is 4\.0, but must be an int"),
    ],
)
def test_bad_sizes(size, error, match):
    with pytest.raises(error, match=match):
        complexity(DEN(width=1), *size)


def test_the_longest_sides_can_be_counted():
    assert complexity(on_meta(MLN), 65_536, 65_536).mult_adds == complexity(on_meta(MLN), 1, 1).mult_adds * 2**32


def test_other_modules_are_refused():
    with pytest.raises(TypeError, match="network is Linear, but must be a network of the method"):
        complexity(nn.Linear(1, 1))
