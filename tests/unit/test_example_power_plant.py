"""The example's plant, picture and command."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from aiomas.cluster import Cluster
from aiomas.cluster.hosts_file import read_hosts
from aiomas.exceptions import ContainerDied
from examples.virtual_power_plant import main as main_module
from examples.virtual_power_plant.agents import NegotiationError
from examples.virtual_power_plant.chart import draw, round_step
from examples.virtual_power_plant.main import Report, main, make_cluster, parse, summary
from examples.virtual_power_plant.plant import Outcome, Plant, block_product, read_target
from examples.virtual_power_plant.progress import Lines, Snapshot, display
from examples.virtual_power_plant.units import HOURS, total

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "examples" / "virtual_power_plant"

FLAT = (1000,) * HOURS
OUTCOME = Outcome(FLAT, (0,) * 12 + (2000,) * 12, (900,) * 6 + (1000,) * 18)


# --- the plant ------------------------------------------------------------------------------------


def test_the_default_target_has_even_blocks_of_four_hours_and_the_same_energy():
    uncontrolled = tuple(range(0, 24_000, 1000))
    target = block_product(uncontrolled)
    assert sum(target) == sum(uncontrolled)
    for start in range(0, HOURS, 4):
        assert len(set(target[start : start + 4])) == 1
    # Half as far from the mean of 11,500 W as the block's own mean.
    assert target[0] == 11_500 + (1500 - 11_500) / 2
    assert target[-1] == 11_500 + (21_500 - 11_500) / 2


def test_the_same_seed_makes_the_same_plant():
    assert Plant.make(12, 1, "winter") == Plant.make(12, 1, "winter")
    assert Plant.make(12, 1, "winter") != Plant.make(12, 2, "winter")


def test_a_plant_starts_uncontrolled_and_asks_for_a_small_gain_each_time():
    plant = Plant.make(12, 1, "winter")
    firsts = [options[0] for options in plant.schedules]
    assert plant.uncontrolled == total(firsts)
    before = Outcome(plant.target, plant.uncontrolled, plant.uncontrolled).distance_before_wh
    assert 1 <= plant.goal.min_gain_wh <= before / 1000


def test_a_plant_that_is_on_target_already_can_still_be_negotiated_about():
    uncontrolled = Plant.make(2, 1, "winter").uncontrolled
    plant = Plant.make(2, 1, "winter", target=uncontrolled)
    assert plant.goal == (uncontrolled, 1)


def test_an_outcome_knows_its_distances():
    assert OUTCOME.distance_before_wh == 24_000
    assert OUTCOME.distance_after_wh == 600
    assert OUTCOME.improvement == 0.975


def test_an_outcome_without_anything_to_improve_is_no_division_by_zero():
    assert Outcome(FLAT, FLAT, FLAT).improvement == 0


def test_an_outcome_is_written_in_kilowatts(tmp_path):
    OUTCOME.write_csv(tmp_path / "result.csv")
    with (tmp_path / "result.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == HOURS
    assert rows[0] == {
        "hour": "0", "target_kw": "1.000", "before_kw": "0.000", "after_kw": "0.900",
    }  # fmt: skip


def test_a_target_is_read_from_a_file_in_kilowatts(tmp_path):
    path = tmp_path / "target.csv"
    path.write_text("hour,kw\n" + "".join(f"{h},{h / 2}\n" for h in range(HOURS)))
    assert read_target(path) == tuple(500 * hour for hour in range(HOURS))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "one row for each hour"),
        ("hour,kw\n0,1\n", "one row for each hour"),
        ("hour,kw\n" + "".join(f"{h},1\n" for h in reversed(range(HOURS))), "in this order"),
        ("time,power\n0,1\n", "needs columns 'hour' and 'kw'"),
        ("hour,kw\n0,much\n", "with a number in each row"),
        ("hour,kw\n0\n", "with a number in each row"),
        ("hour,kw\n0,inf\n", "with a number in each row"),
        ("hour,kw\n0,nan\n", "with a number in each row"),
    ],
)
def test_a_file_that_is_no_target_is_refused(tmp_path, text, complaint):
    path = tmp_path / "target.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=complaint) as caught:
        read_target(path)
    assert str(path) in str(caught.value)


# --- the picture ----------------------------------------------------------------------------------


def test_the_picture_is_well_formed_and_says_what_is_in_it():
    root = ElementTree.fromstring(draw(OUTCOME, 300))
    texts = [element.text or "" for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "Virtual power plant: 300 agents agree on a day" in texts
    assert any("24 kWh" in t and "0.6 kWh" in t and "97.5% less" in t for t in texts)
    for label in ("Target", "Power drawn from the grid (kW)", "Hour of the day", "0:00", "24:00"):
        assert label in texts


def test_the_picture_has_a_line_for_target_before_and_after():
    root = ElementTree.fromstring(draw(OUTCOME, 300))
    lines = list(root.iter("{http://www.w3.org/2000/svg}polyline"))
    assert [len(line.attrib["points"].split()) for line in lines] == [2 * HOURS] * 3


def test_everything_is_drawn_within_the_picture():
    for outcome in (OUTCOME, Outcome(FLAT, (-(10**7),) * HOURS, FLAT), Outcome(FLAT, FLAT, FLAT)):
        root = ElementTree.fromstring(draw(outcome, 2))
        width, height = map(float, root.attrib["viewBox"].split()[2:])
        for line in root.iter("{http://www.w3.org/2000/svg}polyline"):
            for point in line.attrib["points"].split():
                x, y = map(float, point.split(","))
                assert 0 < x < width
                assert 0 < y < height


@pytest.mark.parametrize(
    ("least", "step"), [(0.7, 1), (1, 1), (1.2, 2), (3, 5), (6, 10), (43, 50), (0.03, 0.05)]
)
def test_scales_have_round_numbers(least, step):
    assert round_step(least) == pytest.approx(step)


# --- the command ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--agents", "1"], "--agents: '1' is no whole number of at least 2"),
        (["--agents", "many"], "--agents: 'many' is no whole number of at least 2"),
        (["--containers", "0"], "--containers: '0' is no whole number of at least 1"),
        (["--seed", "-1"], "--seed"),
        (["--day", "autumn"], "invalid choice: 'autumn'"),
        (["--target", "no/such/file"], "--target: no/such/file: No such file or directory"),
        (["--target", __file__], "needs columns 'hour' and 'kw'"),
        (["--hosts", "no/such/file"], "--hosts: no/such/file: No such file or directory"),
        (["--hosts", __file__], f"--hosts: {__file__}, line 1: "),
        (["--colour", "red"], "unrecognized arguments: --colour red"),
    ],
)
def test_a_wrong_option_is_explained_in_one_line(capsys, arguments, complaint):
    with pytest.raises(SystemExit) as caught:
        parse(arguments)
    assert caught.value.code == 2
    message = capsys.readouterr().err
    assert complaint in message
    assert message.count("\n") == 1


def test_a_folder_that_cannot_be_made_is_explained_in_one_line(capsys, tmp_path):
    (tmp_path / "file").touch()
    assert main(["--agents", "2", "--out", str(tmp_path / "file" / "out")]) == 1
    message = capsys.readouterr().err
    assert message.startswith("cannot write to")
    assert message.count("\n") == 1


def test_the_summary_names_agents_containers_messages_seconds_and_distances():
    plant = Plant.make(20, 1, "winter")
    lines = summary(plant, Report(OUTCOME, 12345, 6.78, ["localhost"] * 3)).splitlines()
    assert [line[:16].rstrip() for line in lines] == [
        "agents", "containers", "connections", "messages", "seconds", "distance before",
        "distance after",
    ]  # fmt: skip
    assert lines[0][17:].startswith("20 (")
    assert [line[17:] for line in lines[1:]] == [
        "3", "mutual TLS", "12,345", "6.8", "24.0 kWh", "0.6 kWh (97.5% less)",
    ]  # fmt: skip


def test_the_summary_says_on_which_hosts_the_containers_were():
    plant = Plant.make(20, 1, "winter")
    hosts = ["node1", "node1", "node2"]
    text = summary(plant, Report(OUTCOME, 12345, 6.78, hosts))
    assert "containers       3 (2 on node1, 1 on node2)" in text.splitlines()


@pytest.mark.parametrize(
    ("informed", "state"),
    [
        (0, "no agent has heard of all others yet"),
        (2, "2 of 3 agents have heard of all others"),
        (3, "4.2 kWh from the target"),
    ],
)
def test_progress_says_how_far_the_agents_are(capsys, informed, state):
    with display(10.0) as screen:
        assert isinstance(screen, Lines)  # pytest's standard output is no terminal
        screen.stage("Negotiating")
        screen.show(Snapshot(1.5, 1234, informed, 3, 4.2))
    assert capsys.readouterr().out == f"Negotiating ...\n   1.5 s  1,234 messages, {state}\n"


@pytest.mark.parametrize("error", [NegotiationError("unit 3 failed"), ContainerDied("gone", 0, 1)])
def test_a_failed_negotiation_is_explained_in_one_line(capsys, monkeypatch, tmp_path, error):
    async def fail(*_):
        raise error

    monkeypatch.setattr("examples.virtual_power_plant.main.negotiate", fail)
    assert main(["--agents", "2", "--out", str(tmp_path)]) == 1
    assert capsys.readouterr().err == f"{error}\n"


def run(*arguments, cwd=ROOT):
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, timeout=50,
        check=False,
    )  # fmt: skip


def test_the_command_lets_agents_in_several_processes_agree(tmp_path):
    done = run(str(FOLDER), "--agents", "24", "--containers", "2", "--out", str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    lines = dict(line.split(None, 1) for line in done.stdout.splitlines() if "distance" not in line)
    assert lines["agents"].startswith("24 (")
    assert lines["containers"] == "2"
    assert lines["picture"] == str(tmp_path / "result.svg")
    ElementTree.parse(tmp_path / "result.svg")
    with (tmp_path / "result.csv").open(newline="") as file:
        rows = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]
    before, after = (
        sum(abs(row["target_kw"] - row[when]) for row in rows) for when in ("before_kw", "after_kw")
    )
    assert after < 0.4 * before


STAND_IN = f"""\
hosts = [
    {{host = "node1", containers = 1, address = "127.0.0.1"}},
    {{host = "node2", address = "127.0.0.1", env = {{WHERE = "there"}}}},
]
[command]
prefix = ["env"]
python = "{sys.executable}"
"""
"""Two hosts that are this machine: a command that does nothing takes the place of ssh."""


def test_the_command_runs_on_the_hosts_of_a_file_which_get_its_modules(tmp_path):
    (tmp_path / "hosts.toml").write_text(STAND_IN)
    options = ["--agents", "16", "--hosts", "hosts.toml", "--containers", "3", "--out", "out"]
    # In this folder, nobody finds the modules of the example who has not got them.
    done = run("-P", str(FOLDER), *options, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line.split(None, 1) for line in done.stdout.splitlines()]
    assert ["containers", "3 (1 on node1, 2 on node2)"] in lines
    assert (tmp_path / "out" / "result.csv").exists()


def test_what_the_file_says_counts_unless_an_option_or_the_example_says_it(tmp_path):
    file = tmp_path / "hosts.toml"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "module.py").touch()
    file.write_text(f'{STAND_IN}[cluster]\nsync = ["mine"]\ncontainers = 4\ntransport = "tcp"\n')
    made = []

    class Spy(Cluster):
        def __init__(self, **parameters):
            made.append(parameters)
            super().__init__(**parameters)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(main_module, "Cluster", Spy)
        make_cluster(None, read_hosts(file))
        make_cluster(3, read_hosts(file))
    assert [parameters["containers"] for parameters in made] == [4, 3]
    assert {parameters["transport"] for parameters in made} == {"tls"}
    assert {parameters["sync"] for parameters in made} == {(tmp_path / "mine",)}


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        ("containers = 0", "hosts.toml, line 9: cluster.containers must be a number"),
        ("lease = 2.0", "hosts.toml, line 9: cluster.lease=2.0 must be more than 3 heartbeats"),
    ],
)
def test_what_cannot_be_is_said_with_file_and_line(tmp_path, more, complaint):
    (tmp_path / "hosts.toml").write_text(f"{STAND_IN}[cluster]\n{more}\n")
    done = run(str(FOLDER), "--hosts", "hosts.toml", cwd=tmp_path)
    assert done.returncode == 2
    assert complaint in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_host_that_cannot_be_used_is_reported_and_nothing_is_written(tmp_path):
    (tmp_path / "hosts.toml").write_text(STAND_IN.replace(sys.executable, "/no/python"))
    done = run(str(FOLDER), "--hosts", "hosts.toml", "--out", str(tmp_path / "out"), cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("2 of 2 hosts cannot be used, so nothing was started")
    assert "  node1: node1 has no /no/python that can be run" in done.stderr
    assert not list((tmp_path / "out").iterdir())


def test_the_same_seed_gives_the_same_result_in_one_container_wherever_it_is_run(tmp_path):
    results = []
    for module, cwd in [
        ("examples.virtual_power_plant", ROOT),
        ("virtual_power_plant", ROOT / "examples"),
    ]:
        out = tmp_path / module
        options = ["--agents", "16", "--containers", "1", "--seed", "5", "--out", str(out)]
        done = run("-m", module, *options, cwd=cwd)
        assert (done.returncode, done.stderr) == (0, "")
        results.append([(out / name).read_bytes() for name in ("result.svg", "result.csv")])
    assert results[0] == results[1]


def test_a_negotiation_that_takes_too_long_is_given_up_in_one_line(tmp_path):
    options = ["--agents", "400", "--timeout", "1", "--out", str(tmp_path)]
    done = run(str(FOLDER), *options)
    assert (done.returncode, done.stderr) == (1, "no end within 1 s (see --timeout)\n")
    assert not list(tmp_path.iterdir())
