"""What a core for each party would give, which a machine of two cores cannot show: a simulation of the measured costs.

Parties that share a lock take turns at it, first come, first served; when it goes to another core, its line and what
it guards go too. Writers of shmstate fill rings, each its own, the merger empties them in turns, and readers meet
nobody."""

import collections
import dataclasses
import heapq

kSteps = 20_000  # of the simulation
kRingMutations = 26_000  # that fit a ring of the default size


@dataclasses.dataclass(frozen=True)
class Rates:
    """Operations a second, of all writers and of all readers."""

    written: float
    read: float


def simulate_lock(write_ns, read_ns, handover_ns, writers, readers):
    costs = [write_ns] * writers + [read_ns] * readers
    waiting = collections.deque(range(len(costs)))
    done = [0] * len(costs)
    now, holder = 0.0, None
    for _ in range(kSteps):
        party = waiting.popleft()
        now += costs[party] + (handover_ns if party != holder else 0.0)
        holder = party
        done[party] += 1
        waiting.append(party)
    return Rates(sum(done[:writers]) / now * 1e9, sum(done[writers:]) / now * 1e9)


def simulate_rings(push_ns, merge_ns, read_ns, writers, readers):
    """Each writer pushes chunks as long as its ring has room; the merger takes what there is, ring by ring."""
    chunk = 1_000
    filled = [0] * writers
    blocked = set()
    events = [(chunk * push_ns, writer) for writer in range(writers)]  # when its next chunk is in the ring
    merger_free, merged, now = 0.0, 0, 0.0
    for _ in range(kSteps):
        if events and (events[0][0] <= merger_free or not any(filled)):
            now, writer = heapq.heappop(events)
            filled[writer] += chunk
            if filled[writer] + chunk > kRingMutations:
                blocked.add(writer)
            else:
                heapq.heappush(events, (now + chunk * push_ns, writer))
            continue
        now = max(now, merger_free)
        fullest = max(range(writers), key=filled.__getitem__)
        merger_free = now + chunk * merge_ns
        filled[fullest] -= chunk
        merged += chunk
        if fullest in blocked:
            blocked.discard(fullest)
            heapq.heappush(events, (merger_free + chunk * push_ns, fullest))
    return Rates(merged / max(now, merger_free) * 1e9, readers / read_ns * 1e9)


def handover_of(write_ns, read_ns, written_per_s, read_per_s):
    """What an operation takes longer beside another core that wants the same lock."""
    total = written_per_s + read_per_s
    alone_ns = (write_ns * written_per_s + read_ns * read_per_s) / total
    return max(0.0, 1e9 / total - alone_ns)
