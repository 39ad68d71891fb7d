from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mrda.config import TrainConfig
from mrda.config.load import load_config


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    # Only on the CPU are results equal to the bit.
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")


@pytest.fixture(scope="session")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A textured picture of 40 x 32 px."""
    rows, columns = np.mgrid[:32, :40]
    waves = [np.sin(rows * 0.9 + columns * 0.3), np.cos(columns * 1.1), np.sin(rows * columns * 0.05)]
    path = tmp_path_factory.mktemp("photos") / "waves.png"
    Image.fromarray(np.uint8(127.5 + 127 * np.stack(waves, axis=-1))).save(path)
    return path


@pytest.fixture(scope="session")
def toy(photo: Path) -> TrainConfig:
    return load_config("toy", [f"data.sources=['{photo}']"])


@pytest.fixture
def changed() -> Callable[..., TrainConfig]:
    """Copy a config: a dictionary updates the section of its name, any other value replaces a key."""

    def copy(config: TrainConfig, **changes: object) -> TrainConfig:
        tree = config.model_dump(mode="json")
        for key, value in changes.items():
            tree[key] = {**tree[key], **value} if isinstance(value, dict) else value
        return TrainConfig.model_validate(tree)

    return copy
