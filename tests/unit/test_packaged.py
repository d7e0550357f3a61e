"""Names of what comes with the package: the same on every machine, and refused where it is not there."""

import shutil
from pathlib import Path

import pytest

from actors.models import packaged
from actors.models.loading import fetch
from pipeline.errors import ModelError


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A package that holds one set of weights."""
    folder = tmp_path / "toy_data" / "model"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    from safetensors.numpy import save_file

    save_file({}, folder / "model.safetensors")
    monkeypatch.setattr(packaged, "ROOT", tmp_path)
    return folder


def test_a_name_is_found_where_the_package_lies(installed, tmp_path):
    assert packaged.folder_of("package:toy/model") == installed
    before = fetch("package:toy/model", "", weights=True)
    assert (before.name, before.folder) == ("package:toy/model", installed)
    shutil.copytree(installed, tmp_path / "copy")
    assert fetch(str(tmp_path / "copy"), "", weights=True).revision == before.revision


def test_other_folders_stay_as_they_are():
    assert packaged.folder_of("~/models/one") == Path("~/models/one").expanduser()
    assert packaged.folder_of(Path("/models/one")) == Path("/models/one")


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("name", ["package:", "package:toy", "package:toy/other", "package:../toy/model"])
def test_what_is_not_there_is_refused_with_what_is(name):
    with pytest.raises(ModelError, match=r"expected one of package:toy/model, or a folder"):
        packaged.folder_of(name)
    with pytest.raises(ModelError, match="no such weights"):
        fetch(name, "", weights=False)
