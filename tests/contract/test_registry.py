"""Finding methods: quickly, without strangers' code, and with one sentence where that code is broken."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from benchmark.contract.method import Hparams, MethodCard
from benchmark.contract.registry import listed_methods, load_method, origin_of, source_digest, without_space
from benchmark.contract.tracks import Track
from benchmark.errors import ContractViolation, UnknownName
from benchmark.records.canonical import sha256_file

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "diffusers", "transformers", "peft", "datasets", "pandas", "scipy", "sklearn", "fairlearn")


def answer(code: str, *paths: Path) -> Any:
    """Run code in a fresh interpreter; it answers by calling ``say(value)``."""
    head = f"""
import json, sys
sys.path[:0] = {[str(p) for p in paths]!r}
def say(value):
    sys.stdout.write(json.dumps(value) + "\\n")
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", head + textwrap.dedent(code)],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# --- what is imported ----------------------------------------------------------------------------------------------


LIGHT = {
    "the public API": "import genbias_bench",
    "its contract": "genbias_bench.Method, genbias_bench.ImageSet, genbias_bench.Budget, genbias_bench.Track",
    "listing": "from benchmark.contract.registry import listed_methods; assert len(listed_methods()) >= 4",
    "adapters": """
from benchmark.contract.registry import load_method, resolve_hparams
for name, listed in listed_methods().items():
    if listed.in_tree:
        resolve_hparams(load_method(name), {})
""",
    "a card": "from benchmark.tasks.catalog import find_card; find_card('colorized-digits').check_level('.95')",
    "a manifest and its pixels": """
from benchmark.tasks.catalog import load_task
task = load_task('colorized-digits')
assert task.pin_state(task.manifest('0.95', 0)) == 'pinned'
assert len(task.render(task.manifest('0.95', 0).splits['validation'])) == 269
""",
    "records": "import benchmark.records.results, benchmark.records.store, benchmark.records.provenance",
}


def test_names_cards_and_splits_need_no_heavy_library() -> None:
    steps = "".join(
        f"{code}\nloaded[{what!r}] = [m for m in {HEAVY!r} if m in sys.modules]\n" for what, code in LIGHT.items()
    )
    assert answer(f"loaded = {{}}\n{steps}say(loaded)") == {what: [] for what in LIGHT}


def test_listing_imports_no_method() -> None:
    code = """
    from benchmark.contract.registry import listed_methods
    listed_methods()
    say([m for m in sys.modules if m.startswith("methods.")])
    """
    assert answer(code) == []


# --- in-tree methods -----------------------------------------------------------------------------------------------


def test_a_file_name_is_a_method_s_name() -> None:
    in_tree = {listed.name for listed in listed_methods().values() if listed.in_tree}
    files = {p.stem.replace("_", "-") for p in (ROOT / "methods").glob("[!_]*.py")}
    assert in_tree == files
    assert "sd-augment" in in_tree


def test_an_unknown_method_comes_with_the_nearest_names() -> None:
    with pytest.raises(UnknownName, match="unknown method 'sd-augmnt'; did you mean 'sd-augment'"):
        load_method("sd-augmnt")
    for name in ("__init__", "sd_augment", "nothing/at-all", ""):
        with pytest.raises(UnknownName, match="genbias-bench list methods"):
            origin_of(name)


def test_a_method_s_origin_is_its_file() -> None:
    origin = origin_of("ffr")
    assert (origin.kind, origin.package, origin.file) == ("in-tree", "genbias-bench", ROOT / "methods" / "ffr.py")
    for name in ("erm", "group-dro", "dfr", "resampling"):
        assert source_digest(name) == sha256_file(ROOT / "methods" / f"{name.replace('-', '_')}.py")


SPACE = """        space={
            "upweight": (5, 100, "log"),  # as in the paper
            "loss": ["erm", "resampling"],
        },
"""
CARD = """class X:
    card = MethodCard(
        name="x",
%s        version=1,
    )
"""


@pytest.mark.parametrize("space", [SPACE, '        space={"upweight": (5, 100)},\n'])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_what_is_tuned_is_no_part_of_a_method_s_source(space: str, end: str) -> None:
    plain = (CARD % "").replace("\n", end).encode()
    assert without_space(plain) == plain
    assert without_space((CARD % space).replace("\n", end).encode()) == plain


@pytest.mark.parametrize(
    "source",
    [
        'x = MethodCard(name="x", space={"a": (1, 2)}, version=1)\n',
        'x = MethodCard(\n    name="x", space={"a": (1, 2)},\n)\n',
        'x = MethodCard(\n    space={"a": (1, 2)}, version=1,\n)\n',
        "x = MethodCard(\n    space=SPACE,\n)\n",
        'x = MethodCard(\n    space={"a": run()},\n)\n',
        'x = MethodCard(\n    space={"a": [y := 1, 2]},\n)\n',
        'x = tools.train(\n    space={"a": (1, 2)},\n)\n',
        "x = MethodCard(\n    space=(1,\n",
        "\0",
    ],
)
def test_nothing_that_runs_is_left_out_of_a_method_s_source(source: str) -> None:
    assert without_space(source.encode()) == source.encode()


def test_a_method_s_digest_stays_when_its_space_moves(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "methods", tmp_path / "methods")
    file = tmp_path / "methods" / "jtt.py"
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace('"upweight": (5, 100, "log"),', '"upweight": (5, 1000, "log"),'), encoding="utf-8")
    assert file.read_text(encoding="utf-8") != text
    assert answer(DIGESTS, tmp_path)[1]["jtt"] == source_digest("jtt") != sha256_file(file)


DIGESTS = """
from benchmark.contract.registry import listed_methods, origin_of, source_digest
names = sorted(name for name, listed in listed_methods().items() if listed.in_tree)
say([str(origin_of("lora").file), {name: source_digest(name) for name in names}])
"""


def test_a_method_s_digest_moves_with_the_files_of_its_base_classes(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "methods", tmp_path / "methods")
    file, before = answer(DIGESTS, tmp_path)
    assert Path(file) == tmp_path / "methods" / "lora.py"
    assert before == {name: source_digest(name) for name in before}
    with (tmp_path / "methods" / "_fine_tuned.py").open("a") as shared:
        shared.write("# another line\n")
    after = answer(DIGESTS, tmp_path)[1]
    moved = {name for name in before if before[name] != after[name]}
    assert moved == {"lora", "dreambooth", "clustered-dreambooth"}
    assert len({after[name] for name in moved}) == 3


@pytest.mark.parametrize("name", ["", "FFR", "my_method", "a/b", "-a", "ä", "a b", "a\n"])
def test_a_card_refuses_names_that_identities_cannot_hold(name: str) -> None:
    with pytest.raises(ContractViolation, match="must be lower-case letters, digits and hyphens"):
        MethodCard(name, 1, "x", "x", Track.NONE, ("x",))


def test_a_card_s_version_starts_at_one() -> None:
    with pytest.raises(ContractViolation, match="version 0 must be at least 1"):
        MethodCard("x", 0, "x", "x", Track.NONE, ("x",))


def test_a_card_resolves_track_and_stages_by_value_or_function() -> None:
    class Two(Hparams):
        twice: bool = False

        def track(self) -> Track:
            return Track.TRAIN if self.twice else Track.NONE

        def stages(self) -> tuple[str, ...]:
            return ("one", "two") if self.twice else ("one",)

    by_function = MethodCard("x", 1, "x", "x", Two.track, Two.stages, Two)
    assert (by_function.track_of(Two()), by_function.stages_of(Two())) == (Track.NONE, ("one",))
    assert (by_function.track_of(Two(twice=True)), by_function.stages_of(Two(twice=True))) == (
        Track.TRAIN,
        ("one", "two"),
    )
    by_value = MethodCard("x", 1, "x", "x", Track.VALIDATION_TRAINS, ("one",))
    assert (by_value.track_of(Hparams()), by_value.stages_of(Hparams())) == (Track.VALIDATION_TRAINS, ("one",))


# --- plug-ins ------------------------------------------------------------------------------------------------------

ADAPTER = """
from genbias_bench import Hparams, Method, MethodCard, Stage, Track

class Copycat(Method):
    card = MethodCard(name="copycat", version=3, summary="Train.", source="x", track=Track.NONE, stages=("real",))

    def fit(self, data, tools, hparams):
        yield Stage("real", tools.train(data.train))
"""


def install(folder: Path, points: dict[str, str], modules: dict[str, str], package: str = "their-methods") -> Path:
    """Lay out an installed distribution: modules, and the metadata that an installer would write."""
    info = folder / f"{package.replace('-', '_')}-1.2.3.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.2.3\n")
    lines = "".join(f"{name} = {target}\n" for name, target in points.items())
    (info / "entry_points.txt").write_text(f"[genbias_bench.methods]\n{lines}")
    for name, text in modules.items():
        (folder / f"{name}.py").write_text(text)
    return folder


SHOW = """
from benchmark.contract.registry import listed_methods, load_method, origin_of, source_digest
from benchmark.errors import GenBiasError
name = "their-methods/copycat"
listed = listed_methods()[name]
before = [m for m in sys.modules if m.startswith("their_")]
try:
    method, origin = load_method(name), origin_of(name)
    say([before, listed.in_tree, method.card.id, origin.kind, origin.package, origin.version, origin.file.name,
         source_digest(name)])
except GenBiasError as error:
    say([before, listed.in_tree, type(error).__name__, str(error)])
"""


@pytest.mark.parametrize("target", ["their_adapter:Copycat", "their_adapter"])
def test_a_plug_in_is_named_by_its_package_and_not_imported_before_it_is_used(tmp_path: Path, target: str) -> None:
    folder = install(tmp_path, {"copycat": target}, {"their_adapter": ADAPTER})
    digest = sha256_file(folder / "their_adapter.py")
    expected = [[], False, "copycat@3", "plug-in", "their-methods", "1.2.3", "their_adapter.py", digest]
    assert answer(SHOW, folder) == expected


BROKEN = [
    ("m:Copycat", "import no_such_module", "ModuleNotFoundError.*no_such_module"),
    ("m:Copycat", "raise RuntimeError('no licence')", "RuntimeError.*no licence"),
    ("m:Copycat", "def broken(:", "SyntaxError"),
    ("m_gone:Copycat", ADAPTER, "ModuleNotFoundError.*m_gone"),
    ("m:Missing", ADAPTER, "exactly one Method class, found 0"),
    ("m:Track", ADAPTER, "exactly one Method class, found 0"),
    ("m", ADAPTER + "\nclass Second(Copycat):\n    pass\n", "exactly one Method class, found 2"),
    ("m:Copycat", ADAPTER.replace('"copycat"', '"other"'), "must be named 'copycat'"),
    ("m:Copycat", ADAPTER.replace("    card = MethodCard", "    carte = MethodCard"), "must be named 'copycat'"),
    ("m:Copycat", ADAPTER.replace("    card = MethodCard(", "    card = dict("), "must be named 'copycat'"),
    ("m:Copycat", ADAPTER.replace("def fit", "def fitt"), r"must define fit\(data, tools, hparams\)"),
    ("m:Copycat", ADAPTER.replace("version=3", "version=0"), "version 0 must be at least 1"),
]


@pytest.fixture(scope="module")
def answers_of_broken_plug_ins(tmp_path_factory: pytest.TempPathFactory) -> list[list[Any]]:
    """Install every broken plug-in as a package of its own and load all of them in one interpreter."""
    folders = []
    for k, (target, text, _) in enumerate(BROKEN):
        module = f"their_{k}_m"
        points, folder = {"copycat": target.replace("m", module, 1)}, tmp_path_factory.mktemp("broken")
        folders.append(install(folder, points, {module: text}, f"package-{k}"))
    code = f"""
    from benchmark.contract.registry import listed_methods, load_method
    from benchmark.errors import GenBiasError
    listed, found = listed_methods(), []
    before = [m for m in sys.modules if m.startswith("their_")]
    for k in range({len(BROKEN)}):
        try:
            load_method(f"package-{{k}}/copycat")
        except GenBiasError as error:
            found.append([before, type(error).__name__, str(error)])
    say(found)
    """
    found: list[list[Any]] = answer(code, *folders)
    return found


@pytest.mark.parametrize("case", range(len(BROKEN)))
def test_a_broken_plug_in_is_one_sentence_with_its_cause(
    answers_of_broken_plug_ins: list[list[Any]], case: int
) -> None:
    imported_by_listing, kind, message = answers_of_broken_plug_ins[case]
    assert (imported_by_listing, kind) == ([], "ContractViolation")
    assert re.search(BROKEN[case][2], message), message


def test_a_broken_plug_in_breaks_no_other_method(tmp_path: Path) -> None:
    folder = install(tmp_path, {"broken": "their_adapter:X"}, {"their_adapter": "raise RuntimeError('no')"})
    code = """
    from benchmark.contract.registry import listed_methods, load_method
    say([sorted(n for n in listed_methods() if "/" in n), load_method("erm").card.id])
    """
    assert answer(code, folder) == [["their-methods/broken"], "erm@1"]


def test_a_plug_in_cannot_take_an_in_tree_name(tmp_path: Path) -> None:
    folder = install(
        tmp_path, {"erm": "their_adapter:Copycat"}, {"their_adapter": ADAPTER.replace('"copycat"', '"erm"')}
    )
    code = """
    from benchmark.contract.registry import load_method, origin_of
    say([origin_of("erm").kind, origin_of("their-methods/erm").kind, load_method("erm").card.version])
    """
    assert answer(code, folder) == ["in-tree", "plug-in", 1]


def test_two_packages_may_use_one_name(tmp_path: Path) -> None:
    first = install(tmp_path / "a", {"copycat": "their_adapter:Copycat"}, {"their_adapter": ADAPTER})
    second = install(tmp_path / "b", {"copycat": "other_adapter:Copycat"}, {"other_adapter": ADAPTER}, "other-methods")
    code = """
    from benchmark.contract.registry import listed_methods
    say(sorted(n for n in listed_methods() if "/" in n))
    """
    assert answer(code, first, second) == ["other-methods/copycat", "their-methods/copycat"]
