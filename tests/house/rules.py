"""The rules of the house: each looks at a tree of files and yields what breaks it.

A rule is a function from a Tree to findings (file, line, what is wrong and what to do). What cannot hold yet stands in
exceptions.txt.
"""

import dataclasses
import fnmatch
import pathlib
import posixpath
import re
import subprocess

LINES_PER_FUNCTION_MAX = 50
COLUMNS_MAX = 120


@dataclasses.dataclass(frozen=True)
class Finding:
    file: str
    line: int
    text: str

    def __str__(self):
        return f"{self.file}:{self.line}: {self.text}"


class Tree:
    """The files of a directory: those that git knows, or all where it is not a git repository."""

    def __init__(self, root):
        self.root = pathlib.Path(root)
        if (self.root / ".git").exists():
            names = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
                                   cwd=self.root, check=True, capture_output=True, text=True).stdout.split("\0")
        else:
            names = [str(path.relative_to(self.root)) for path in self.root.rglob("*")]
        self.files = sorted(name for name in names if name and (self.root / name).is_file())
        self._known = set(self.files)

    def __contains__(self, name):
        return name in self._known

    def matching(self, *patterns):
        return [name for name in self.files if any(fnmatch.fnmatch(name, pattern) for pattern in patterns)]

    def sources(self, *folders):
        return [name for name in self.matching("*.h", "*.cc", "*.c") if name.startswith(folders)]

    def text(self, name):
        return (self.root / name).read_text(encoding="utf-8", errors="replace")

    def lines(self, name):
        return self.text(name).splitlines()


def without_comment(line):
    return line.split("//")[0]


# --- folders: who may include whom

LIBRARIES = ("libshmstate/", "reader-lib/", "merger/engine/")
ROOMS = {  # the longest match counts
    "libshmstate/include": "public headers", "reader-lib/include": "public headers",
    "libshmstate/include/shmstate/detail": "detail", "libshmstate/layout": "layout",
    "libshmstate/protocol": "protocol", "libshmstate/files": "files", "libshmstate/c_api": "c_api",
    "libshmstate/writer": "writer", "reader-lib/src": "reader", "merger/engine": "engine", "merger": "merger",
    "writer-agent": "writer-agent", "shmstatectl": "shmstatectl", "shmstatectl/doctor": "doctor", "demo": "demo",
    "support": "support", "examples": "examples",
}
PUBLIC = {"public headers"}
INLINE = PUBLIC | {"detail"}
LAYOUT = INLINE | {"layout"}
PROTOCOL = LAYOUT | {"protocol"}
FILES = PROTOCOL | {"files"}
MAY_INCLUDE = {
    "public headers": INLINE, "detail": INLINE, "layout": LAYOUT, "protocol": PROTOCOL,
    "files": FILES, "c_api": FILES | {"c_api"},
    "writer": FILES | {"c_api", "writer"}, "reader": FILES | {"c_api", "reader"}, "engine": FILES | {"engine"},
    "merger": FILES | {"engine", "support", "merger"}, "support": PUBLIC | {"files", "support"},
    "writer-agent": PUBLIC | {"support", "writer-agent"},
    "shmstatectl": PUBLIC | {"support", "doctor", "shmstatectl"},
    "doctor": FILES | {"support", "doctor", "shmstatectl"},
    "demo": PUBLIC | {"support", "demo"}, "examples": PUBLIC | {"examples"},
}
INCLUDE_ROOTS = ("", "libshmstate/include/", "reader-lib/include/", "libshmstate/", "merger/", "reader-lib/src/")


def room_of(name):
    folders = [folder for folder in ROOMS if name.startswith(folder + "/")]
    return ROOMS[max(folders, key=len)] if folders else None


def included_file(tree, name, included):
    own = name.split("/")[0] + "/"
    roots = [posixpath.dirname(name) + "/", own, *INCLUDE_ROOTS]
    return next((found for found in (posixpath.normpath(root + included) for root in roots) if found in tree), None)


def arrows(tree):
    """Includes follow the arrows between the folders."""
    for name in tree.sources(*(folder + "/" for folder in ROOMS)):
        room = room_of(name)
        for number, line in enumerate(tree.lines(name), 1):
            quoted = re.match(r'\s*#\s*include\s+"([^"]+)"', line)
            target = room_of(included_file(tree, name, quoted[1]) or "") if quoted else None
            if target and target not in MAY_INCLUDE[room]:
                yield Finding(name, number, f"{room} must not include {target} (\"{quoted[1]}\"); move what it needs "
                                            "to where both may reach it: see the arrows in ARCHITECTURE.md")


def public_headers(tree):
    """Public headers include the standard library and each other only."""
    for name in tree.sources("libshmstate/include/", "reader-lib/include/"):
        for number, line in enumerate(tree.lines(name), 1):
            system = re.match(r"\s*#\s*include\s+<([^>]+)>", line)
            quoted = re.match(r'\s*#\s*include\s+"([^"]+)"', line)
            if system and not re.fullmatch(r"[a-z_0-9]+|std[a-z]+\.h|emmintrin\.h", system[1]):
                yield Finding(name, number, f"a public header includes <{system[1]}>; users have the standard library "
                                            "only, so include it in the .cc file")
            if quoted and not quoted[1].startswith("shmstate/"):
                yield Finding(name, number, f"a public header includes \"{quoted[1]}\", which is not installed; "
                                            "declare what it needs, and include it in the .cc file")


# --- orders

ORDERED = re.compile(r"memory_order_(acquire|release|acq_rel|seq_cst)")
# Words of a buffer: their pair is always the stamp and the epoch word, as libshmstate/protocol/publish.h argues.
BUFFER_WORDS = re.compile(r"\b(load_word|store_word)\(|atomic_ref<T>\(small\)")
LINES_OF_A_PAIR = 3


def pairs_at(lines, index):
    """The names after `pair:` on the line, or in a comment closely above it."""
    names = []
    for line in lines[max(0, index - LINES_OF_A_PAIR):index + 1]:
        found = re.search(r"pair: (.*)", line)
        if found:
            names += re.findall(r"[A-Za-z_][\w]*\.[\w.]*\w|\b[a-z]\w*_\w+\b|\bstamp\b|\bfeed records\b", found[1])
    return names


def pairs(tree):
    """Each ordered access names its pair."""
    for name in tree.sources(*LIBRARIES):
        lines = tree.lines(name)
        for index, line in enumerate(lines):
            code = without_comment(line)
            statement = "".join(lines[max(0, index - 2):index]) + code
            if not ORDERED.search(code) or BUFFER_WORDS.search(statement) or "signal_fence" in code:
                continue
            if not pairs_at(lines, index):
                yield Finding(name, index + 1, "an ordered access without its pair; add the comment "
                                               "`// pair: NAME` to it and to the other side")


def pair_sides(tree):
    """Each pair has two sides at least."""
    sides = {}
    for name in tree.sources(*LIBRARIES):
        lines = tree.lines(name)
        for index, line in enumerate(lines):
            if "pair: " in line:
                for pair in set(pairs_at([line], 0)):
                    sides.setdefault(pair, []).append((name, index + 1))
    for pair, places in sides.items():
        if len(places) == 1:
            yield Finding(*places[0], f"the pair {pair} has one side only; name it at the other access, or correct "
                                      "the name")


# --- system calls

SYSTEM_CALLS = """
accept4? bind chmod chown clock_\\w+ close connect dup[23]? epoll_\\w+ eventfd fallocate fchmod fchmodat
fchown fchownat fcntl flock fork fstat fstatat fstatfs fstatvfs fsync ftruncate futex getpid getpriority
getrlimit inotify_\\w+ ioctl kill link linkat listen lseek lstat madvise mincore mkdir mkdirat mkfifo mlock
mmap mprotect mremap munmap open openat opendir pipe2? poll posix_fallocate prctl pread process_vm_\\w+
pselect pwrite read readlink readlinkat recv recvmsg remove rename renameat2? rmdir sched_\\w+ send sendmsg
setrlimit sigaction signalfd socket stat statfs statvfs statx symlink sysinfo syscall timerfd_\\w+ umask uname
unlink unlinkat usleep utimensat waitpid write writev""".split()
SYSTEM_CALL = re.compile(r"(?<![\w>:])::(" + "|".join(SYSTEM_CALLS) + r")\(")


def system_calls(tree):
    """The libraries and the engine call the kernel in libshmstate/files only."""
    for name in tree.sources(*LIBRARIES):
        if name.startswith("libshmstate/files/"):
            continue
        for number, line in enumerate(tree.lines(name), 1):
            call = SYSTEM_CALL.search(without_comment(line))
            if call:
                yield Finding(name, number, f"calls ::{call[1]}; the libraries call the kernel in libshmstate/files "
                                            "only, so wrap it in files/os.h")


# --- size

NOT_A_FUNCTION = re.compile(r"^\s*(namespace|class|struct|union|enum|extern|if|else|for|while|switch|do|try|\}|#|//"
                            r"|case|default|return|public|private|const auto|auto \w+ =)\b")


def function_lengths(lines):
    """(first line, number of lines) of each function body, of code that clang-format has formatted."""
    index = 0
    while index < len(lines):
        line = lines[index]
        if line.rstrip().endswith("{") and "(" in statement_above(lines, index) and not NOT_A_FUNCTION.match(line):
            indent = len(line) - len(line.lstrip())
            start = index - statement_above(lines, index).count("\n")
            first_indent = len(lines[start]) - len(lines[start].lstrip())
            end = next((at for at in range(index + 1, len(lines))
                        if re.match(rf" {{{min(indent, first_indent)}}}\}}", lines[at])), index)
            yield start + 1, end - start + 1
            index = end
        index += 1


def statement_above(lines, index):
    """The statement that ends in this line: it begins after the last line that ends one."""
    start = index
    while start > 0 and re.search(r"[^;{}:]\s*$", lines[start - 1]) and lines[start - 1].strip() \
            and not lines[start - 1].lstrip().startswith(("//", "#", "///")):
        start -= 1
    return "\n".join(lines[start:index + 1])


def function_length(tree):
    """A function has 50 lines at most."""
    for name in tree.sources(""):
        for first, count in function_lengths(tree.lines(name)):
            if count > LINES_PER_FUNCTION_MAX:
                yield Finding(name, first, f"a function of {count} lines; {LINES_PER_FUNCTION_MAX} is the most: take "
                                           "a step of it out and name it")


def columns(tree):
    """Sources and prose have 120 columns at most. In Markdown, tables and code may be wider: they cannot be wrapped."""
    for name in tree.matching("*.h", "*.cc", "*.c", "*.py", "*.sh", "*.md", "*.cmake", "*CMakeLists.txt", "dev",
                              ".ci/run"):
        for number, line in enumerate(tree.lines(name), 1):
            is_free = name.endswith(".md") and line.startswith(("|", "    "))
            if len(line) > COLUMNS_MAX and not is_free:
                yield Finding(name, number, f"{len(line)} columns; {COLUMNS_MAX} are the most: wrap it")


# --- documents

TEST_MACRO = re.compile(r"^\s*(?:TEST|TEST_F|TEST_P|TYPED_TEST)\(\s*(\w+)\s*,\s*(\w+)", re.MULTILINE)


def test_names(tree):
    names = set()
    for name in tree.matching("tests/*"):
        text = tree.text(name) if name.endswith((".cc", ".c", ".sh", ".py", ".txt")) else ""
        names |= {part for match in TEST_MACRO.findall(text) for part in (match[1], ".".join(match))}
        names |= set(re.findall(r"\b(?:NAME|test|check|prove)[ (]+['\"]?([\w.]+)", text))
    return names


def named_tests(tree):
    """Each test that docs/failure-modes.md names in its last column exists; `Begins…` names all that begin so."""
    names = test_names(tree)
    for name in tree.matching("docs/failure-modes.md"):
        for number, line in enumerate(tree.lines(name), 1):
            shown_by = line.rstrip(" |").rsplit("|", 1)[-1] if line.startswith("|") else ""
            for test in re.findall(r"`([A-Z]\w+(?:\.[A-Z]\w+)?…?)`", shown_by):
                begins = test.rstrip("…")
                holds = any(known.startswith(begins) for known in names) if test.endswith("…") else begins in names
                if not holds and not is_crash_point(tree, begins):
                    yield Finding(name, number, f"no test is called {test}; give it the name that the test has now")


def is_crash_point(tree, name):
    return any(f"k{name}" in tree.text(file) or f"({name})" in tree.text(file)
               for file in tree.matching("libshmstate/include/shmstate/detail/crash_point.h"))


def named_files(tree):
    """Each path into the tree that a document names exists."""
    tops = {name.split("/")[0] for name in tree.files if "/" in name}
    built = " ".join(tree.text(name) for name in tree.matching("*CMakeLists.txt"))
    folders = {"/".join(name.split("/")[:depth]) for name in tree.files for depth in range(1, name.count("/") + 1)}
    for name in tree.matching("*.md"):
        for number, line in enumerate(tree.lines(name), 1):
            for path in re.findall(r"`([\w.-]+(?:/[\w.-]+)+)/?`", line):
                is_known = path in tree or path in folders or posixpath.basename(path) in built
                if path.split("/")[0] in tops and not is_known:
                    yield Finding(name, number, f"there is no {path}; name what it has become")


def links_of(tree, name):
    for number, line in enumerate(tree.lines(name), 1):
        if line.startswith("    "):
            continue  # code
        for link in re.findall(r"\]\(([^)\s#]+)(?:#[^)]*)?\)", re.sub(r"`[^`]*`", "", line)):
            if "://" not in link and not link.startswith("mailto:"):
                yield number, posixpath.normpath(posixpath.join(posixpath.dirname(name), link))


def links(tree):
    """Each link of a document leads somewhere."""
    folders = {posixpath.dirname(name) for name in tree.files}
    for name in tree.matching("*.md"):
        for number, link in links_of(tree, name):
            if link not in tree and link not in folders:
                yield Finding(name, number, f"the link leads to {link}, which does not exist; correct it")


def reachable(tree):
    """Each document can be reached from docs/README.md."""
    seen, waiting = set(), ["docs/README.md"]
    while waiting:
        name = waiting.pop()
        if name in tree and name not in seen:
            seen.add(name)
            waiting += [link for _, link in links_of(tree, name)] if name.endswith(".md") else []
    for name in tree.matching("*.md"):
        if name not in seen:
            yield Finding(name, 1, "no way leads here from docs/README.md; link it there, or from a page that is")


RULES = {rule.__name__: rule for rule in (arrows, public_headers, pairs, pair_sides, system_calls, function_length,
                                          columns, named_tests, named_files, links, reachable)}
