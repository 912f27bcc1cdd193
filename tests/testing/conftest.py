"""Wrong adapters as an installed package, seen by this process and by those that it starts."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmark.contract.registry import listed_methods

WRONG = Path(__file__).parent / "wrong"
PACKAGE = "wrong-methods"
REQUIRES = "".join(f"Requires-Dist: {name}\n" for name in ("genbias-bench", "numpy", "torch", "scikit-learn"))


def install(site: Path, package: str, points: dict[str, str]) -> None:
    """Write the metadata that an installer would write."""
    info = site / f"{package.replace('-', '_')}-0.3.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 0.3.0\n{REQUIRES}")
    lines = "".join(f"{name} = {target}\n" for name, target in points.items())
    (info / "entry_points.txt").write_text(f"[genbias_bench.methods]\n{lines}")


@pytest.fixture(scope="session")
def wrong_methods(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Install them all; returns the package's name."""
    site = tmp_path_factory.mktemp("site").resolve()
    files = sorted(WRONG.glob("*.py"))
    for file in files:
        shutil.copy(file, site / f"wrong_{file.name}")
    (site / "wrong_syntax.py").write_text('"""Is no Python."""\n\nclass Wrong(:\n    pass\n')
    points = {file.stem.replace("_", "-"): f"wrong_{file.stem}" for file in files} | {"syntax": "wrong_syntax"}
    install(site, PACKAGE, points)
    sys.path.insert(0, str(site))
    listed_methods.cache_clear()
    yield PACKAGE
    sys.path.remove(str(site))
    listed_methods.cache_clear()


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Path]:
    """Install a project as users do, without a network, into a folder of its own."""
    pytest.importorskip("hatchling", reason="the build back-end is part of the development environment only")
    uv = shutil.which("uv", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    if uv is None:
        pytest.skip("uv is part of the development environment only")

    def install_project(project: Path) -> Path:
        site = tmp_path_factory.mktemp("installed").resolve()
        options = ("--no-deps", "--no-index", "--no-build-isolation", "--python", sys.executable, "--target", str(site))
        subprocess.run([uv, "pip", "install", "--quiet", *options, str(project)], check=True)
        return site

    return install_project
