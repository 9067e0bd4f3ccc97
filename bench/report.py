"""Makes tables, ratios, a line for each aim, and plots of what the benchmarks wrote."""

import collections
import dataclasses
import json
import statistics

import cores

kSizes = (1_000, 100_000, 1_000_000)
kMiddle = 100_000
kBeside = "read while a writer floods"
kCeilings = ("absl, string keys", "absl, inline keys")
kQueues = ("plain SPSC ring", "boost spsc_queue", "boost message_queue", "iceoryx")
kOwn = ("shmstate", "shmstate, bound keys")
kMutexMap = "mutex map"
kBegin, kEnd = "<!-- figures: begin (./dev bench --update-docs) -->", "<!-- figures: end -->"


@dataclasses.dataclass(frozen=True)
class Figure:
    """One number of one contender in one experiment; the tags say with how many keys and so on."""

    experiment: str
    contender: str
    tags: tuple  # of pairs, sorted
    name: str

    @classmethod
    def of(cls, experiment, contender, name, tags):
        return cls(experiment, contender, tuple(sorted(tags.items())), name)

    def tag(self, name):
        return dict(self.tags)[name]


class Results:
    """Samples over the repetitions, and their medians."""

    def __init__(self, document):
        self.samples = collections.defaultdict(list)  # by Figure
        self.contenders = []
        for result in document["results"]:
            if result["contender"] not in self.contenders:
                self.contenders.append(result["contender"])
            tags = {k: v for k, v in result.items() if k not in ("experiment", "contender", "figures", "failed")}
            for name, value in result.get("figures", {}).items():
                self.samples[Figure.of(result["experiment"], result["contender"], name, tags)].append(value)

    def values(self, experiment, contender, name, **tags):
        return self.samples.get(Figure.of(experiment, contender, name, tags), [])

    def median(self, experiment, contender, name, **tags):
        values = self.values(experiment, contender, name, **tags)
        return statistics.median(values) if values else None

    def figures(self, experiment, name=None):
        """All figures of an experiment, of all contenders; only those of that name if there is one."""
        return [figure for figure in self.samples
                if figure.experiment == experiment and name in (None, figure.name)]

    def tag_values(self, experiment, tag):
        return sorted({figure.tag(tag) for figure in self.figures(experiment)})


# ---- numbers as people read them


def in_time(ns):
    if ns is None:
        return "–"
    for unit, size in (("s", 1e9), ("ms", 1e6), ("µs", 1e3)):
        if ns >= 0.9995 * size:
            return f"{ns / size:.3g} {unit}"
    return f"{ns:.3g} ns"


def in_rate(per_second):
    return "–" if per_second is None else f"{per_second / 1e6:.3g} M/s"


def in_bytes(count):
    return "–" if count is None else f"{count:.0f} B"


def in_spread(values, form):
    if not values:
        return "–"
    if len(values) == 1:
        return form(values[0])
    return f"{form(statistics.median(values))} ({form(min(values))} … {form(max(values))})"


def table(heading, rows):
    widths = [max(len(str(row[i])) for row in [heading] + rows) for i in range(len(heading))]
    def line(row):
        return "| " + " | ".join(str(cell).ljust(width) for cell, width in zip(row, widths)) + " |"
    rule = "| " + " | ".join("-" * width for width in widths) + " |"
    return "\n".join([line(heading), rule] + [line(row) for row in rows])


# ---- ratios: what is measured for all


def uniform(keys):
    return {"keys": keys, "distribution": "uniform"}


def measures(keys):
    """Name, where it is found, how it is written, and whether less is better."""
    return [
        ("push", ("push", "mean", uniform(keys)), in_time, True),
        ("until readable, 1 writer", ("throughput", "rate", {"keys": keys, "writers": 1}), in_rate, False),
        ("point read", ("read", "mean", uniform(keys)), in_time, True),
        ("the same, writer floods", ("read while a writer floods", "mean", uniform(keys)), in_time, True),
        ("push to readable, p50", ("push to readable", "p50", uniform(keys)), in_time, True),
        ("p99", ("push to readable", "p99", uniform(keys)), in_time, True),
        ("scan", ("scan", "median", {"keys": keys}), in_time, True),
        ("memory a key", ("memory", "bytes_per_key", {"keys": keys}), in_bytes, True),
        ("without the feed", ("memory", "bytes_per_key_without_feed", {"keys": keys}), in_bytes, True),
    ]


def ratio_table(results, keys):
    found = measures(keys)
    rows = []
    for contender in results.contenders:
        row = [contender]
        for _, (experiment, figure, tags), form, is_less_better in found:
            ours = results.median(experiment, "shmstate", figure, **tags)
            theirs = results.median(experiment, contender, figure, **tags)
            cell = form(theirs)
            if ours and theirs and contender != "shmstate":
                cell += f" ({theirs / ours if is_less_better else ours / theirs:.3g}×)"
            row.append(cell)
        if any(cell != "–" for cell in row[1:]):
            rows.append(row)
    return table(["contender"] + [name for name, *_ in found], rows)


def beside_reader(results, contender, keys):
    """Mutations a second until readable, and reads a second, of a writer and a reader at full speed."""
    written = results.median(kBeside, contender, "flood_rate", **uniform(keys))
    read_ns = results.median(kBeside, contender, "mean", **uniform(keys))
    return (written, 1e9 / read_ns) if written and read_ns else None


def crosses_processes(contender):
    return not contender.startswith("shmstate") and contender != "dual queue" and contender not in kCeilings


def best_peer(results, keys, of):
    """The highest figure of those that hold state and cross processes; `of` gives that of a contender, or None."""
    found = [of(contender) for contender in results.contenders if crosses_processes(contender)]
    return max((figure for figure in found if figure), default=None)


def beside_reader_table(results, keys):
    peer = [best_peer(results, keys, lambda c: (beside_reader(results, c, keys) or (None, None))[i]) for i in (0, 1)]
    rows = []
    for contender in results.contenders:
        rates = beside_reader(results, contender, keys)
        if rates:
            is_ours = contender.startswith("shmstate")
            ratios = [f" ({rate / best:.3g}×)" if is_ours and best else "" for rate, best in zip(rates, peer)]
            rows.append([contender] + [in_rate(rate) + ratio for rate, ratio in zip(rates, ratios)])
    return table(["beside a reader at full speed", "written, until readable", "read"], rows)


def push_table(results, keys):
    rows = []
    for contender in results.contenders:
        values = results.values("push", contender, "mean", **uniform(keys))
        if values:
            rows.append([contender, in_spread(values, in_time)]
                        + [in_time(results.median("push", contender, q, **uniform(keys)))
                           for q in ("p50", "p99", "p99.9")])
    return table(["push", "mean (least … most)", "p50", "p99", "p99.9"], rows)


def latency_table(results, keys):
    rows = []
    for contender in results.contenders:
        values = results.values("push to readable", contender, "p50", **uniform(keys))
        if values:
            rows.append([contender, in_spread(values, in_time)]
                        + [in_time(results.median("push to readable", contender, q, **uniform(keys)))
                           for q in ("p99", "p99.9", "max")])
    return table(["push to readable", "p50 (least … most)", "p99", "p99.9", "most"], rows)


def publish_table(results):
    rows = []
    for figure in sorted(results.figures("publish", "p50"), key=str):
        rows.append([f"{figure.tag('changed'):,} of {figure.tag('keys'):,}",
                     in_spread(results.samples[figure], in_time),
                     in_time(results.median("publish", figure.contender, "p99", **dict(figure.tags)))])
    return table(["publish: changed keys", "p50 (least … most)", "p99"], rows)


def idle_table(results):
    rows = []
    for figure in results.figures("idle"):
        rows.append([figure.contender, f"{figure.tag('keys'):,}",
                     f"{100 * statistics.median(results.samples[figure]):.3f} %"])
    return table(["idle", "keys", "of a core"], rows)


def idle_rings_table(results):
    rows = []
    for rings in (0, 1000):
        tags = {"keys": kMiddle, "idle_rings": rings}
        rows.append([f"{rings:,}", in_spread(results.values("idle rings", "shmstate", "rate", **tags), in_rate),
                     in_time(results.median("idle rings", "shmstate", "p50", **tags)),
                     in_time(results.median("idle rings", "shmstate", "p99", **tags))])
    return table(["idle rings", "one busy writer", "push to readable, p50", "p99"], rows)


def writers_table(results):
    counts = results.tag_values("throughput", "writers")
    rows = []
    for contender in results.contenders:
        rates = [results.values("throughput", contender, "rate", keys=kMiddle, writers=n) for n in counts]
        if any(rates):
            rows.append([contender] + [in_spread(rate, in_rate) for rate in rates])
    return table(["writers"] + [str(n) for n in counts], rows)


def held_table(results):
    rows = []
    for figure in results.figures("held view", "push_max"):
        rows.append([figure.contender, in_time(statistics.median(results.samples[figure])),
                     in_time(results.median("held view", figure.contender, "readable_max", **dict(figure.tags)))])
    return table(["while a reader holds a view", "longest push", "longest until readable"], rows)


# ---- the machine's limits


def roofline_table(results):
    transfer = results.median("line transfer", "machine", "transfer")
    read_rate = results.median("bandwidth", "machine", "read")

    def access(kind, bytes_at_least):
        sizes = sorted(figure.tag("bytes") for figure in results.figures("random access", kind))
        fitting = [size for size in sizes if size >= bytes_at_least] or sizes[-1:]
        return results.median("random access", "machine", kind, bytes=fitting[0]) if fitting else None

    rows = []

    def add(name, figure, limit_name, limit):
        if figure and limit:
            rows.append([name, in_time(figure), limit_name, in_time(limit), f"{figure / limit:.3g}"])

    for keys in kSizes:
        slots = keys * 64
        add(f"point read, {keys:,} keys", results.median("read", "shmstate", "mean", **uniform(keys)),
            "one dependent access to as many lines", access("dependent", slots))
        rate = results.median("throughput", "shmstate", "rate", keys=keys, writers=1)
        prefetched = access("prefetched", slots)
        add(f"mutation until readable, {keys:,} keys", rate and 1e9 / rate,
            "two prefetched accesses (slot, its copy) and 5/8 of a line transfer, overlapped: the larger",
            prefetched and transfer and max(2 * prefetched, 0.625 * transfer / 8))
        add(f"push to readable, {keys:,} keys", results.median("push to readable", "shmstate", "p50", **uniform(keys)),
            "four line transfers: tail, record, epoch word, slot", transfer and 4 * transfer)
        add(f"scan, {keys:,} keys", results.median("scan", "shmstate", "median", keys=keys),
            "reading the slots' bytes", read_rate and keys * 65 * 1e9 / read_rate)
    add("push", results.median("push", "shmstate", "mean", **uniform(kMiddle)),
        "5/8 of a line transfer, eight under way", transfer and 0.625 * transfer / 8)
    return table(["figure", "measured", "limit", "measured limit", "ratio"], rows)


def machine_table(results):
    rows = [["line from core to core", in_spread(results.values("line transfer", "machine", "transfer"), in_time)]]
    for kind in ("copy", "read"):
        values = results.values("bandwidth", "machine", kind)
        rows.append([f"{kind} bandwidth", in_spread(values, lambda v: f"{v / 1e9:.3g} GB/s")])
    for figure in results.figures("random access"):
        rows.append([f"random line of {figure.tag('bytes') >> 10:,} KiB, {figure.name}",
                     in_spread(results.samples[figure], in_time)])
    return table(["the machine", "median (least … most)"], rows)


# ---- a core for each party


def cores_table(results, keys):
    lock = {"write": results.median("push", kMutexMap, "mean", **uniform(keys)),
            "read": results.median("read", kMutexMap, "mean", **uniform(keys))}
    together = beside_reader(results, kMutexMap, keys)
    rows = []
    for writers, readers in ((1, 1), (1, 4), (4, 4), (8, 8)):
        theirs = None
        if together and all(lock.values()):
            handover = cores.handover_of(lock["write"], lock["read"], *together)
            theirs = cores.simulate_lock(lock["write"], lock["read"], handover, writers, readers)
        for contender in kOwn:
            push = results.median("push", contender, "mean", **uniform(keys))
            rate = results.median("throughput", contender, "rate", keys=keys, writers=1)
            read = results.median(kBeside, contender, "mean", **uniform(keys))
            if not (theirs and push and rate and read):
                continue
            ours = cores.simulate_rings(push, 1e9 / rate, read, writers, readers)
            rows.append([contender, f"{writers} and {readers}", f"{writers + 1 + readers}", in_rate(ours.written),
                         in_rate(ours.read), in_rate(theirs.written), in_rate(theirs.read),
                         f"{ours.written / theirs.written:.3g}×", f"{ours.read / theirs.read:.3g}×"])
    return table(["simulated", "writers and readers", "cores", "written", "read", f"{kMutexMap}: written", "read",
                  "written", "read"], rows)


# ---- aims


class Aims:
    """A line for each aim: met, not met, or not measured."""

    def __init__(self, results):
        self.results = results
        self.rows = []

    def below(self, aim, figure, limit, form=in_time):
        self.add(aim, figure, limit, form, figure is not None and limit is not None and figure <= limit)

    def above(self, aim, figure, limit, form=in_rate):
        self.add(aim, figure, limit, form, figure is not None and limit is not None and figure >= limit)

    def add(self, aim, figure, limit, form, is_met):
        if figure is None or limit is None:
            self.rows.append([aim, "not measured", "–", "–", "–"])
        else:
            ratio = f"{figure / limit:.3g}" if limit else "–"
            self.rows.append([aim, "met" if is_met else "NOT MET", form(figure), form(limit), ratio])


def aims_of(results):
    aims = Aims(results)
    median = results.median
    for keys in (kMiddle,):
        aims.below("push of a 24-byte key and 8-byte value: no dearer than a plain SPSC ring carrying the same bytes",
                   median("push", "shmstate", "mean", **uniform(keys)),
                   median("push", "plain SPSC ring", "mean", **uniform(keys)))
        aims.below("push, p99.9: under 1 µs while the merger keeps up",
                   median("push", "shmstate", "p99.9", **uniform(keys)), 1000.0)
    aims.below("push: no system call", median("system calls", "shmstate", "system_calls", keys=kMiddle), 0.0,
               lambda count: f"{count:.0f} calls")
    for keys, least in zip(kSizes, (40e6, 30e6, 10e6)):
        aims.above(f"writer to readable, one writer, one merger, two cores: ≥ {least / 1e6:.0f} M/s at {keys:,} keys",
                   median("throughput", "shmstate", "rate", keys=keys, writers=1), least)
    for contender, multiples in zip(kOwn, ((2, 3, 6), (4, 5, 6))):
        for keys, multiple in zip(kSizes, multiples):
            peer = best_peer(results, keys, lambda c: (beside_reader(results, c, keys) or (None,))[0])
            ours = beside_reader(results, contender, keys)
            aims.above(f"{contender}, one writer until readable beside a reader at full speed, two cores: "
                       f"≥ {multiple} × the best peer that crosses processes, {keys:,} keys",
                       ours and ours[0], peer and multiple * peer)
    for experiment, name in (("read", "point read"), ("read while a writer floods", "the same while a writer floods")):
        for keys in kSizes:
            aims.below(f"{name}: no slower than a private absl::flat_hash_map<std::string, int64_t>, {keys:,} keys",
                       median(experiment, "shmstate", "mean", **uniform(keys)),
                       median("read", "absl, string keys", "mean", **uniform(keys)))
        for keys in (kSizes[0], kSizes[-1]):
            inline = median("read", "absl, inline keys", "mean", **uniform(keys))
            aims.below(f"{name}: within 1.2 × of fixed-size inline keys, {keys:,} keys",
                       median(experiment, "shmstate", "mean", **uniform(keys)), inline and 1.2 * inline)
    for keys, limit in ((kSizes[0], 1000.0), (kSizes[-1], 2000.0)):
        aims.below(f"push to readable, merger spinning: p50 under {limit / 1000:.0f} µs at {keys:,} keys",
                   median("push to readable", "shmstate", "p50", **uniform(keys)), limit)
    for keys in kSizes:
        aims.below(f"push to readable, merger spinning: p99 under 5 µs, {keys:,} keys",
                   median("push to readable", "shmstate", "p99", **uniform(keys)), 5000.0)
    last = median("publish", "shmstate", "p50", keys=kSizes[-1], changed=1)
    aims.below("publish of 1 changed key among 1,000,000: under 1 µs", last, 1000.0)
    first = median("publish", "shmstate", "p50", keys=kSizes[0], changed=1)
    aims.below("publish of 1 changed key: independent of the state's size (1,000,000 keys at most 3 × 1,000 keys: "
               "caches)",
               last, first and 3 * first)
    aims.below("full consistent scan of 1,000,000 keys: under 3 ms",
               median("scan", "shmstate", "median", keys=kSizes[-1]), 3e6)
    aims.below("memory, 24-byte key and 8-byte value, two buffers: ≤ 200 bytes a key on average over growth",
               median("growth", "shmstate", "mean", keys=kSizes[-1]), 200.0, in_bytes)
    aims.below("idle merger: no measurable CPU (below 0.1 % of a core)",
               median("idle", "shmstate, merger sleeping", "cpu_share", keys=kMiddle), 0.001,
               lambda share: f"{100 * share:.2g} %")
    busy = median("idle rings", "shmstate", "rate", keys=kMiddle, idle_rings=0)
    aims.above("1,000 idle rings beside one busy ring: the busy one loses less than 10 %",
               median("idle rings", "shmstate", "rate", keys=kMiddle, idle_rings=1000), busy and 0.9 * busy)
    return table(["aim", "outcome", "measured", "limit", "measured / limit"], aims.rows)


# ---- instructions


def instructions_table(counted, committed):
    rows = [[name, f"{count:.1f}", f"{committed.get(name, 0):.1f}",
             f"{100 * (count / committed[name] - 1):+.1f} %" if committed.get(name) else "new"]
            for name, count in counted.items()]
    return table(["instructions (callgrind)", "now", "committed", "change"], rows)


# ---- plots

kStyle = {"shmstate": dict(color="black", linewidth=2.5, zorder=3)}


def new_plot(title, x_label, y_label):
    from matplotlib import pyplot
    figure, axes = pyplot.subplots(figsize=(8, 5))
    axes.set(title=title, xlabel=x_label, ylabel=y_label, xscale="log", yscale="log")
    axes.grid(True, which="major", alpha=0.3)
    return figure, axes


def save_plot(figure, axes, path):
    from matplotlib import pyplot
    if axes.lines:
        axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
        figure.savefig(path, bbox_inches="tight")
    pyplot.close(figure)


def plot_against_size(results, path, title, experiment, figure_name, tags_of, y_label):
    sizes = results.tag_values(experiment, "keys")
    figure, axes = new_plot(title, "keys", y_label)
    for contender in results.contenders:
        points = [(n, results.median(experiment, contender, figure_name, **tags_of(n))) for n in sizes]
        points = [point for point in points if point[1]]
        if points:
            axes.plot(*zip(*points), marker="o", label=contender, **kStyle.get(contender, {}))
    save_plot(figure, axes, path)


def plot_against_writers(results, path):
    counts = results.tag_values("throughput", "writers")
    figure, axes = new_plot("Mutations per second until readable, 100,000 keys", "writers", "mutations per second")
    for contender in results.contenders:
        points = [(n, results.median("throughput", contender, "rate", keys=kMiddle, writers=n)) for n in counts]
        points = [point for point in points if point[1]]
        if points:
            axes.plot(*zip(*points), marker="o", label=contender, **kStyle.get(contender, {}))
    save_plot(figure, axes, path)


def plot_distribution(results, path, title, experiment):
    shares = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999}
    figure, axes = new_plot(title, "share of operations that take longer", "ns")
    for contender in results.contenders:
        points = [(1 - share, results.median(experiment, contender, name, **uniform(kMiddle)))
                  for name, share in shares.items()]
        points = [point for point in points if point[1]]
        if points:
            axes.plot(*zip(*points), marker="o", label=contender, **kStyle.get(contender, {}))
    axes.invert_xaxis()
    save_plot(figure, axes, path)


def draw(results, directory):
    import matplotlib
    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "shmstate"
    directory.mkdir(parents=True, exist_ok=True)
    plot_against_size(results, directory / "read.svg", "Point read", "read", "mean", uniform, "ns")
    plot_against_size(results, directory / "push.svg", "Push", "push", "mean", uniform, "ns")
    plot_against_size(results, directory / "throughput.svg", "Mutations per second until readable, one writer",
                      "throughput", "rate", lambda n: {"keys": n, "writers": 1}, "mutations per second")
    plot_against_size(results, directory / "readable.svg", "Push to readable, median", "push to readable", "p50",
                      uniform, "ns")
    plot_against_writers(results, directory / "writers.svg")
    plot_distribution(results, directory / "push-distribution.svg", "Push, 100,000 keys", "push")
    plot_distribution(results, directory / "readable-distribution.svg", "Push to readable, 100,000 keys",
                      "push to readable")


# ---- the whole report


def text_of(results, counted, committed):
    sizes = results.tag_values("read", "keys")
    parts = []
    for keys in sizes:
        parts += [f"### {keys:,} keys\n\nIn brackets: how much better than the best peer that crosses processes.",
                  beside_reader_table(results, keys),
                  "In brackets: how much better shmstate is; below 1 it is worse.",
                  ratio_table(results, keys), push_table(results, keys), latency_table(results, keys)]
    parts += [f"### A core for each party\n\nSimulated from the costs above, {kMiddle:,} keys.",
              cores_table(results, kMiddle)]
    parts += ["### Writers\n\nMutations per second until readable, 100,000 keys.", writers_table(results),
              "### What a publish costs", publish_table(results),
              "### A reader that holds a view", held_table(results),
              "### With nothing to do", idle_table(results), idle_rings_table(results)]
    large = {name: results.median("large", "shmstate", name, keys=10_000_000)
             for name in ("build_rate", "rate", "read", "scan", "latency_p50", "bytes_per_key")}
    if large["read"]:
        parts += ["### 10,000,000 keys",
                  table(["built", "then", "point read", "scan", "push to readable, p50", "memory a key"],
                        [[in_rate(large["build_rate"]), in_rate(large["rate"]), in_time(large["read"]),
                          in_time(large["scan"]), in_time(large["latency_p50"]), in_bytes(large["bytes_per_key"])]])]
    if counted:
        parts += ["### Instructions", instructions_table(counted, committed)]
    parts += ["### The machine's limits", machine_table(results), roofline_table(results),
              "### Aims", aims_of(results)]
    return "\n\n".join(parts) + "\n"


def update_docs(text, page):
    old = page.read_text()
    head, rest = old.split(kBegin)
    tail = rest.split(kEnd)[1]
    page.write_text(head + kBegin + "\n\n" + text + "\n" + kEnd + tail)


def load(path):
    return Results(json.loads(path.read_text()))
