#!/usr/bin/env python3
"""What scripts rely on: the options of every program, its exit codes, the fields of its JSON.

The files beside this one hold what was promised. When a change is meant:
    tests/golden/interface_test.py build/release --update
and say in CHANGELOG.md what users must know of it.
"""
import argparse
import contextlib
import difflib
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

GOLDEN = pathlib.Path(__file__).resolve().parent
PROGRAMS = {
    "shmstate-merger": "merger",
    "shmstate-writer-agent": "writer-agent",
    "shmstatectl": "shmstatectl",
    "shmstate-proc-producer": "demo",
    "shmstate-live-view": "demo",
}
COMMANDS = "instances status top get set add del list watch dump load doctor".split()
TIMEOUT_S = 60


class Build:
    """The programs of a build directory, run with an environment of which nothing is the user's."""

    def __init__(self, directory, root):
        self.directory = pathlib.Path(directory).resolve()
        self.root = root
        sanitizers = {name: value for name, value in os.environ.items() if name.endswith("SAN_OPTIONS")}
        self.environment = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "SHMSTATE_ROOT": str(root), **sanitizers}

    def command(self, program, *arguments):
        path = self.directory / PROGRAMS[program] / program
        return {"args": [program, *arguments], "executable": path, "env": self.environment, "cwd": self.root}

    def run(self, program, *arguments, text=""):
        return subprocess.run(**self.command(program, *arguments), input=text, capture_output=True, text=True,
                              timeout=TIMEOUT_S, check=False)


def help_texts(build):
    """Without the columns, which are the parser library's."""
    callers = [(program,) for program in PROGRAMS] + [("shmstatectl", command) for command in COMMANDS]
    sections = []
    for caller in callers:
        lines = [re.sub(r"\s+", " ", line).strip() for line in build.run(*caller, "--help").stdout.splitlines()]
        sections.append("== " + " ".join(caller) + "\n" + "\n".join(filter(None, lines)) + "\n")
    return "\n".join(sections)


# Program and arguments, standard input where it matters. {} is the instance that a merger serves.
CALLS = [
    ("shmstate-merger --version",),
    ("shmstate-merger",),
    ("shmstate-merger --instance {} --no-such-option",),
    ("shmstate-merger --instance {} --buffers 1",),
    ("shmstate-merger --instance {}",),
    ("shmstate-merger --check --instance other --memory-limit 64m --publish-interval 2ms",),
    ("shmstate-merger --check --instance other --memory-limit 1k",),
    ("shmstate-merger --check --instance other --publish-interval 2s",),
    ("shmstate-merger --check --instance other --publish-interval soon",),
    ("shmstate-writer-agent --version",),
    ("shmstate-writer-agent",),
    ("shmstate-writer-agent nobody --attach-timeout 10ms",),
    ("shmstate-writer-agent {}", "set agent/key 1\n"),
    ("shmstate-writer-agent {}", "no line\n"),
    ("shmstate-writer-agent {} --strict", "no line\n"),
    ("shmstate-writer-agent {} --ring-size 1KB",),
    ("shmstate-writer-agent {} --full-timeout soon",),
    ("shmstate-writer-agent {} --socket-mode 999",),
    ("shmstatectl --version",),
    ("shmstatectl",),
    ("shmstatectl no-such-command",),
    ("shmstatectl -i nobody get key",),
    ("shmstatectl -i {} set key 1",),
    ("shmstatectl -i {} set key 1 --ttl 0",),
    ("shmstatectl -i {} set key 1 --ttl soon",),
    ("shmstatectl -i {} set key text --type int",),
    ("shmstatectl -i {} add key 1",),
    ("shmstatectl -i {} add key 0.5",),
    ("shmstatectl -i {} get key",),
    ("shmstatectl -i {} get missing",),
    ("shmstatectl -i {} del key",),
    ("shmstatectl -i {} del key",),
    ("shmstatectl -i {} list",),
    ("shmstatectl -i {} list --limit 0",),
    ("shmstatectl -i {} watch --initial --count 1",),
    ("shmstatectl -i {} dump",),
    ("shmstatectl -i {} dump --json",),
    ("shmstatectl -i {} load", "no dump\n"),
    ("shmstatectl -i {} status --interval 0",),
    ("shmstatectl -i nobody status",),
    ("shmstatectl -i nobody doctor",),
    ("shmstatectl instances",),
    ("shmstate-proc-producer --help",),
    ("shmstate-proc-producer no-such-area",),
    ("shmstate-live-view",),
    ("shmstate-live-view nobody",),
]

CALLS_WITHOUT_MERGER = [
    ("shmstatectl -i {} set key 1 --timeout 0",),
    ("shmstatectl -i {} add key 1 --timeout 10ms",),
    ("shmstatectl -i {} get key",),
    ("shmstatectl -i {} get missing",),
    ("shmstatectl -i {} status",),
    ("shmstatectl -i {} doctor",),
]


def exit_codes(build, calls):
    lines = []
    for call, *text in calls:
        result = build.run(*call.replace("{}", "plant").split(), text="".join(text))
        given = f" <<< {json.dumps(text[0])}" if text else ""
        lines.append(f"{result.returncode}  {call}{given}\n")
    return "".join(lines)


def kinds_of(value):
    if isinstance(value, bool):
        return {"boolean"}
    for python, name in ((int, "integer"), (float, "number"), (str, "string"), (type(None), "null")):
        if isinstance(value, python):
            return {name}
    raise TypeError(value)


class Shape:
    """What all values seen at one place of a document have in common."""

    def __init__(self):
        self.kinds, self.fields, self.counts, self.objects, self.element = set(), {}, {}, 0, None

    def see(self, value):
        if isinstance(value, dict):
            self.objects += 1
            for name, field in value.items():
                self.fields.setdefault(name, Shape()).see(field)
                self.counts[name] = self.counts.get(name, 0) + 1
        elif isinstance(value, list):
            self.element = self.element or Shape()
            for element in value:
                self.element.see(element)
        else:
            self.kinds |= kinds_of(value)

    def lines(self, path):
        if self.kinds:
            yield f"{path}: {' or '.join(sorted(self.kinds))}"
        if self.element is not None:
            yield f"{path}[]"
            yield from self.element.lines(path + "[]")
        for name in sorted(self.fields):
            optional = "" if self.counts[name] == self.objects else "?"
            yield from self.fields[name].lines(f"{path}.{name}{optional}")


JSON_CALLS = [
    ("set", ["set a/int 1"]),
    ("set, rejected", ["set a/text 1", "set a/int x --type text", "add a/text 0.5"]),
    ("add", ["add a/int 1"]),
    ("set, with all that an entry has", ["set a/float 1.5 --ttl 1h", "set a/text text --version 3"]),
    ("get", ["get a/int a/float a/text missing"]),
    ("list", ["list a/"]),
    ("list --keys", ["list a/ --keys"]),
    ("watch, a line", ["watch a/ --initial --count 3"]),
    ("del", ["del a/int"]),
    ("set, add, del with --connect", ["set a/int 1 --connect agent", "del a/int --connect agent"]),
    ("load", ["load dump"]),
    ("doctor", ["doctor"]),
    ("status", ["status"]),
    ("instances", ["instances"]),
]


def json_shapes(build):
    (build.root / "dump").write_text(build.run("shmstatectl", "-i", "plant", "dump").stdout)
    sections = []
    for title, calls in JSON_CALLS:
        shape = Shape()
        for call in calls:
            for document in documents_in(build.run("shmstatectl", "-i", "plant", "--json", *call.split()).stdout):
                shape.see(document)
        sections.append(f"== {title}\n" + "".join(line + "\n" for line in shape.lines("")))
    return "\n".join(sections)


def documents_in(text):
    decoder = json.JSONDecoder()
    text = text.strip()
    while text:
        document, end = decoder.raw_decode(text)
        yield document
        text = text[end:].strip()


def wait_until(holds):
    deadline = time.monotonic() + TIMEOUT_S
    while not holds():
        if time.monotonic() > deadline:
            sys.exit("the merger does not serve its instance, or the agent does not push into it")
        time.sleep(0.05)


@contextlib.contextmanager
def running(build, program, *arguments):
    with subprocess.Popen(**build.command(program, *arguments), stdin=subprocess.PIPE,
                          stderr=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.terminate()


def observe(build):
    with running(build, "shmstate-merger", "--instance", "plant", "--memory-limit", "64m"):
        wait_until(lambda: build.run("shmstatectl", "-i", "plant", "set", "ready", "1").returncode == 0)
        with running(build, "shmstate-writer-agent", "plant", "--socket", "agent"):  # its ring is one to look at
            wait_until((build.root / "agent").exists)
            shapes = json_shapes(build)
        codes = exit_codes(build, CALLS)
    codes += "\nwithout a merger\n" + exit_codes(build, CALLS_WITHOUT_MERGER)
    return {"help.txt": help_texts(build), "exit_codes.txt": codes, "json.txt": shapes}


def compare(name, promised, seen):
    difference = difflib.unified_diff(promised.splitlines(), seen.splitlines(), f"tests/golden/{name}", "seen",
                                      lineterm="")
    text = "\n".join(difference)
    if text:
        print(text + "\n")
    return not text


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", help="the directory that the programs were built in")
    parser.add_argument("--update", action="store_true", help="make what is seen the promise")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="shmstate-golden-", dir="/dev/shm") as root:
        os.chmod(root, 0o755)
        seen = observe(Build(arguments.build, pathlib.Path(root)))
    if arguments.update:
        for name, text in seen.items():
            (GOLDEN / name).write_text(text)
        return
    same = [compare(name, (GOLDEN / name).read_text(), text) for name, text in seen.items()]
    if not all(same):
        sys.exit("if this is meant: tests/golden/interface_test.py BUILD_DIRECTORY --update")


if __name__ == "__main__":
    main()
