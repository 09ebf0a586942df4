"""Where `qwen35 doctor` looks."""

import pytest

from qwen35cli.app.doctor import DoctorOptions, Places


@pytest.fixture
def places(tmp_path):
    names = ("data", "cache", "state", "config.toml", "hub")
    data, cache, state, config, hub = (tmp_path / name for name in names)
    return Places(data=data, cache=cache, state=state, config=config, hub=hub)


@pytest.fixture
def options(places):
    return DoctorOptions(environment={}, places=places)
