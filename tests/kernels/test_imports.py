"""The needs of an import, and the modules that it loads; each in a separate process."""

import subprocess
import sys

BLOCKED = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if any(name == blocked or name.startswith(blocked + ".") for blocked in BLOCKED):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocker())
"""


def run(code: str, blocked: tuple[str, ...] = ()) -> str:
    done = subprocess.run(
        [sys.executable, "-c", f"BLOCKED = {blocked!r}\n{BLOCKED}\n{code}"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


WITHOUT_EXTRAS = ("triton", "mrda_kernels._C")


def test_the_operators_work_without_triton_and_the_extension():
    printed = run(
        """
import torch
from mrda_kernels import dispatch, rda_conv2d
x = torch.ones(1, 2, 4, 4, requires_grad=True)
rda_conv2d(x, torch.ones(1, 2, 3, 3), torch.zeros(1, 2, 1, 1)).sum().backward()
print(dispatch.select(None, "cpu").__name__, float(x.grad[0, 0, 1, 1]))
""",
        WITHOUT_EXTRAS,
    )
    # 9 outputs see the pixel, each through a weight of 1 and a mask of 1/2; and the pixel itself
    assert printed == "mrda_kernels.backends.reference 5.5"


def test_torchs_counter_may_be_imported_before():
    printed = run("""
from torch.utils.flop_counter import flop_registry
import torch, mrda_kernels
print(torch.ops.mrda_kernels.rda_conv3x3 in flop_registry)
""")
    assert printed == "True"


def test_every_part_imports_without_triton_and_the_extension():
    parts = ["networks", "degradations.classic", "training", "evaluation", "upscale.upscaler", "config", "cli"]
    run(f"import mrda, mrda_kernels.info, {', '.join(f'mrda.{part}' for part in parts)}", WITHOUT_EXTRAS)


def test_a_student_works_without_triton_and_the_extension():
    run(
        """
import torch
from mrda.networks import MRDAStudent
student = MRDAStudent(num_feat=4, num_blocks=1, den_width=2)
assert student(torch.rand(1, 3, 5, 6)).shape == (1, 3, 20, 24)
""",
        WITHOUT_EXTRAS,
    )


def imported(*modules: str) -> set[str]:
    """Top-level packages that imports bring along, beyond torch's own."""
    return set(
        run(f"""
import torch
before = set(sys.modules)
import {", ".join(modules)}
print(*{{name.split(".")[0] for name in set(sys.modules) - before}})
""").split()
    )


def test_mrda_kernels_needs_torch_alone():
    brought = imported("mrda_kernels") - set(sys.stdlib_module_names)
    assert brought <= {"mrda_kernels", "torch"}


def test_networks_and_degradations_stay_light():
    brought = imported("mrda.networks", "mrda.degradations.classic", "mrda.degradations.kernels")
    assert not brought & {"pydantic", "typer", "rich", "accelerate", "yaml", "PIL", "skimage", "tensorboard"}


def test_a_broken_dependency_of_the_extension_is_not_taken_for_a_missing_extension():
    # an ImportError from within, about some other module, must be seen
    code = """
class Broken:
    def find_spec(self, name, path=None, target=None):
        if name == "mrda_kernels._C":
            raise ModuleNotFoundError("No module named 'helper'", name="helper")
sys.meta_path.insert(0, Broken())
try:
    import mrda_kernels.backends.cpu
except ModuleNotFoundError as error:
    print(error.name)
"""
    assert run(code) == "helper"
