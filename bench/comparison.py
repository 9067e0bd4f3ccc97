"""Makes tables of what bench/against measured of two revisions, "then" and "now"."""

import dataclasses
import math
import statistics

from report import in_bytes, in_rate, in_time, table

kConfidence = 0.99  # of each interval: a comparison has some thirty of them
kSides = ("then", "now")


@dataclasses.dataclass(frozen=True)
class Measurement:
    """What the driver is asked for, and the figures of its answer that are reported."""

    name: str
    figures: tuple
    form: object = in_time
    is_less_better: bool = True


kMeasurements = (
    Measurement("push", ("burst",)),
    Measurement("push, bound key", ("burst",)),
    Measurement("push, batches of 16", ("burst",)),
    Measurement("apply", ("rate",), in_rate, False),
    Measurement("push to readable", ("p50", "p99")),
    Measurement("read", ("burst",)),
    Measurement("read, absent key", ("burst",)),
    Measurement("read, bound key", ("burst",)),
    Measurement("get_many of 16, values", ("burst",)),
    Measurement("get_many of 16, numbers", ("burst",)),
    Measurement("snapshot, taken and dropped", ("burst",)),
    Measurement("find in a snapshot", ("burst",)),
    Measurement("scan", ("median",)),
    Measurement("memory", ("bytes_per_key",), in_bytes),
)
kNotCounted = ("apply", "push to readable", "scan", "memory")  # nothing that the driver does a known number of times


@dataclasses.dataclass
class Series:
    """One figure: for each round the turns of either side. A turn that failed is None."""

    keys: int
    measurement: Measurement
    figure: str
    then: list
    now: list

    @property
    def label(self):
        return self.measurement.name + (f", {self.figure}" if len(self.measurement.figures) > 1 else "")

    def bests(self, side):
        """The best turn of each round: what disturbs a turn only makes it dearer. None where there is none."""
        best = min if self.measurement.is_less_better else max
        return [best((turn for turn in turns if turn is not None), default=None) for turns in getattr(self, side)]

    def median(self, side):
        """Over the rounds; None when there are none."""
        bests = [best for best in self.bests(side) if best is not None]
        return statistics.median(bests) if bests else None

    def ratios(self):
        """Cost now by cost then, round by round: what the machine does to a round it does to both sides of it."""
        pairs = [(then, now) for then, now in zip(self.bests("then"), self.bests("now")) if then and now]
        return [now / then if self.measurement.is_less_better else then / now for then, now in pairs]


def series_of(document):
    measurements = {measurement.name: measurement for measurement in kMeasurements}
    return [Series(entry["keys"], measurements[entry["measurement"]], entry["figure"], entry["then"], entry["now"])
            for entry in document["series"] if entry["measurement"] in measurements]


def interval(values, confidence=kConfidence):
    """Between which of the values the median of their distribution lies, with that confidence or more, whatever the
    distribution is (it is below all n of them with probability 1/2^n). Too few values give least and most, and less
    confidence. Returns both ends and the confidence."""
    ordered = sorted(values)
    n = len(ordered)

    def covered(left_out):
        return 1 - 2 * sum(math.comb(n, i) for i in range(left_out + 1)) / 2**n

    left_out = 0
    while left_out + 1 < n // 2 and covered(left_out + 1) >= confidence:
        left_out += 1
    return ordered[left_out], ordered[n - 1 - left_out], covered(left_out) if n > 1 else 0.0


def verdict(low, high, confidence):
    """Nothing, when there were too few rounds to say something."""
    if confidence < kConfidence or low <= 1 <= high:
        return "–"
    return "dearer" if low > 1 else "cheaper"


def ratio_rows(series):
    rows = []
    for one in series:
        ratios = one.ratios()
        if not ratios:
            continue
        low, high, confidence = interval(ratios)
        form = one.measurement.form
        rows.append([one.label, form(one.median("then")), form(one.median("now")), f"{statistics.median(ratios):.3f}",
                     f"{low:.3f} … {high:.3f}", verdict(low, high, confidence)])
    return rows


def one_sided_rows(series):
    """What only one of the two can do, or did without a failure."""
    rows = []
    for one in series:
        if not one.ratios():
            form = one.measurement.form
            rows.append([f"{one.label}, {one.keys:,} keys", form(one.median("then")), form(one.median("now"))])
    return rows


def confidence_of(series):
    """That all intervals have."""
    return min((interval(ratios)[2] for one in series if (ratios := one.ratios())), default=0.0)


def instruction_rows(instructions):
    """Rows with a ratio, and rows of what only one side can do."""
    both, one_sided = [], []
    names = list(dict.fromkeys([*instructions["then"], *instructions["now"]]))
    for name in names:
        then, now = (instructions[side].get(name) for side in kSides)
        if then and now:
            both.append([name, f"{then:.1f}", f"{now:.1f}", f"{now / then:.3f}"])
        else:
            one_sided.append([f"{name}, instructions", *(f"{count:.1f}" if count else "–" for count in (then, now))])
    return both, one_sided


def revision_text(revision):
    text = f"{revision['commit'][:12]} ({revision['subject']})"
    return text + (", and changes that are not committed" if revision.get("dirty") else "")


def heading_of(document, series):
    machine = document["machine"]
    lines = [f"- then: {revision_text(document['then'])}",
             f"- now: {revision_text(document['now'])}",
             f"- {machine['processor']}, {machine['cores']} cores, load {machine['load']}; Linux {machine['kernel']}; "
             f"{machine['compiler']}",
             f"- {document['rounds']} rounds; the intervals hold the median ratio with a confidence of "
             f"{100 * confidence_of(series):.3g} % each"]
    return "\n".join(lines)


def text_of(document):
    series = series_of(document)
    parts = [heading_of(document, series)]
    for keys in sorted({one.keys for one in series}):
        rows = ratio_rows([one for one in series if one.keys == keys])
        parts.append(table([f"{keys:,} keys", "then", "now", "cost, now / then", "between", "now is"], rows))
    counted, one_sided = instruction_rows(document["instructions"])
    if counted:
        parts.append(table(["instructions (callgrind), one operation", "then", "now", "now / then"], counted))
    one_sided = one_sided_rows(series) + one_sided
    if one_sided:
        parts.append(table(["without a ratio: one side cannot do it", "then", "now"], one_sided))
    if document["failures"]:
        parts.append("Failed:\n\n" + "\n".join(f"- {failure}" for failure in document["failures"]))
    return "\n\n".join(parts) + "\n"
