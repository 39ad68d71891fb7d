"""Networks whose weights and layers others change: optimizers, averages, adapters, pruning, sharding, replicas."""

import copy
import pickle
import warnings

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

from mrda.networks import DEN, MLN, RDAN, MRDAStudent
from mrda.networks.prepared import prepared_den
from mrda.networks.rda_conv import RDAConv

CONVS = [{}, {"mask_channels": 8}, {"mask_input": "F1"}, {"conv_type": "dasr_da"}, {"conv_type": "static"}]
CLOSE = {"rtol": 1e-4, "atol": 1e-5}  # some 20 layers of float32 sums of about 100 products, in another order


def make_student(**options):
    torch.manual_seed(0)
    return MRDAStudent(**{"scale": 2, "num_feat": 8, "num_blocks": 1, "den_width": 2} | options).eval()


def photo():
    return torch.rand(2, 3, 5, 6, generator=torch.Generator().manual_seed(0))


def layers(network):
    """Return all layers with weights, by name."""
    return {name: part for name, part in network.named_modules() if isinstance(part, nn.Conv2d | nn.Linear)}


def again(student):
    """Return a network of the same weights that nobody has touched."""
    fresh = make_student(**student.options.as_dict())
    fresh.load_state_dict({name: value.detach().clone() for name, value in student.state_dict().items()})
    return fresh


# ---- weights that change in silence --------------------------------------------------------------------------------


def fused_step(student):
    optimizer = torch.optim.AdamW(student.parameters(), lr=0.05, fused=True)
    student.train()(photo()).square().mean().backward()
    optimizer.step()
    student.eval()


def averaged(student):
    for parameter in student.parameters():
        parameter.data.lerp_(torch.ones_like(parameter), 0.1)


def swapped(student):
    for parameter in list(student.parameters()):
        torch.utils.swap_tensors(parameter, nn.Parameter(parameter.detach() * 1.25))


def assigned(student):
    student.load_state_dict({name: value * 1.25 for name, value in student.state_dict().items()}, assign=True)


@pytest.mark.parametrize("change", [fused_step, averaged, swapped, assigned])
def test_new_weights_are_used_by_the_next_call(change):
    student = make_student()
    with torch.no_grad():
        before = student(photo())
    change(student)
    after = student(photo())
    assert not torch.allclose(after, before)
    assert torch.equal(after, again(student)(photo()))
    assert torch.equal(student.prepare()(photo()), again(student).prepare()(photo()))


def test_functional_call_uses_the_weights_that_it_is_given():
    student = make_student()
    weights = {name: (value * 1.25).detach() for name, value in student.named_parameters()}
    result = torch.func.functional_call(student, weights, (photo(),))
    averaged_by_hand = copy.deepcopy(student)
    averaged_by_hand.load_state_dict(weights)
    assert torch.equal(result, averaged_by_hand(photo()))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda student: pickle.loads(pickle.dumps(student))])
def test_copies_are_networks_of_their_own(duplicate):
    student = make_student()
    expected = student(photo())
    other = duplicate(student)
    averaged(student)
    assert torch.equal(other(photo()), expected)


# ---- layers that are more than their weights -----------------------------------------------------------------------


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("conv", CONVS, ids=str)
def test_the_hooks_of_every_layer_run(conv, training):
    student = make_student(**conv).train(training)
    seen = set()
    for name, layer in layers(student).items():
        layer.register_forward_hook(lambda *_, name=name: seen.add(name))
    expected = again(student).train(training)(photo())
    torch.testing.assert_close(student(photo()), expected, **CLOSE)
    assert seen == set(layers(student))


def test_a_hook_that_changes_a_masks_output_has_an_effect():
    student = make_student()
    student.rdan.blocks[0].rda_conv1.mask.register_forward_hook(lambda *args: args[-1] - 100)
    masked = make_student()
    with torch.no_grad():
        masked.rdan.blocks[0].rda_conv1.mask.bias -= 100
    torch.testing.assert_close(student(photo()), masked(photo()), **CLOSE)
    assert not torch.allclose(student(photo()), make_student()(photo()))


def pruned(layer):
    prune.l1_unstructured(layer, "weight", 0.5)


CHANGES = {
    "pruning": pruned,
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "old weight_norm": weight_norm,
    "old spectral_norm": spectral_norm,
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_layers_compute_their_weights_anew(change):
    student = make_student()
    for layer in layers(student).values():
        change(layer)
    student.train()(photo()).mean().backward()
    assert all(p.grad is not None for p in student.parameters())
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.mul_(1.25)  # the weights that the layers have computed are out of date
    student.eval()
    result, prepared = student(photo()), student.prepare()
    expected = make_student()
    with torch.no_grad():
        for layer, touched in zip(layers(expected).values(), layers(student).values(), strict=True):
            layer.weight.copy_(touched.weight)
            if layer.bias is not None:
                layer.bias.copy_(touched.bias)
    torch.testing.assert_close(result, expected(photo()), **CLOSE)
    torch.testing.assert_close(prepared(photo()), expected.prepare()(photo()).detach(), **CLOSE)


def test_preparing_leaves_the_state_of_spectral_norms_alone():
    student = make_student().train()
    for layer in layers(student).values():
        parametrizations.spectral_norm(layer)
    before = {name: value.clone() for name, value in student.state_dict().items()}
    student.prepare()
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())
    assert all(module.training for module in student.modules())


def test_a_calls_power_iterations_are_one_per_layer():
    student = make_student().train()
    mask = student.rdan.blocks[0].rda_conv1.mask
    calls = []

    class Counted(nn.Module):
        def forward(self, weight):
            calls.append(1)
            return weight

    for layer in layers(student).values():
        parametrize.register_parametrization(layer, "weight", Counted())
    calls.clear()
    student(photo())
    assert len(calls) == len(layers(student))
    assert parametrize.is_parametrized(mask)


def test_adapters_take_part_and_are_not_prepared():
    peft = pytest.importorskip("peft", reason="peft is not installed")
    student = make_student()
    config = peft.LoraConfig(r=2, target_modules=list(layers(student)), init_lora_weights=False)
    adapted = peft.get_peft_model(student, config).eval()
    result = adapted(photo())
    with pytest.raises(ValueError, match="merge adapters into the network first"):
        student.prepare()
    adapted.train()(photo()).mean().backward()
    assert all(p.grad is not None for p in adapted.parameters() if p.requires_grad)
    merged = adapted.eval().merge_and_unload()
    torch.testing.assert_close(result, merged(photo()), **CLOSE)
    torch.testing.assert_close(merged.prepare()(photo()), merged(photo()).detach(), **CLOSE)
    assert not torch.allclose(result, make_student()(photo()))


def test_hooks_are_not_left_out_in_silence():
    student = make_student()
    handle = student.rdan.blocks[0].conv1.register_forward_hook(lambda *args: args[-1] * 2)
    with pytest.raises(ValueError, match=r"^rdan.blocks.0.conv1 has hooks, which a prepared network would not run"):
        student.prepare()
    handle.remove()
    seen = []
    student.den.register_forward_hook(lambda *_: seen.append(1))  # a prepared student calls its DEN
    student.prepare()(photo())
    assert seen


@pytest.mark.parametrize("name", ["padding_mode", "dilation"])
def test_other_settings_of_convolutions_are_not_left_out_in_silence(name):
    student = make_student()
    before = student.den(photo())
    convs = [part for part in student.den.convs if isinstance(part, nn.Conv2d)]
    for conv in convs:
        if name == "padding_mode":
            conv.padding_mode = "reflect"
        else:
            conv.dilation = conv.padding = (2, 2)
    after = student.den(photo())
    assert not torch.allclose(before, after)
    torch.testing.assert_close(prepared_den(student.den)(photo()), after, **CLOSE)  # it calls such layers
    student.rdan.blocks[0].conv1.padding_mode = "circular"
    with pytest.raises(ValueError, match=r"padding_mode=circular\), but prepare\(\) can only read layers with the"):
        student.prepare()


def test_the_activation_of_kernels_is_not_left_out_in_silence():
    student = make_student()
    next(part for part in student.rdan.modules() if isinstance(part, RDAConv)).kernel[1] = nn.LeakyReLU(0.5)
    with pytest.raises(ValueError, match=r"LeakyReLU\(negative_slope=0.5\), but prepare\(\) can only read"):
        student.prepare()


def test_the_slope_of_a_dens_activations_is_heeded():
    student = make_student()
    for part in student.den.convs:
        if isinstance(part, nn.LeakyReLU):
            part.negative_slope = 0.9
    torch.testing.assert_close(prepared_den(student.den)(photo()), student.den(photo()), **CLOSE)


def test_dynamically_quantized_linear_layers_are_called():
    if not torch.backends.quantized.supported_engines:
        pytest.skip("this torch has no engine for quantized layers")
    student = make_student()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated
        quantized = torch.ao.quantization.quantize_dynamic(student, {nn.Linear})
        result = quantized(photo())
    assert not any(isinstance(part, nn.Linear) for part in quantized.modules())
    # 8 bits per weight and per value that goes in, through a handful of layers
    torch.testing.assert_close(result, student(photo()), rtol=0, atol=0.02)


@pytest.mark.parametrize("network", [make_student(), DEN(width=2), MLN(scale=2, num_feat=4, num_body=1)], ids=type)
def test_symbolic_tracing_is_refused_in_a_sentence(network):
    with pytest.raises(TypeError, match=r"is a Proxy of torch.fx.symbolic_trace, .* with torch.export.export"):
        torch.fx.symbolic_trace(network)


# ---- frozen copies -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prepared", [make_student().prepare(), make_student().rdan.prepare()], ids=["student", "rdan"])
@pytest.mark.parametrize("name", ["load_state_dict", "parameters", "train", "to", "half"])
def test_a_prepared_network_says_that_it_is_frozen(prepared, name):
    with pytest.raises(AttributeError, match=f"no attribute '{name}': a prepared network is a frozen copy. Change"):
        getattr(prepared, name)
    with pytest.raises(AttributeError, match=r"has no attribute 'wieght'$"):
        _ = prepared.wieght


# ---- replicas and shards -------------------------------------------------------------------------------------------


def replica(network):
    """Return what DataParallel makes of a network for one of its devices: tensors in the place of parameters."""
    copies = {part: part._replicate_for_data_parallel() for part in network.modules()}
    for part, made in copies.items():
        made._former_parameters = {}
        for name, child in part._modules.items():
            setattr(made, name, copies[child])
        for name, parameter in part._parameters.items():
            if parameter is None:
                made._parameters[name] = None
                continue
            setattr(made, name, parameter * 1)
            made._former_parameters[name] = getattr(made, name)
    return copies[network]


@pytest.mark.parametrize("conv", CONVS, ids=str)
def test_a_replica_of_data_parallel_computes_the_same(conv):
    student = make_student(**conv)
    made = replica(student)
    assert not list(made.parameters())
    result = made(photo())
    assert torch.equal(result, student(photo()))
    result.sum().backward()
    assert all(p.grad is not None for p in student.parameters())


def test_a_replica_of_the_meta_learning_network():
    mln = MLN(scale=2, num_feat=4, num_body=1)
    images = photo(), torch.rand(2, 3, 10, 12)
    assert torch.equal(replica(mln)(*images), mln(*images))


@pytest.fixture
def process_group(tmp_path):
    """This process alone."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("units", ["blocks", "layers", "whole"])
def test_a_sharded_network_computes_the_same(process_group, units):
    expected, student = make_student(num_blocks=2), make_student(num_blocks=2)
    parts = {
        "blocks": [*student.rdan.blocks, student.den],
        "layers": list(layers(student).values()),
        "whole": [],
    }[units]
    mesh = dist.device_mesh.init_device_mesh("cpu", (1,))
    for part in (*parts, student):
        fully_shard(part, mesh=mesh)
    for network in (student, expected):
        network.train()(photo()).square().mean().backward()
    for name, p in student.named_parameters():
        torch.testing.assert_close(p.grad.full_tensor(), expected.get_parameter(name).grad, **CLOSE)
    torch.testing.assert_close(student(photo()), expected(photo()), **CLOSE)
    with pytest.raises(ValueError, match="has hooks, which a prepared network would not run"):
        student.prepare()


def test_a_sharded_network_in_mixed_precision(process_group):
    rdan = RDAN(scale=2, num_feat=8, num_blocks=1, idr_dim=8)
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16)
    mesh = dist.device_mesh.init_device_mesh("cpu", (1,))
    expected = rdan(photo(), torch.ones(2, 8)).detach()
    for part in (*rdan.blocks, rdan):
        fully_shard(part, mesh=mesh, mp_policy=policy)
    sr = rdan(photo(), torch.ones(2, 8))
    sr.float().mean().backward()
    torch.testing.assert_close(sr.float(), expected, rtol=0, atol=0.05)  # a few roundings of 2^-9 each, values near 1
