"""The price table: what is shipped is whole, what is edited is checked."""

import pytest
import yaml

from pipeline.errors import ConfigError
from pipeline.prices import SHIPPED, load_prices


@pytest.fixture
def edited(tmp_path):
    """Write the shipped table with changes, and return where."""

    def write(change):
        table = yaml.safe_load(SHIPPED.read_text())
        change(table)
        path = tmp_path / "prices.yaml"
        path.write_text(yaml.safe_dump(table))
        return str(path)

    return write


def test_the_shipped_table_is_whole_and_says_when_it_held():
    prices = load_prices()
    for name in (prices.cpu_machine, prices.gpu_machine):
        machine = prices.machines[name]
        assert 0 < machine.spot_per_h < machine.on_demand_per_h
    assert prices.as_of
    assert "Edit me" in SHIPPED.read_text()


def test_an_edited_table_is_taken(edited):
    place = edited(lambda table: table["machines"]["decode"].update(spot_per_h=0.1))
    assert load_prices(place).machines["decode"].spot_per_h == 0.1


def test_what_is_written_down_is_a_table_again(tmp_path):
    path = tmp_path / "again.yaml"
    path.write_text(yaml.safe_dump(load_prices().dump()))
    assert load_prices(str(path)) == load_prices()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t["machines"]["gpu"].update(spot=1), r"machines\.gpu\.spot: unknown key"),
        (lambda t: t.update(currency="EUR"), "currency: unknown key"),
        (lambda t: t["machines"]["gpu"].pop("spot_per_h"), r"machines\.gpu\.spot_per_h: missing"),
        (lambda t: t["bucket"].update(read_per_1000=-1), r"bucket\.read_per_1000: .* found -1"),
        (lambda t: t.update(cpu_machine="nimbus"), "cpu_machine is 'nimbus', which is none of the machines"),
        (lambda t: t["machines"]["gpu"].update(gpus=0), "which has no GPU"),
    ],
)
def test_mistakes_are_named(edited, change, said):
    with pytest.raises(ConfigError, match=said):
        load_prices(edited(change))


@pytest.mark.parametrize("text", ["a: [", "- 1", ""])
def test_what_is_no_table_is_refused(tmp_path, text):
    path = tmp_path / "prices.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"prices\.yaml: "):
        load_prices(str(path))


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(ConfigError, match="no such file; copy"):
        load_prices(str(tmp_path / "none.yaml"))
