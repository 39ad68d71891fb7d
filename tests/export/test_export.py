import copy
import json
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from graphs import exactly, onnx_graphs, student

from mrda.export import ExportError, export_student, files, onnx_format
from mrda.export.torch_format import METADATA
from mrda.networks import DASR, KDSRStudent, MRDATeacher

SAID = {"license": "CC0", "recipe": "{}", "step": "7", "scale": "9"}


@pytest.fixture(scope="module")
def network():
    return student()


@pytest.fixture(scope="module")
def onnx_folder(tmp_path_factory, network):
    folder = tmp_path_factory.mktemp("onnx")
    export_student(network, folder, metadata=SAID)
    return folder


@pytest.fixture(scope="module")
def torch_folder(tmp_path_factory, network):
    folder = tmp_path_factory.mktemp("torch")
    export_student(network, folder, "torch-export", metadata=SAID)
    return folder


def random_images():
    """Images of 1 to 40 pixels a side in batches of 1 to 3; the last ones are thin."""
    generator = np.random.default_rng(0)
    sizes = [(1 + n % 3, *generator.integers(1, 41, 2)) for n in range(9)]
    for batch, height, width in [*sizes, (1, 1, 1), (2, 1, 9), (3, 30, 1), (1, 2, 2), (2, 4, 5)]:
        yield generator.random((batch, 3, height, width), np.float32)


@pytest.mark.slow
def test_onnx_computes_what_the_network_does_at_any_size(network, onnx_folder):
    den, rdan = onnx_graphs(onnx_folder)
    for lr in random_images():
        expected, budget = exactly(network, lr)
        sr = rdan(lr=lr, degradation=den(lr=lr))
        assert sr.dtype == np.float32
        assert sr.shape == expected.shape
        assert abs(sr - expected).max() <= budget, lr.shape


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "format", "size"),
    [(DASR, "onnx", None), (KDSRStudent, "onnx", (9, 7)), (DASR, "torch-export", (9, 7)), (KDSRStudent, "onnx", None)],
)
def test_sisters_are_exported_as_they_compute(kind, format, size, tmp_path):
    torch.manual_seed(0)
    network = kind(scale=2, num_feat=8, num_blocks=2)
    assert 0 < export_student(network, tmp_path, format, size=size) < 1e-4  # which compares


@pytest.mark.slow
def test_torch_export_computes_what_the_network_does_at_any_size(network, torch_folder):
    den, rdan = (torch.export.load(torch_folder / f"{name}.pt2").module() for name in ("den", "rdan"))
    for array in random_images():
        expected, budget = exactly(network, array)
        lr = torch.from_numpy(array)
        with torch.no_grad():
            sr = rdan(lr, den(lr)).numpy()
        assert sr.shape == expected.shape
        assert abs(sr - expected).max() <= budget, array.shape


@pytest.mark.slow
@pytest.mark.parametrize("size", [(20, 33), (2, 3), (1, 7)], ids=str)
def test_onnx_of_a_fixed_size_computes_what_the_network_does(tmp_path, network, size):
    lr = np.random.default_rng(2).random((1, 3, *size), np.float32)
    expected, budget = exactly(network, lr)
    assert export_student(network, tmp_path, size=size) <= 2 * budget  # PyTorch may err to the other side
    den, rdan = onnx_graphs(tmp_path)
    assert abs(rdan(lr=lr, degradation=den(lr=lr)) - expected).max() <= budget
    with pytest.raises(onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument, match="invalid dimensions"):
        den(lr=np.zeros((1, 3, 20, 34), np.float32))


@pytest.mark.slow
def test_onnx_of_a_fixed_size_computes_no_shapes_and_convolves_by_groups(tmp_path, network):
    export_student(network, tmp_path, size=(20, 33))
    for graph in ("den", "rdan"):
        model = onnx.load(tmp_path / f"{graph}.onnx")
        onnx.checker.check_model(model, full_check=True)
        assert not {"Shape", "Gather", "Mod", "If", "Expand"} & {node.op_type for node in model.graph.node}
        ends = [*model.graph.input, *model.graph.output]
        assert all(axis.dim_value > 0 for end in ends for axis in end.type.tensor_type.shape.dim)
    constants = {tensor.name for tensor in model.graph.initializer}
    groups = [
        attribute.i
        for node in model.graph.node
        for attribute in node.attribute
        if node.op_type == "Conv" and node.input[1] not in constants and attribute.name == "group"
    ]
    assert groups.count(8) == 4  # as many as RDA convs


@pytest.mark.slow
def test_torch_export_of_a_fixed_size(tmp_path, network):
    export_student(network, tmp_path, "torch-export", size=(6, 5))
    den, rdan = (torch.export.load(tmp_path / f"{name}.pt2").module() for name in ("den", "rdan"))
    lr = torch.rand(1, 3, 6, 5, generator=torch.Generator().manual_seed(0))
    expected, budget = exactly(network, lr.numpy())
    with torch.no_grad():
        assert abs(rdan(lr, den(lr)).numpy() - expected).max() <= budget


@pytest.mark.slow
def test_tiles_share_the_degradation(network, onnx_folder):
    den, rdan = onnx_graphs(onnx_folder)
    lr = np.random.default_rng(1).random((1, 3, 20, 60), np.float32)
    expected, budget = exactly(network, lr)
    reach = network.rdan.reach
    tile = rdan(lr=np.ascontiguousarray(lr[..., 30 - reach :]), degradation=den(lr=lr))
    assert abs(tile[..., 4 * reach :] - expected[..., 4 * 30 :]).max() <= budget


@pytest.mark.slow
@pytest.mark.parametrize(("format", "size"), [("onnx", (20, 24)), ("onnx", None), ("torch-export", None)], ids=str)
def test_a_den_in_two_graphs_reads_an_image_in_tiles(network, tmp_path, format, size):
    export_student(network, tmp_path, format, size=size, split_den=True)
    assert sorted(path.stem for path in tmp_path.iterdir()) == ["features", "head", "rdan"]
    load = onnx_format.load if format == "onnx" else lambda path: torch.export.load(path).module()
    features, head, _ = (load(path) for path in files(tmp_path, format, split_den=True))
    lr = torch.rand(1, 3, 20, 47, generator=torch.Generator().manual_seed(0))
    start, reach, stride = 20, network.den.reach, network.den.stride
    with torch.no_grad():
        left = features(lr[..., : start + reach].contiguous())[..., : start // stride]
        right = features(lr[..., start - reach :].contiguous())[..., reach // stride :]
        found = head(torch.cat([left, right], dim=3).mean(dim=(2, 3)))
        expected = network.double().den(lr.double())
    network.float()
    layers = 8
    assert abs(found - expected).max() <= 8 * layers * torch.finfo(torch.float32).eps * abs(expected).max()


@pytest.mark.slow
@pytest.mark.parametrize("size", [(20, 33), None], ids=str)
def test_onnx_in_half_precision_is_half_as_large_and_close(network, tmp_path, size):
    for name, dtype in (("whole", torch.float32), ("half", torch.float16)):
        (tmp_path / name).mkdir()
        error = export_student(network, tmp_path / name, size=size, dtype=dtype)
    assert 1e-5 < error < 0.5 / 255
    for graph in ("den", "rdan"):
        model = onnx.load(tmp_path / "half" / f"{graph}.onnx")
        onnx.checker.check_model(model, full_check=True)
        assert {tensor.data_type for tensor in model.graph.initializer} == {onnx.TensorProto.FLOAT16}
        ends = [*model.graph.input, *model.graph.output]
        assert {end.type.tensor_type.elem_type for end in ends} == {onnx.TensorProto.FLOAT}
        assert {entry.key for entry in model.metadata_props} >= {"scale", "reach"}
    halved = sum(tensor.ByteSize() for tensor in model.graph.initializer)
    whole = sum(tensor.ByteSize() for tensor in onnx.load(tmp_path / "whole" / "rdan.onnx").graph.initializer)
    assert halved < 0.6 * whole


def test_a_graph_of_a_fixed_size_that_computes_shapes_is_not_written(tmp_path, network, monkeypatch):
    monkeypatch.setattr(onnx_format, "SHAPE_NODES", onnx_format.SHAPE_NODES | {"ReduceMean"})  # of the den
    with pytest.raises(ExportError, match="the graph of a fixed size has the nodes ReduceMean: nothing is written"):
        export_student(network, tmp_path, size=(4, 5))
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_ncnn_takes_graphs_of_a_fixed_size(tmp_path, network):
    ncnn, pnnx = pytest.importorskip("ncnn"), pytest.importorskip("pnnx")
    export_student(network, tmp_path, size=(20, 33))
    lr = np.random.default_rng(3).random((3, 20, 33), np.float32)
    arrays = [lr]
    for graph in ("den", "rdan"):
        subprocess.run([pnnx.EXEC_PATH, f"{graph}.onnx", "fp16=0"], cwd=tmp_path, capture_output=True, check=True)
        net = ncnn.Net()
        net.load_param(str(tmp_path / f"{graph}.ncnn.param"))
        net.load_model(str(tmp_path / f"{graph}.ncnn.bin"))
        extractor = net.create_extractor()
        for number, array in enumerate(arrays):
            extractor.input(f"in{number}", ncnn.Mat(array))
        arrays.append(extractor.extract("out0")[1].numpy())
    expected, _ = exactly(network, lr[None])
    assert abs(arrays[2] - expected[0]).max() <= 1 / 255


@pytest.mark.slow
def test_onnx_files_say_what_they_hold(onnx_folder):
    session = onnxruntime.InferenceSession(onnx_folder / "rdan.onnx")
    assert [(entry.name, entry.shape) for entry in session.get_inputs()] == [
        ("lr", ["batch", 3, "height", "width"]),
        ("degradation", ["batch", 16]),
    ]
    (output,) = session.get_outputs()
    assert (output.name, output.shape) == ("sr", ["batch", 3, "4*height", "4*width"])
    metadata = session.get_modelmeta().custom_metadata_map
    assert metadata["graph"] == "rdan"
    assert metadata["architecture"] == "MRDAStudent"
    assert metadata["scale"] == "4"
    assert metadata["reach"] == "12"
    assert json.loads(metadata["hyperparameters"])["num_blocks"] == 2
    assert SAID.items() - metadata.items() == {("scale", "9")}  # the network's own entries come first


@pytest.mark.slow
@pytest.mark.parametrize("graph", ["den", "rdan"])
def test_onnx_files_are_of_standard_operators_and_tell_nothing_of_this_machine(onnx_folder, graph):
    model = onnx.load(onnx_folder / f"{graph}.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert {(opset.domain, opset.version) for opset in model.opset_import} == {("", onnx_format.OPSET)}
    assert {node.domain for node in model.graph.node} == {""}
    assert not model.functions
    assert str(sys.prefix).encode() not in (onnx_folder / f"{graph}.onnx").read_bytes()


@pytest.mark.slow
def test_torch_export_files_need_torch_alone(torch_folder):
    script = (
        "import sys\n"
        "sys.modules['mrda'] = sys.modules['mrda_kernels'] = None\n"
        "import json, torch\n"
        "extra = {'" + METADATA + "': ''}\n"
        "den, rdan = (torch.export.load(f'{name}.pt2', extra_files=extra).module() for name in ('den', 'rdan'))\n"
        "lr = torch.rand(2, 3, 9, 7)\n"
        "print(tuple(rdan(lr, den(lr)).shape), *map(json.loads(extra['" + METADATA + "']).get, ('reach', 'license')))\n"
    )
    run = subprocess.run([sys.executable, "-c", script], cwd=torch_folder, capture_output=True, text=True, check=False)
    assert run.stdout == "(2, 3, 36, 28) 12 CC0\n", run.stderr
    for path in torch_folder.iterdir():
        assert str(sys.prefix).encode() not in path.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("format", "options"),
    [
        ("onnx", {"scale": 2, "kernel_size": 5, "mask_channels": 8, "dyn_act": "none"}),
        ("onnx", {"scale": 3, "kernel_size": 1, "mask_input": "F1"}),
        ("onnx", {"conv_type": "dasr_da", "rgb_mean": (0.0, 0.0, 0.0)}),
        ("onnx", {"conv_type": "static", "static_groups": "dense"}),
        ("torch-export", {"scale": 3, "kernel_size": 5, "mask_channels": 8, "mask_input": "F1"}),
        ("torch-export", {"conv_type": "static", "static_groups": "dense"}),
    ],
)
def test_every_kind_of_student(tmp_path, options, format):
    network = student(**options, num_blocks=1)
    _, budget = exactly(network, np.random.default_rng(0).random((3, 3, 24, 17), np.float32))
    assert export_student(network, tmp_path, format) <= 2 * budget  # PyTorch may err to the other side


@pytest.mark.slow
def test_a_network_in_channels_last_is_exported_too(tmp_path):
    assert export_student(student().to(memory_format=torch.channels_last), tmp_path, "torch-export") < 1e-5


@pytest.mark.slow
def test_the_network_stays_as_it_is(tmp_path):
    network = student(num_blocks=1).train().double()
    state = copy.deepcopy(network.state_dict())
    export_student(network, tmp_path, "torch-export")
    assert network.training
    assert all(torch.equal(state[key], tensor) for key, tensor in network.state_dict().items())


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda sr: sr[..., :-1], "the graphs give"),
        (lambda sr: sr + 1e-4, "differ from the network by 0.0001"),
        (lambda sr: sr * torch.nan, "differ from the network by nan"),
    ],
)
def test_graphs_that_differ_are_not_written(tmp_path, network, monkeypatch, spoil, words):
    graphs = {"den": network.den, "rdan": lambda lr, degradation: spoil(network.rdan(lr, degradation))}
    monkeypatch.setattr(onnx_format, "write", lambda program, file, _, facts, *__: file.write(facts["graph"].encode()))
    monkeypatch.setattr(onnx_format, "load", lambda path: graphs[path.read_text()])
    with pytest.raises(ExportError, match=words):
        export_student(network, tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_is_refused(tmp_path, network, monkeypatch):
    with pytest.raises(TypeError, match="network is MRDATeacher, but must be an MRDAStudent"):
        export_student(MRDATeacher(num_feat=4, num_blocks=1, den_width=2, mln_feat=2), tmp_path)
    with pytest.raises(ValueError, match="format is 'tflite', but must be one of onnx, torch-export"):
        export_student(network, tmp_path, "tflite")
    for size, words in (
        ((0, 4), "height of size is 0, but must be at least 1"),
        ((4, 2.0), "width of size is 2.0"),
        ((2048, 2049), "size is 2048x2049, but must have 1 to 4,194,304 pixels: cut larger images into tiles"),
    ):
        with pytest.raises((TypeError, ValueError), match=words):
            export_student(network, tmp_path, size=size)
    for format, dtype in (("onnx", torch.bfloat16), ("torch-export", torch.float16)):
        with pytest.raises(ValueError, match=r"but must be float32, or float16 with the format onnx"):
            export_student(network, tmp_path, format, dtype=dtype)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ModuleNotFoundError, match=r"needs onnxruntime: pip install './mrda\[export\]'"):
        export_student(network, tmp_path)
    assert not list(tmp_path.iterdir())
