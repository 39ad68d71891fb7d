"""The model of the CUDA kernels' time: what it reads from machine code, and what it makes of that."""

import json
from dataclasses import replace

import pytest
from synthetic import record

from benchmarks import gpu_model
from benchmarks.gpu_model import Kernel, Use

# A row loop that may leave out a copy, and that leaves for a loop of its own where the vote says so.
CODE = dict(
    enumerate(
        """
        MOV R1, c[0x0][0x28]
        @!P0 BRA 0x3
        LDGSTS.E.BYPASS.128 [R1], [R2.64]
        @!PT LDS RZ, [RZ]
        HMMA.16816.F32.BF16 R4, R8, R12, R4
        LDS.64 R4, [R3]
        @P1 BRA 0xa
        @P2 STG.E.128 [R2.64], R4
        BRA.U UP0, 0x0
        BRA 0xc
        FADD R4, R4, R5
        @P3 BRA 0xa
        @!P4 BRA 0x1
        EXIT
        """.strip().splitlines()
    )
)
CODE = {at: text.strip() for at, text in CODE.items()}
SAID = (
    "ptxas info    : Compiling entry function '_Z4rowsI{}' for 'sm_90'\n"
    "    16 bytes stack frame, 4 bytes spill stores, 8 bytes spill loads\n"
    "ptxas info    : Used 40 registers, used 1 barriers\n"
)
KERNEL = Kernel("forward", "bfloat16", "rows", "rowsIf", 16, passes=10**6, moved=10**6, shared_bytes=99, budget=1.0)


def test_a_pass_of_the_row_loop_is_the_way_without_jumps():
    assert gpu_model.row_loop(CODE) == [CODE[at] for at in (1, 2, 3, 4, 5, 6, 7, 8, 9, 12)]


# What is rare stands before what is usual, and has a loop.
RARE_FIRST = dict(
    enumerate(
        (
            "LDS.64 R4, [R3]",
            "@!P1 BRA 0x5",
            "LDG.E.U16 R5, [R2.64]",
            "@P2 BRA 0x2",
            "BRA 0x6",
            "STG.E.128 [R2.64], R4",
            "@!P4 BRA 0x0",
        )
    )
)


def test_a_pass_of_the_row_loop_goes_through_no_other_loop():
    assert gpu_model.row_loop(RARE_FIRST) == [RARE_FIRST[at] for at in (0, 1, 5, 6)]


def test_registers_and_local_memory_are_read():
    assert gpu_model.uses(SAID.format("f")) == {"_Z4rowsIf": Use(registers=40, local=28)}


def test_the_busiest_part_of_the_gpu_rules():
    loop = gpu_model.row_loop(CODE)
    issue = 1e3 * 10**6 * len(loop) / gpu_model.ISSUE
    assert sum(map(gpu_model.shared_bytes, loop)) == 512 + 256
    shared = 1e3 * 10**6 * (512 + 256) / gpu_model.SHARED
    assert gpu_model.predict(KERNEL, [loop]) == pytest.approx(max(issue, shared) / gpu_model.ISSUE_SHARE)
    products = [CODE[4]] * 9
    tensor = 1e3 * 10**6 * 9 * 6.4 / gpu_model.SCHEDULERS
    assert gpu_model.predict(KERNEL, [products]) == pytest.approx(tensor / gpu_model.ISSUE_SHARE)


def test_loops_of_a_kernel_add_up():
    assert gpu_model.loop_of(CODE, products=1) == [CODE[at] for at in range(9)]
    products = [CODE[4]] * 9
    kernel = replace(KERNEL, loops=((9, 1000), (9, 3000)))
    seconds = gpu_model.busy_seconds(products, 4000)
    assert gpu_model.predict(kernel, [products, products]) == pytest.approx(1e3 * seconds / gpu_model.ISSUE_SHARE)


def test_records_and_table(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(gpu_model, "KERNELS", (KERNEL,))
    monkeypatch.setattr(gpu_model, "find_cuobjdump", lambda: tmp_path)
    monkeypatch.setattr(gpu_model.setup(), "find_nvcc", lambda: "nvcc")
    said = SAID.format("f") + SAID.format("d")
    monkeypatch.setattr(gpu_model, "compile_sources", lambda *_: [(tmp_path / "rows.cubin", said)])
    monkeypatch.setattr(gpu_model, "disassemble", lambda cubin, names: dict.fromkeys(names, CODE))
    keys = {"device": "cuda", "dtype": "bfloat16", "layout": "nhwc", "shape": list(KERNEL.shape)}
    (tmp_path / "times.json").write_text(json.dumps([record("mrda_kernels", 0.3, launch="eager", **keys)]))
    gpu_model.main(["--json", str(tmp_path / "model.json"), "--measured", str(tmp_path / "times.json")])
    found = json.loads((tmp_path / "model.json").read_text())
    assert [r["arch"] for r in found] == ["sm_80", "sm_90", "sm_100"]
    assert [r["measured_ms"] for r in found] == [None, 0.3, None]
    assert found[1]["predicted_ms"] > 0
    assert found[0]["predicted_ms"] is None
    nothing = dict.fromkeys(("predicted_ms", "measured_ms", "copy_ms"))
    assert found[1] | nothing | {"arch": "sm_80"} == found[0]
    assert found[1]["copy_ms"] == pytest.approx(1e9 / gpu_model.COPY)
    assert {key: found[0][key] for key in ("instructions_per_element", "registers", "spills", "shared_bytes")} == {
        "instructions_per_element": 10 / 16,
        "registers": 40,
        "spills": 28,
        "shared_bytes": 99,
    }
    assert "predicted 0.0" in capsys.readouterr().out


KINDS = [
    ("forward", "rda_conv2d", "forward", "eager", 0.3),
    ("backward", "rda_conv2d", "forward_backward", "eager", 0.7),  # less the forward's
    ("rda_conv3x3", "rda_conv3x3", "forward", "graph", 0.015),
    ("upscaler", "upscaler", "forward", "graph", 0.04),
]


@pytest.mark.parametrize(("name", "op", "mode", "way", "ms"), KINDS)
def test_every_kernels_time_is_found_among_those_of_the_benchmarks(name, op, mode, way, ms):
    kernel = next(k for k in gpu_model.KERNELS if (k.name, k.dtype) == (name, "bfloat16"))
    keys = {"device": "cuda", "dtype": "bfloat16", "layout": "nhwc", "shape": list(kernel.shape)}
    times = [record("mrda_kernels", 0.3, launch=way, **keys)] if name == "backward" else []
    assert gpu_model.measured(kernel, times) is None
    others = [
        record("mrda_kernels", 9.0, op=other, mode="forward", launch=launch, **keys)
        for other, launch in {(o, w) for _, o, m, w, _ in KINDS} | {(op, "eager" if way == "graph" else "graph")}
        if (other, launch) not in {(op, way), ("rda_conv2d", "eager")}
    ]
    times += [*others, record("mrda_kernels", ms + sum(r["ms"] for r in times), op=op, mode=mode, launch=way, **keys)]
    assert gpu_model.measured(kernel, times) == pytest.approx(ms)


def test_each_gpu_has_the_tile_that_the_kernel_picks_for_it():
    tiles = {k.gpus: k.function for k in gpu_model.KERNELS if (k.name, k.dtype) == ("rda_conv3x3", "float16")}
    assert "TileILi3ELi10E" in tiles["90", "100"]
    assert "TileILi2ELi12E" in tiles["80",]


def test_missing_times_are_one_sentence(capsys):
    with pytest.raises(SystemExit):
        gpu_model.main(["--measured", "nowhere.json"])
    assert "--measured is nowhere.json, but there is no such file" in capsys.readouterr().err


def test_without_nvcc_there_is_no_model(monkeypatch, capsys):
    monkeypatch.setattr(gpu_model.setup(), "find_nvcc", lambda: None)
    with pytest.raises(SystemExit):
        gpu_model.main([])
    assert "the model needs nvcc and cuobjdump" in capsys.readouterr().err
