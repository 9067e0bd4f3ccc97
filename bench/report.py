"""Makes tables of the results of shmstate-bench."""

import collections
import json
import statistics


class Results:
    """Medians over the repetitions, found by experiment, contender and tags."""

    def __init__(self, document):
        self.samples = collections.defaultdict(list)
        for result in document["results"]:
            if "figures" not in result:
                continue
            tags = {k: v for k, v in result.items() if k not in ("experiment", "contender", "figures")}
            key = (result["experiment"], result["contender"], tuple(sorted(tags.items())))
            for name, value in result["figures"].items():
                self.samples[key + (name,)].append(value)

    def values(self, experiment, contender, figure, **tags):
        return self.samples.get((experiment, contender, tuple(sorted(tags.items())), figure), [])

    def median(self, experiment, contender, figure, **tags):
        values = self.values(experiment, contender, figure, **tags)
        return statistics.median(values) if values else None


def write(results_file, output):
    results = Results(json.loads(results_file.read_text()))
    lines = []
    for (experiment, contender, tags, figure), values in sorted(results.samples.items(), key=str):
        named = ", ".join(f"{k} {v}" for k, v in tags)
        lines.append(f"{experiment:28} {contender:28} {named:36} {figure:14} {statistics.median(values):14.4g}")
    (output / "figures.txt").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
