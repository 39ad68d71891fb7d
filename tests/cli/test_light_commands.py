"""Help, lists, dry runs and refusals come without torch, whose import takes seconds; seen by modules, not by time."""

import subprocess
import sys

import pytest
from commands import REPOSITORY

CODE = """
import contextlib, io, sys
from mrda.cli import app

for line in sys.stdin.read().splitlines():
    if not line.strip():
        continue
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            app(line.split(), prog_name="mrda")
        except SystemExit as end:
            code = end.code
    heavy = {"torch", "accelerate", "gradio", "matplotlib", "tensorboard", "huggingface_hub"} & set(sys.modules)
    print(f"mrda {line}: exit code {code}, {' '.join(sorted(heavy)) or 'light'}")
    if heavy:
        break
"""

HELP = """
--help
upscale --help
train --help
evaluate --help
info --help
convert --help
export --help
frames --help
degrade --help
app --help
ablate --help
data --help
data prepare --help
config --help
figures --help
figures tsne --help
"""
LISTS = """
train --list
config show demo
config schema
data list
upscale {jpeg} --dry-run
upscale {jpeg} --dry-run -o {out}/enlarged -w mrda-x4 --skip-existing --json
"""
REFUSED = """
upscal
upscale --foo
upscale photo.jpg -o {out} -w nothing
upscale photo.jpg -o {out} -w {jpeg}
upscale photo.jpg
upscale {out}/*.png
upscale {jpeg} -o {jpeg}
upscale {jpeg} -o {out} --tile large
upscale {jpeg} -o {out} --tile 0 --tile-pad 3
upscale {jpeg} -o {out} --suffix a/b
upscale - photo.jpg
upscale - --manifest {out}/done.jsonl
frames --size 320
frames --size 32x18 --smooth 2
frames --size 32x18 -w nothing
upscale s3://bucket/photos -o {out}
upscale {jpeg} --engine ray
train
train --config demoo
train --config demo --set student.step=1
train --config demo --set student.steps=many --dry-run
train --config demo --preset papr
config show demoo
evaluate --data {out}/none -w mrda-x4
evaluate --data {out} -w nothing
evaluate --data {out} -w mrda-x4 --protocol gausian8
evaluate --data {out} -w mrda-x4 --border clam
info nothing
info --model mrda-x5
convert nothing {out}/ours.safetensors
convert mrda-x4 {out}/none/theirs.pth
convert {jpeg} {out}/ours.safetensors
export -o {out} -w nothing
export -o {out} --size 192
export -o {out} --size 0x192
export -o {out} --format torch-export --dtype fp16
degrade {jpeg} --preset demoo
degrade photo.jpg --preset demo
ablate --budget 1 --data {out}/none
ablate --budget 1 --data {jpeg} --config demoo
data download Set55 -o {out}
data prepare {out}/none -o {out}/cache
figures tsne --data {out}/none -o {out}/tsne.png --weights A=nothing
"""


@pytest.mark.parametrize(
    ("lines", "code"), [(HELP, "0"), (LISTS, "0"), (REFUSED, "2")], ids=["help", "lists", "refused"]
)
def test_the_command_line_answers_without_torch(tmp_path, lines, code):
    jpeg = tmp_path / "photo.jpg"
    jpeg.write_bytes(b"\xff\xd8\xff\xe0" + bytes(100))
    asked = lines.replace("{out}", str(tmp_path)).replace("{jpeg}", str(jpeg))
    done = subprocess.run(
        [sys.executable, "-c", CODE], input=asked, capture_output=True, text=True, cwd=REPOSITORY, check=True
    )
    wanted = [f"mrda {line}: exit code {code}, light" for line in asked.splitlines() if line]
    assert done.stdout.splitlines() == wanted
