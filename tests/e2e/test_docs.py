# What texts say is compared with what they are about: man pages, README, NEWS, ARCHITECTURE, configs/; and what `make install` does.
# SPDX-License-Identifier: Apache-2.0
import os
import re
import shutil
import subprocess

import pytest

from proxy import BINARY, SLOW, TOP, run_once

pytestmark = [pytest.mark.ours, pytest.mark.nosan]

CONFIGS = sorted(name for name in os.listdir(os.path.join(TOP, "configs")) if name.endswith(".conf"))
PAGES = ["tlsplice.8", "tlsplice.conf.5"]


def read(*path):
    with open(os.path.join(TOP, *path), encoding="utf-8") as file:
        return file.read()


def files(suffix, folder=""):
    """Paths of the project's files below a folder: those in the repository, or all where there is none."""
    listed = None
    if shutil.which("git"):
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=TOP, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    if listed and listed.returncode == 0:
        paths = listed.stdout.decode().split("\0")
    else:
        paths = [os.path.relpath(os.path.join(at, name), TOP) for at, folders, names in os.walk(TOP) for name in names
                 if not re.search(r"/(build[^/]*|\.[^/]*)(/|$)", at[len(TOP):])]
    found = sorted(path for path in paths if path.startswith(folder) and path.endswith(suffix))
    assert found
    return [path for path in found if os.path.exists(os.path.join(TOP, path))]


def table(tools, what):
    """What the table of options says, by the program that `make man` uses."""
    program = os.path.join(os.path.dirname(tools), "man", "options")
    return subprocess.run([program, what], stdout=subprocess.PIPE, check=True, timeout=30 * SLOW).stdout.decode()


def option_names(text):
    return set(re.findall(r"(?m)^(\w+) += ", text))


@pytest.fixture(scope="module")
def known():
    """Every option of -help, and fips, which is not shown there."""
    return {name.lower() for name in option_names(run_once(["-help"])[2])} | {"fips"}


def effective(tmp_path, text):
    path = tmp_path / "from-a-text.conf"
    path.write_text(text)
    return run_once(["-T", str(path)], cwd=str(tmp_path))


# --- man pages ---


def test_option_section_is_what_the_table_says(tools):
    section = re.search(r'(?ms)^\.\\" BEGIN OPTIONS.*?\n(.*)^\.\\" END OPTIONS$', read("man", "tlsplice.conf.5")).group(1)
    assert section == table(tools, "man"), "make man"


def test_every_option_has_a_paragraph(known):
    shown = {name.lower() for name in re.findall(r"(?m)^\.It Ic (\w+)$", read("man", "tlsplice.conf.5"))}
    assert shown == known


def test_references_within_the_page():
    """SEE SUCH-AND-SUCH names a section that is there."""
    page = read("man", "tlsplice.conf.5")
    headings = {heading.replace("\\-", "-") for heading in re.findall(r"(?m)^\.Sh (.*)$", page)}
    references = re.findall(r"See ((?!SIG)[A-Z]{4,}(?: [A-Z]+)*)\b", page)
    assert references and set(references) <= headings


def test_every_flag_of_the_command_line_is_described():
    usage = run_once(["-fd"])[2]
    flags = set(re.findall(r"[ |]-(\w+)", usage))
    assert {"fd", "help", "t", "T"} <= flags
    assert set(re.findall(r"(?m)^\.It Fl (\w+)", read("man", "tlsplice.8"))) == flags


def test_example_of_the_manual_is_accepted(tmp_path):
    example = re.search(r"(?ms)^\.Bd -literal.*?\n(.*?)^\.Ed", read("man", "tlsplice.conf.5")).group(1)
    status, out, err = effective(tmp_path, example)
    assert status == 0, err
    assert "[https]" in out and "[database]" in out


@pytest.mark.parametrize("page", PAGES)
def test_page_has_no_warnings(page, need):
    need("groff")
    checks = ["mandoc -Tlint -Wwarning", "groff -mandoc -ww -z -Tutf8"]
    for argv in [check.split() for check in checks if shutil.which(check.split()[0])]:
        done = subprocess.run([*argv, os.path.join(TOP, "man", page)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              timeout=60)
        warnings = [line for line in done.stdout.decode(errors="replace").splitlines() if "outdated mandoc.db" not in line]
        assert not warnings


# --- options in other texts ---


@pytest.mark.parametrize("name", CONFIGS)
def test_example_configuration_is_accepted(name, known):
    names = {name.lower() for name in re.findall(r"(?m)^\s*(\w+)\s*=", read("configs", name))}
    assert names and names <= known
    status, _, err = run_once(["-T", os.path.join(TOP, "configs", name)])
    assert status == 0, err


def readme_tables():
    """The first cells of README's tables, without their marks."""
    return re.findall(r"(?m)^\| `([^`]*)` \|", read("README.md"))


def test_example_of_the_readme_is_accepted(tmp_path):
    example = re.search(r"(?ms)^## An example\n+(.*?)^\S", read("README.md")).group(1)
    status, out, err = effective(tmp_path, re.sub(r"(?m)^    ", "", example))
    assert status == 0, err
    assert "[https]" in out and "[database]" in out


def test_extensions_are_those_of_the_readme():
    extensions = option_names(run_once(["-help"])[2].split("Extensions of tlsplice")[1])
    assert {cell.split()[0] for cell in readme_tables() if " = " in cell} == extensions


def test_flags_of_the_readme(tmp_path):
    flags = [cell.split()[0] for cell in readme_tables() if cell.startswith("-")]
    assert flags == ["-t", "-T", "-doctor", "-kernel"]
    for flag in flags:
        assert f"tlsplice {flag} " in run_once(["-fd"])[2]


@pytest.mark.parametrize("text", ["README.md", "CONTRIBUTING.md", "NEWS.md"])
def test_quoted_options_exist(text, known):
    """`name = value` is an option of the table."""
    for name in re.findall(r"`(\w+) = [^`]*`", read(text)):
        assert name.lower() in known, name


def test_what_is_not_built_yet_stands_in_the_news(tools):
    said = re.search(r"(?ms)^### Not built yet\n\n.*?\n\n(.*?)\.\n", read("NEWS.md")).group(1)
    names = [re.sub(r"\s*\(.*\)", "", name).strip() for name in said.split(",")]
    assert sorted(names) == sorted(table(tools, "unbuilt").split())


def test_readme_calls_nothing_built_unbuilt(tools):
    said = re.search(r"(?ms)^Not built yet: (.*?)(?:\. |\n\n)", read("README.md")).group(1)
    assert set(re.findall(r"`(\w+)`", said)) <= set(table(tools, "unbuilt").split())


# --- files and commands ---


@pytest.mark.parametrize("text", ["README.md", "CONTRIBUTING.md", "bench/README.md"])
def test_make_commands_exist(text):
    makefile = read("Makefile")
    targets = set(re.findall(r"(?m)^([a-z][\w-]*):(?!=)", makefile))
    commands = re.findall(r"(?m)(?:^    |`)(?:[A-Z]+=\S+ )*make((?: +[\w.=,/$()-]+|='[^']*')*)", read(text))
    assert commands
    for words in " ".join(commands).split():
        name, equals, _ = words.partition("=")
        if equals:
            assert re.search(rf"(?m)^(override )?{name}\s*=|\$\({name}\)", makefile), words
        else:
            assert name in targets, words


def test_help_of_make_names_every_target():
    makefile = read("Makefile")
    shown = re.search(r"(?ms)^help:\n(.*?)\n\n", makefile).group(1)
    phony = set(re.search(r"(?m)^\.PHONY: (.*)$", makefile).group(1).split()) - {"all", "help", "tests", "FORCE"}
    assert not [name for name in phony if not re.search(rf"make {name}\b", shown)]


@pytest.mark.parametrize("text", files(".md"))
def test_relative_links_lead_somewhere(text):
    for target in re.findall(r"\]\(([^)\s]+)\)", read(text)):
        if not re.match(r"[a-z]+:|#", target):
            assert os.path.exists(os.path.join(TOP, os.path.dirname(text), target.split("#")[0])), target


def test_architecture_lists_every_source_file():
    rows = re.findall(r"(?m)^\| ([\w./, ]+\.\w+) \|", read("ARCHITECTURE.md"))
    listed = [name.strip() for row in rows for name in row.split(",")]
    assert len(set(listed)) == len(listed)
    there = {path[len("src/"):] for path in files("", "src/")}
    assert not set(listed) - there, "listed, but not there"
    # A header of the same name goes without saying.
    said = set(listed) | {os.path.splitext(name)[0] + ".h" for name in listed}
    assert not there - said, "there, but not listed"


def test_every_kernel_note_is_listed():
    notes = {os.path.basename(path) for path in files(".md", "kernel-notes/")} - {"README.md"}
    listed = re.findall(r"(?m)^- \[([\w.-]+)\]\(\1\): .", read("kernel-notes", "README.md"))
    assert sorted(notes) == sorted(listed)


def test_every_file_that_code_points_to_exists():
    """Comments say kernel-notes/X.md, configs/X.conf, tests/... where the long story stands."""
    for path in files("", "src/") + ["Makefile", "ARCHITECTURE.md", "CONTRIBUTING.md", "NEWS.md", "README.md"]:
        for target in re.findall(r"\b((?:kernel-notes|configs|bench|packaging|src)/[\w.-]+\.(?:md|conf|py|[chS]))\b", read(path)):
            assert os.path.exists(os.path.join(TOP, target)), f"{path}: {target}"


# --- make install ---


def install(*variables):
    """Installs what is built, whatever flags it was built with: -o all keeps make from building."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    done = subprocess.run(["make", "-o", "all", "install", f"BUILD={os.path.dirname(BINARY)}", *variables], cwd=TOP, env=env,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60 * SLOW)
    assert done.returncode == 0, done.stdout.decode(errors="replace")


def test_install_puts_everything_in_its_place(tmp_path):
    old = os.umask(0o077)  # a careful umask must not make a binary that only root can run
    try:
        install(f"DESTDIR={tmp_path}/root", "PREFIX=/usr")
    finally:
        os.umask(old)
    root = tmp_path / "root" / "usr"
    found = {str(path.relative_to(root)): path for path in root.rglob("*") if path.is_file()}
    wanted = {"sbin/tlsplice", "lib/tlsplice/libtlsplice_preload.so", "lib/systemd/system/tlsplice.service"}
    wanted |= {f"share/man/man{page[-1]}/{page}" for page in PAGES}
    wanted |= {f"share/doc/tlsplice/{name}" for name in ("README.md", "NEWS.md", "LICENSE")}
    wanted |= {f"share/doc/tlsplice/kernel-notes/{name}" for name in os.listdir(os.path.join(TOP, "kernel-notes"))}
    wanted |= {f"share/doc/tlsplice/examples/{name}" for name in CONFIGS}
    wanted |= {f"share/doc/tlsplice/examples/systemd/{name}" for name in os.listdir(os.path.join(TOP, "configs", "systemd"))}
    tproxy = {f"share/doc/tlsplice/examples/tproxy/{name}" for name in os.listdir(os.path.join(TOP, "configs/tproxy"))}
    programs = {"sbin/tlsplice"} | {name for name in tproxy if not name.endswith(".conf")}
    assert set(found) == wanted | tproxy
    for name, path in found.items():
        assert path.stat().st_mode & 0o777 == (0o755 if name in programs else 0o644), name
    unit = found["lib/systemd/system/tlsplice.service"].read_text()
    assert "ExecStart=/usr/sbin/tlsplice /etc/tlsplice/tlsplice.conf\n" in unit and "@" not in unit
    for page in PAGES:
        assert found[f"share/man/man{page[-1]}/{page}"].read_text() == read("man", page)
    version = subprocess.run([found["sbin/tlsplice"], "-version"], stderr=subprocess.PIPE, timeout=30 * SLOW)
    assert version.returncode == 0 and version.stderr.startswith(b"tlsplice ")


def test_systemd_takes_the_unit(tmp_path, need):
    need("systemd-analyze")
    install(f"PREFIX={tmp_path}/usr")
    unit = tmp_path / "usr/lib/systemd/system/tlsplice.service"
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", unit], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          timeout=60 * SLOW)
    said = [line for line in done.stdout.decode(errors="replace").splitlines() if "tlsplice" in line]
    assert done.returncode == 0 and not said, done.stdout.decode(errors="replace")
