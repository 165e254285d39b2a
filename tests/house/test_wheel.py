"""The wheel, tried from its installed copy: what is not in it works only in a checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest

from router import cli
from tests.house.source import ROOT


class Installed(NamedTuple):
    """A wheel and the environment that it was installed into, and nothing else."""

    wheel: Path
    python: Path
    folder: Path

    def run(self, *arguments: str) -> str:
        """Run its Python outside the checkout; what it depends on comes from our own environment."""
        environ = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COVERAGE", "COV_"))}
        environ["PYTHONPATH"] = sysconfig.get_path("purelib")
        done = subprocess.run(
            [str(self.python), *arguments], cwd=self.folder, env=environ, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(folder), str(ROOT)], check=True)
    (wheel,) = folder.glob("faregate-*.whl")
    venv.create(folder / "env", with_pip=False)
    python = folder / "env" / "bin" / "python"
    subprocess.run([*pip, "--python", str(python), "install", "--no-deps", "--no-index", str(wheel)], check=True)
    return Installed(wheel=wheel, python=python, folder=folder)


def test_the_copy_in_use_is_the_installed_one(installed: Installed) -> None:
    """Otherwise the other tests of this file prove nothing."""
    places = installed.run("-c", "import router, policies; print(router.__file__); print(policies.__file__)").split()
    assert all(Path(place).is_relative_to(installed.folder / "env") for place in places)


def test_all_data_files_are_in_the_wheel(installed: Installed) -> None:
    """Presets, Lua scripts, price book and schema are read at run time."""
    inside = set(zipfile.ZipFile(installed.wheel).namelist())
    data = {
        str(path.relative_to(ROOT))
        for package in ("router", "policies")
        for path in (ROOT / package).rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
    }
    assert data - inside == set()
    assert {Path(name).suffix for name in data} >= {".lua", ".yaml", ".json"}


def test_only_our_packages_and_the_licence_are_in_the_wheel(installed: Installed) -> None:
    """A `tests` or `docs` folder in site-packages would collide with somebody else's."""
    tops = {name.split("/")[0].split("-")[0] for name in zipfile.ZipFile(installed.wheel).namelist()}
    assert tops == {"router", "policies", "faregate"}
    assert any(name.endswith("licenses/LICENSE") for name in zipfile.ZipFile(installed.wheel).namelist())


def test_the_command_is_installed(installed: Installed) -> None:
    """`faregate` is what users type."""
    script = (installed.python.parent / "faregate").read_text(encoding="utf-8")
    assert "from router.cli import main" in script
    assert installed.run("-m", "router", "--version") == f"faregate {cli.__version__}\n"


def test_the_schema_is_that_of_the_checkout(installed: Installed) -> None:
    """Editors read the committed copy, `faregate schema` prints the installed one."""
    assert installed.run("-m", "router", "schema") == (ROOT / "config" / "router.schema.json").read_text(encoding="utf-8")


def test_a_configuration_can_be_checked(installed: Installed) -> None:
    """That reads presets, prices and policies from the installed copy."""
    (installed.folder / "router.yaml").write_text("version: 1\nproviders: [sim]\nmodels: {small: sim/small-edge}\n", encoding="utf-8")
    installed.run("-m", "router", "check", "router.yaml")


def test_a_price_can_be_looked_up(installed: Installed) -> None:
    """The price book is data of the package."""
    script = "from router.prices import lookup; print(lookup('openai', 'gpt-4o-mini').price.rates.input > 0)"
    assert installed.run("-c", script) == "True\n"
