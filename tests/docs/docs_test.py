#!/usr/bin/env python3
"""tests/docs/docs_test.py BUILD - what docs/, man pages and completion say about the programs is what the programs do.

Each test is a function whose name is the sentence it proves. Prints one line a test; exit 0 only if all hold."""
import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
BUILD = pathlib.Path(sys.argv[1])
PROGRAMS = {"coord": "coordinator", "loader": "loader", "worker": "worker"}  # and its folder
OPTION = r"--[a-z][a-z-]*"


def help_of(program, command):
    """Without what it quotes: commands of other programs."""
    words = [str(BUILD / ("blipren-" + program))] + ([command] if command else []) + ["--help"]
    return re.sub("`[^`]*`", "", subprocess.run(words, check=True, stdout=subprocess.PIPE, encoding="utf-8").stdout)


def man(program):
    """The page without formatting: \\- is a minus, and font changes vanish."""
    text = (ROOT / "docs/man" / ("blipren-%s.1" % program)).read_text("utf-8")
    return re.sub(r"\\f.", "", text.replace("\\-", "-"))


def same(found, expected, what):
    if found != expected:
        raise AssertionError("%s: too much %s, missing %s" % (what, sorted(found - expected), sorted(expected - found)))


def commands(program):
    """Its subcommands, from the lines of usage."""
    return set(re.findall("blipren-%s ([a-z][a-z-]*) " % program, help_of(program, "")))


def options(program):
    return set().union(*(re.findall(OPTION, help_of(program, c)) for c in ["", *commands(program)]))


def the_help_lists_exactly_the_options_that_are_accepted():
    for program, folder in PROGRAMS.items():
        sources = "".join(f.read_text() for f in (ROOT / folder).glob("*.[ch]"))
        accepted = set(re.findall(r'\{"(%s)", ARGUMENT' % OPTION, sources)) | {"--help", "--version"}
        same(options(program), accepted, "--help of blipren-" + program)


def the_man_pages_describe_exactly_the_commands_and_options_of_the_help():
    demo = subprocess.run([ROOT / "deploy/demo/run.sh", "--help"], check=True, stdout=subprocess.PIPE, encoding="utf-8").stdout
    expected = {p: commands(p) | options(p) for p in PROGRAMS} | {"demo": set(re.findall(OPTION, demo)) | {"--help"}}
    for program, words in expected.items():
        page = re.sub(r"^\.SH ENVIRONMENT\n.*?(?=^\.SH)", "", man(program), flags=re.M | re.S)
        described = re.findall(r'^\.T[PQ]\n\.B[IR]? "?([a-z-]+)', page, re.M)
        same(set(described), words, "blipren-%s.1" % program)


def the_exit_statuses_documented_are_those_of_the_programs():
    header = (ROOT / "common/error.h").read_text()
    true = {(number, name, meaning) for name, number, meaning in re.findall(r'X\((\w+), (\d+), "([^"]*)"', header)}
    rows = re.findall(r"^\| (\d+) \| ([A-Z]+) \| (.*) \|$", (ROOT / "docs/operating.md").read_text("utf-8"), re.M)
    same(set(rows), true, "docs/operating.md")
    listed = man("coord").split(".SH EXIT STATUS")[1].split(".SH")[0]
    same(set(re.findall(r"\d+", listed)) - {"0"}, {number for number, _, _ in true}, "blipren-coord.1, exit status")


def completion_offers_the_commands_and_options_of_each_program():
    script = r'''
        source "$1"; shift
        COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); complete -p "$(basename "$1")" >/dev/null || exit 1
        _blipren "$1" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"; printf '%s\n' "${COMPREPLY[@]}"'''

    def offered(*words):
        done = subprocess.run(["bash", "-c", script, "bash", ROOT / "deploy/completion/blipren.bash", *words], check=True,
                              stdout=subprocess.PIPE, encoding="utf-8")
        return set(done.stdout.split())

    for program in PROGRAMS:
        path = str(BUILD / ("blipren-" + program))
        same(offered(path, ""), commands(program), "commands of blipren-" + program)
        for command in ["", *commands(program)]:
            words = [path, command, "--"] if command else [path, "--"]
            same(offered(*words), set(re.findall(OPTION, help_of(program, command))), "blipren-%s %s" % (program, command))


def links_between_the_pages_lead_somewhere():
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text("utf-8")):
            if not (page.parent / target).exists():
                raise AssertionError("%s: there is no %s" % (page.relative_to(ROOT), target))


def the_debian_package_builds_from_what_set_up_installs():
    setup = (ROOT / "deploy/setup.sh").read_text()
    needed = set(re.search(r'^packages="([^"]*)"', setup, re.M).group(1).split())
    control = (ROOT / "deploy/debian/control").read_text()
    built = set(re.split(r",\s+", re.search(r"^Build-Depends: (.*?)\n\S", control, re.M | re.S).group(1)))
    not_needed = {"gcc", "g++", "ninja-build", "pkg-config", "libcmocka-dev", "ca-certificates"}  # of every build, the tests', or running
    same(built - {"debhelper-compat (= 13)", "dh-sequence-installsysusers", "pkgconf", "python3"}, needed - not_needed,
         "Build-Depends of deploy/debian/control")


NOT_OURS = ("libc6", "libgcc", "libasan", "libubsan", "libtsan")  # of every system, or of a sanitized build


def the_image_installs_the_libraries_that_the_programs_load():
    installed = set(re.findall(r"[a-z0-9.+-]+", (ROOT / "deploy/compose/Dockerfile").read_text()))
    for program in PROGRAMS:
        loaded = subprocess.run(["ldd", BUILD / ("blipren-" + program)], check=True, stdout=subprocess.PIPE, encoding="utf-8").stdout
        direct = subprocess.run(["objdump", "-p", BUILD / ("blipren-" + program)], check=True, stdout=subprocess.PIPE,
                                encoding="utf-8").stdout
        for library in re.findall(r"NEEDED\s+(\S+)", direct):
            path = re.search(r"^\s*%s => (\S+)" % re.escape(library), loaded, re.M)
            owner = path and subprocess.run(["dpkg", "-S", os.path.realpath(path.group(1))], stdout=subprocess.PIPE,
                                            stderr=subprocess.DEVNULL, encoding="utf-8").stdout.split(":")[0]
            if owner and not owner.startswith(NOT_OURS) and owner not in installed:
                raise AssertionError("deploy/compose/Dockerfile does not install %s, which blipren-%s loads" % (owner, program))


TESTS = (the_help_lists_exactly_the_options_that_are_accepted,
         the_man_pages_describe_exactly_the_commands_and_options_of_the_help,
         the_exit_statuses_documented_are_those_of_the_programs,
         completion_offers_the_commands_and_options_of_each_program,
         the_debian_package_builds_from_what_set_up_installs, the_image_installs_the_libraries_that_the_programs_load, links_between_the_pages_lead_somewhere)


def main():
    failed = 0
    for test in TESTS:
        try:
            test()
            print("ok    ", test.__name__.replace("_", " "))
        except (AssertionError, OSError, subprocess.CalledProcessError) as e:
            failed += 1
            print("FAILED", test.__name__.replace("_", " "), "\n      ", e)
    return failed != 0


if __name__ == "__main__":
    sys.exit(main())
