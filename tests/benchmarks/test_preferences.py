import json
import subprocess
import sys

import pytest
from synthetic import absent, gpu_record, record

from benchmarks import preferences
from benchmarks.preferences import backend_of, main, ranking
from benchmarks.preferences import preferences as rows_of

SMALL, LARGE = (1, 64, 8, 8), (1, 64, 80, 80)


def test_backends_are_ranked_by_the_geometric_mean_of_their_times():
    # a sum of times would put "a" first, which is the faster one where times are long
    assert ranking([{"a": 8.0, "b": 1.0}, {"a": 100.0, "b": 400.0}]) == ["b", "a"]
    # a mean of ratios would put "b" first, which is never much slower
    assert ranking([{"a": 1.0, "b": 3.2}, {"a": 1.0, "b": 3.2}, {"a": 9.0, "b": 1.0}]) == ["a", "b"]
    assert ranking([{"a": 2.0, "b": 1.0}, {"a": 100.0, "b": 400.0}]) == ["a", "b"]


def test_a_backend_that_failed_somewhere_is_left_out_and_a_shape_without_any_time_is_not_counted():
    assert ranking([{"a": 1.0, "b": 2.0}, {"a": None, "b": 2.0}, {"b": None}]) == ["b"]
    assert ranking([{"a": 1.0, "b": 2.0}, {"b": 2.0}]) == ["b"]
    assert ranking([{"a": None}]) == []


def test_each_kind_of_call_has_a_row():
    records = [
        gpu_record(f"mrda_kernels_{name}", ms, shape=shape, layout=layout, mode=mode)
        for layout in ("nchw", "nhwc")
        for mode in ("forward", "forward_backward")
        for shape in (SMALL, LARGE)
        for name, ms in (("cuda", 1.0), ("triton", 2.0 if layout == "nchw" else 0.5))
    ]
    rows = rows_of([records])
    identity = {"device": "cuda", "processor": "NVIDIA X1", "dtype": "float32"}
    assert rows == [
        {**identity, "layout": layout, "mode": mode, "backends": order}
        for layout, order in (("nchw", ["cuda", "triton"]), ("channels_last", ["triton", "cuda"]))
        for mode in ("forward", "forward_backward")
    ]


def test_only_plain_calls_of_the_operator_on_a_named_backend_count():
    records = [
        gpu_record("mrda_kernels_cuda", 1.0),
        gpu_record("mrda_kernels_triton", 2.0),
        gpu_record("mrda_kernels", 0.1, backend="triton"),
        gpu_record("released", 0.1),
        gpu_record("copy", 0.1),
        gpu_record("mrda_kernels_triton", 0.1, launch="graph"),
        gpu_record("mrda_kernels_triton", 0.1, op="rdab"),
    ]
    assert [row["backends"] for row in rows_of([records])] == [["cuda", "triton"]]


@pytest.mark.parametrize(
    ("made", "backend"),
    [
        (record("mrda_kernels", 1.0), "cpu"),
        (record("mrda_kernels_reference", 1.0), "reference"),
        (gpu_record("mrda_kernels", 1.0), None),
        (gpu_record("mrda_kernels_cuda", 1.0), "cuda"),
        (record("released", 1.0), None),
    ],
)
def test_backend_of_a_record(made, backend):
    assert backend_of(made) == backend


def test_a_failed_backend_gives_way():
    records = [gpu_record("mrda_kernels_cuda", 1.0), gpu_record("mrda_kernels_triton", 2.0)]
    failing = [
        absent(gpu_record("mrda_kernels_cuda", 1.0, shape=SMALL)),
        gpu_record("mrda_kernels_triton", 2.0, shape=SMALL),
    ]
    assert [row["backends"] for row in rows_of([records + failing])] == [["triton"]]


def test_command_takes_the_operators_files_of_a_folder_and_names_its_sources(tmp_path):
    folder, output = tmp_path / "results", tmp_path / "preferences.json"
    folder.mkdir()
    (folder / "b.json").write_text(json.dumps([record("mrda_kernels", 1.0), record("mrda_kernels_reference", 2.0)]))
    (folder / "a.json").write_text(json.dumps([gpu_record("mrda_kernels_cuda", 1.0)]))
    (folder / "block.json").write_text(json.dumps([record("mrda_kernels", 1.0, op="rdab")]))
    (folder / "demo.json").write_text("{}")
    main([str(folder), "--output", str(output)])
    table = json.loads(output.read_text())
    assert table["sources"] == ["a.json", "b.json"]
    assert [row["backends"] for row in table["rows"]] == [["cuda"], ["cpu", "reference"]]


@pytest.mark.parametrize("content", ["not JSON", json.dumps([record("released", 1.0)])])
def test_files_without_times_of_backends_are_refused_and_nothing_is_written(tmp_path, content, capsys):
    path, output = tmp_path / "speed.json", tmp_path / "preferences.json"
    path.write_text(content)
    with pytest.raises(SystemExit) as end:
        main([str(path), "--output", str(output)])
    assert end.value.code == 2
    assert not output.exists()


def test_dispatch_reads_what_is_written(tmp_path):
    path, output = tmp_path / "speed.json", tmp_path / "preferences.json"
    times = {"mrda_kernels": 2.0, "mrda_kernels_reference": 1.0}
    path.write_text(json.dumps([record(name, ms, layout="nhwc") for name, ms in times.items()]))
    preferences.write([path], output)
    code = f"""
import pathlib
from mrda_kernels import dispatch
dispatch.PREFERENCES = pathlib.Path({str(output)!r})
for layout in ("channels_last", "nchw"):
    print(*dispatch.order("cpu", dispatch.Kind("float32", layout, "forward")))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split("\n")[:2] == ["reference cpu", "cpu reference"], done.stderr
