#!/usr/bin/env python3
"""Holds the tree to a rule of the house, or shows that each rule notices what breaks it.

    tests/house/house_test.py RULE          the rule, on this tree
    tests/house/house_test.py --self-test   each rule, on a small tree that breaks it, and on one that keeps it
    tests/house/house_test.py --list
"""

import dataclasses
import fnmatch
import pathlib
import sys
import tempfile

sys.dont_write_bytecode = True

from rules import RULES, Tree  # noqa: E402

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]


@dataclasses.dataclass
class Excuse:
    line: str
    rule: str
    files: str
    most: int
    used: int = 0

    def excuses(self, rule, finding):
        return self.rule == rule and fnmatch.fnmatch(finding.file, self.files) and self.used < self.most


def exceptions():
    for line in (HERE / "exceptions.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            _, rule, files, most, _ = line.split(" ", 4)
            yield Excuse(line, rule, files, int(most))


def hold(rule):
    excused = [one for one in exceptions() if one.rule == rule]
    is_kept = True
    for finding in RULES[rule](Tree(ROOT)):
        excuse = next((one for one in excused if one.excuses(rule, finding)), None)
        if excuse:
            excuse.used += 1
        else:
            is_kept = False
            print(finding)
    for one in excused:
        print(f"excused: {one.line}")
        if one.used < one.most:
            print(f"  {one.used} would do: lower it in tests/house/exceptions.txt")
    return is_kept


STATUS = "#include <string>\n"
ENGINE_CALL = "merger/engine/a.cc"
LONG_FUNCTION = "int f(int a,\n      int b) {\n" + "  a += b;\n" * 48 + "}\n"
TEST = "TEST(Merger, StopsNobody) {\n}\n"
ROW = "| what | others see | guaranteed | engine `%s` |\n"

# Each rule: trees that break it, with the file and line that it must name, and trees that keep it.
BREAKING = {
    "arrows": [({"libshmstate/writer/a.cc": '\n#include "engine/b.h"\n', "merger/engine/b.h": ""}, 2),
               ({"libshmstate/layout/a.h": '#include "protocol/b.h"\n', "libshmstate/protocol/b.h": ""}, 1),
               ({"shmstatectl/a.cc": '#include "writer-agent/b.h"\n', "writer-agent/b.h": ""}, 1),
               ({"shmstatectl/a.cc": '#include "files/b.h"\n', "libshmstate/files/b.h": ""}, 1),
               ({"demo/a.cc": '#include "shmstate/detail/b.h"\n', "libshmstate/include/shmstate/detail/b.h": ""}, 1)],
    "public_headers": [({"libshmstate/include/shmstate/a.h": "#include <fmt/format.h>\n"}, 1),
                       ({"reader-lib/include/shmstate/a.h": '#include "layout/b.h"\n'}, 1)],
    "pairs": [({ENGINE_CALL: "x.store(1, std::memory_order_release);\n"}, 1)],
    "pair_sides": [({ENGINE_CALL: "x.store(1, std::memory_order_release);  // pair: ring.tail\n"}, 1)],
    "system_calls": [({ENGINE_CALL: "int f() {\n  return ::getpid();\n}\n"}, 2)],
    "function_length": [({"support/a.cc": LONG_FUNCTION}, 1)],
    "columns": [({"support/a.cc": "\n// " + "a" * 118 + "\n"}, 2), ({"docs/a.md": "a" * 121 + "\n"}, 1)],
    "named_tests": [({"docs/failure-modes.md": ROW % "StopsEverybody", "tests/unit/a.cc": TEST}, 1),
                    ({"docs/failure-modes.md": ROW % "Begins…", "tests/unit/a.cc": TEST}, 1)],
    "named_files": [({"docs/a.md": "see `tests/unit/b.cc`\n", "tests/unit/a.cc": TEST}, 1)],
    "links": [({"docs/a.md": "\n[b](b.md)\n"}, 2)],
    "reachable": [({"docs/b.md": "alone\n", "docs/README.md": "[nothing](../README.md)\n"}, 1)],
}
KEEPING = {
    "arrows": [{"merger/a.cc": '#include "engine/b.h"\n', "merger/engine/b.h": '#include "layout/c.h"\n',
                "libshmstate/layout/c.h": '#include "shmstate/detail/d.h"\n',
                "reader-lib/include/shmstate/reader.h": '#include "shmstate/detail/d.h"\n',
                "libshmstate/include/shmstate/detail/d.h": '#include "shmstate/value.h"\n',
                "libshmstate/include/shmstate/value.h": ""}],
    "public_headers": [{"libshmstate/include/shmstate/a.h": '#include <string>\n#include "shmstate/b.h"\n'}],
    "pairs": [{ENGINE_CALL: "x.store(1, std::memory_order_release);  // pair: ring.tail\n"
                            "store_word(&word, 1, std::memory_order_release);\n"}],
    "pair_sides": [{ENGINE_CALL: "x.store(1, std::memory_order_release);  // pair: ring.tail\n"
                                 "x.load(std::memory_order_acquire);  // pair: ring.tail, sees the record\n"}],
    "system_calls": [{"libshmstate/files/os.cc": "int f() { return ::getpid(); }\n",
                      "merger/service.cc": "int f() { return ::getpid(); }\n", ENGINE_CALL: "// ::getpid()\n"}],
    "function_length": [{"support/a.cc": LONG_FUNCTION.replace("  a += b;\n", "", 1)}],
    "columns": [{"docs/a.md": "| " + "a" * 200 + " |\n"}],
    "named_tests": [{"docs/failure-modes.md": ROW % "Stops…" + ROW % "StopsNobody", "tests/unit/a.cc": TEST}],
    "named_files": [{"docs/a.md": "see `tests/unit/a.cc` and `a/b`\n", "tests/unit/a.cc": TEST}],
    "links": [{"docs/a.md": "[b](b.md#part) [web](https://a.b)\n", "docs/b.md": ""}],
    "reachable": [{"docs/README.md": "[b](b.md)\n", "docs/b.md": "[c](../c.md)\n", "c.md": ""}],
}


def findings_in(rule, files):
    with tempfile.TemporaryDirectory() as directory:
        for name, text in files.items():
            path = pathlib.Path(directory) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return list(RULES[rule](Tree(directory)))


def self_test():
    problems = []
    for rule in RULES:
        for files, line in BREAKING[rule]:
            found = findings_in(rule, files)
            if [(finding.file, finding.line) for finding in found] != [(next(iter(files)), line)]:
                problems.append(f"{rule}: expected one finding at {next(iter(files))}:{line}, found {found}")
        for files in KEEPING[rule]:
            found = findings_in(rule, files)
            if found:
                problems.append(f"{rule}: expected nothing, found {found}")
    print("\n".join(problems) or f"{len(RULES)} rules notice what breaks them")
    return not problems


def main():
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    if sys.argv[1] == "--list":
        print("\n".join(RULES))
        return 0
    if sys.argv[1] == "--self-test":
        return 0 if self_test() else 1
    if sys.argv[1] not in RULES:
        raise SystemExit(f"there is no rule \"{sys.argv[1]}\"; --list names them")
    return 0 if hold(sys.argv[1]) else 1


if __name__ == "__main__":
    sys.exit(main())
