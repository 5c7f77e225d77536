"""A repository in which something cannot be read: the commands say what, and `list` shows the rest."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from support.artifacts import scale

from builder.config import make_config, pbtxt
from builder.errors import RepositoryError
from builder.publishing import install, roll_back
from builder.record import first_row
from builder.repository import ListedModel, ModelDirectory, Repository

DENIED = PermissionError(13, "Permission denied")


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """Two models: `scale` with versions 1 to 3, and `whole`, which nothing happens to."""
    made = Repository(tmp_path / "models")
    for factor in (2.0, 3.0, 4.0):
        install(made, "scale", scale(factor))
    install(made, "whole", scale())
    (tmp_path / "outside").write_text("outside: 1")
    return made


def listed(repository: Repository) -> ListedModel:
    """What `list` shows of `scale`; it always shows `whole`."""
    found = {model.name: model for model in repository.list_models()}
    assert found["whole"].problem is None
    assert [version.problem for version in found["whole"].versions] == [None]
    return found["scale"]


def deny(monkeypatch: pytest.MonkeyPatch, folder: Path, *, lists: bool = False) -> None:
    """Let the system refuse to list a folder, unless it `lists`, and to look at what is in it, as with mode 444."""
    iterate, stat = Path.iterdir, Path.stat

    def iterdir(path: Path) -> object:
        if path == folder and not lists:
            raise DENIED
        return iterate(path)

    def look(path: Path, *, follow_symlinks: bool = True) -> os.stat_result:
        if folder in path.parents:
            raise DENIED
        return stat(path, follow_symlinks=follow_symlinks)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    monkeypatch.setattr(Path, "stat", look)


def test_a_model_that_may_not_be_listed_has_a_problem(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    deny(monkeypatch, repository.root / "scale")
    assert listed(repository).versions == ()
    assert "cannot be read: Permission denied" in str(listed(repository).problem)
    with pytest.raises(RepositoryError, match="this folder cannot be read: Permission denied"):
        repository.model("scale").versions()


def test_a_model_of_which_only_the_names_may_be_listed_has_problems(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    deny(monkeypatch, repository.root / "scale", lists=True)
    found = listed(repository)
    assert [version.version for version in found.versions] == [1, 2, 3]
    assert all("Permission denied" in str(version.problem) for version in found.versions)


def test_a_version_that_may_not_be_listed_has_a_problem(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    deny(monkeypatch, repository.root / "scale/2")
    problems = [version.problem for version in listed(repository).versions]
    assert problems == [None, "this folder cannot be read: Permission denied", None]
    with pytest.raises(RepositoryError, match="cannot be read: Permission denied"):
        roll_back(repository, "scale", 2)


def replaced(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        path.unlink()
        make(path)

    return damage


def relink(path: Path) -> None:
    path.unlink()
    path.symlink_to("../../whole/1/" + path.name)


def relink_folder(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.symlink_to(folder.parents[1] / "whole/1")


VERSIONS: dict[str, tuple[Callable[[Path], object], str]] = {
    "its manifest is junk": (lambda folder: (folder / "manifest.json").write_text("{"), "Expecting"),
    "its manifest is outside": (lambda folder: relink(folder / "manifest.json"), "it leads out of"),
    "it is a link out": (
        relink_folder,
        "it leads out of",
    ),
}


@pytest.mark.parametrize(("damage", "what"), VERSIONS.values(), ids=VERSIONS)
def test_a_damaged_version_does_not_hide_the_others(
    repository: Repository, damage: Callable[[Path], object], what: str
) -> None:
    damage(repository.root / "scale/2")
    problems = [version.problem for version in listed(repository).versions]
    assert [problem is None for problem in problems] == [True, False, True]
    assert what in str(problems[1])
    with pytest.raises(RepositoryError, match=what):
        roll_back(repository, "scale", 2)


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (lambda path: path.write_text("{"), "not a valid model configuration"),
        (lambda path: path.write_text("new { " + "a { " * 9999), "nested too deeply"),
        (lambda path: path.write_bytes(b"\xff"), "cannot be read: .*decode"),
        (lambda path: path.write_text("\n" * 2_000_000), "only 500.0 kB are read"),
        (lambda path: path.write_text("version_policy { specific { versions: 0 } }"), "version 0, which cannot be one"),
        (
            lambda path: path.write_text("version_policy { specific { versions: -1 } }"),
            "version -1, which cannot be one",
        ),
        (lambda path: path.write_text("version_policy { specific { versions: 9223372036854775808 } }"), "not a valid"),
        (replaced(os.mkfifo), "it is a named pipe"),
        (replaced(Path.mkdir), "it is a folder"),
        (replaced(lambda path: path.symlink_to("/dev/zero")), "it is a device"),
        (replaced(lambda path: path.symlink_to("../../outside")), "it leads out of"),
    ],
    ids=["junk", "deep", "not UTF-8", "2 MB", "version 0", "version -1", "2^63", "pipe", "folder", "zeros", "outside"],
)
def test_a_damaged_config_hides_neither_the_versions_nor_other_models(
    repository: Repository, damage: Callable[[Path], object], what: str
) -> None:
    model = repository.model("scale")
    damage(model.config_path)
    assert [version.version for version in listed(repository).versions] == [1, 2, 3]
    with pytest.raises(RepositoryError, match=what):
        model.served_version()
    with pytest.raises(RepositoryError, match=what):
        repository.prune("scale", keep=1)


def test_a_config_may_be_a_link_in_its_folder_and_have_the_line_ends_of_windows(repository: Repository) -> None:
    path = repository.model("scale").config_path
    (path.parent / "mine.pbtxt").write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    before = repository.model("scale").read_config()
    path.unlink()
    path.symlink_to("mine.pbtxt")
    assert repository.model("scale").read_config() == before


def test_a_version_with_a_number_that_triton_cannot_read_is_none(repository: Repository) -> None:
    (repository.root / "scale" / str(2**63)).mkdir()
    assert repository.model("scale").versions() == (1, 2, 3)


@pytest.mark.parametrize("time_s", [2**40, -(2**40)])
def test_a_file_of_a_time_that_no_calendar_has_is_listed(repository: Repository, time_s: int) -> None:
    os.utime(repository.root / "scale/2/manifest.json", (time_s, time_s))
    assert [version.problem for version in listed(repository).versions] == [None] * 3
    assert all(version.published and version.published.astimezone() for version in listed(repository).versions)


def test_the_size_of_a_version_leaves_out_what_links_lead_to(repository: Repository) -> None:
    folder = repository.root / "scale/2"
    before = listed(repository).versions[1].bytes
    (folder / "all").symlink_to("/usr")
    (folder / "below").mkdir()
    (folder / "below/file").write_bytes(b"12345")
    assert listed(repository).versions[1].bytes == before + 5


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (lambda path: path.write_bytes(b"short"), "has 5 bytes, but"),
        (replaced(os.mkfifo), "it is a named pipe"),
        (lambda path: relink(path), "it leads out of"),
        (lambda path: path.unlink(), "No such file"),
    ],
    ids=["short", "pipe", "outside", "missing"],
)
def test_a_version_whose_model_is_no_file_of_its_own_is_not_served(
    repository: Repository, damage: Callable[[Path], object], what: str
) -> None:
    damage(repository.root / "scale/2/model.onnx")
    with pytest.raises(RepositoryError, match=what):
        roll_back(repository, "scale", 2)
    assert repository.model("scale").served_version() == 3


def test_an_edited_config_with_the_line_ends_of_windows_is_still_changed(tmp_path: Path) -> None:
    made = make_config(scale().manifest, name="scale", version=1, sample=first_row(scale().reference))
    (tmp_path / "scale").mkdir()
    (tmp_path / "scale/config.pbtxt").write_bytes(("# mine\n" + made.text).replace("\n", "\r\n").encode())
    text = ModelDirectory(tmp_path / "scale").read_config()
    config = pbtxt.parse(text, where="here")
    config.max_batch_size = 4
    assert "# mine\n" in pbtxt.edit(text, config, where="here")


def test_a_link_that_leads_back_to_itself_is_no_repository(tmp_path: Path) -> None:
    (tmp_path / "models").symlink_to("models")
    with pytest.raises(RepositoryError, match="leads back to itself"):
        Repository(tmp_path / "models")
