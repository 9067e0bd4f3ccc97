#!/usr/bin/python3
"""What the comparison of two revisions (bench/comparison.py) makes of samples: medians, ratios, intervals, and rows of
what only one side can do."""

import json
import pathlib
import sys
import unittest

kRoot = pathlib.Path(__file__).resolve().parent.parent
sys.dont_write_bytecode = True
sys.path.insert(0, str(kRoot / "bench"))
import comparison  # noqa: E402


def series(measurement="read", figure="burst", keys=1000, then=(), now=()):
    return {"keys": keys, "measurement": measurement, "figure": figure, "then": list(then), "now": list(now)}


def document(entries, **more):
    revision = {"commit": "0123456789abcdef", "subject": "A change"}
    machine = {"processor": "P", "cores": 2, "kernel": "6", "compiler": "c++", "load": "0.1"}
    return {"then": revision, "now": revision, "machine": machine, "rounds": 3, "failures": [],
            "instructions": {"then": {}, "now": {}}, "series": entries, **more}


def one(entry):
    return comparison.series_of(document([entry]))[0]


def cells(text, first):
    """Of the row that begins so."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    return [row for row in rows if row[0] == first]


class Ratios(unittest.TestCase):
    def test_a_ratio_is_made_of_the_best_turns_of_one_round(self):
        read = one(series(then=[[10, 30], [100, 200]], now=[[40, 20], [50, 500]]))
        self.assertEqual(read.ratios(), [2.0, 0.5])

    def test_of_a_rate_more_is_cheaper(self):
        apply = one(series("apply", "rate", then=[[10e6, 5e6]], now=[[20e6, 1e6]]))
        self.assertEqual(apply.ratios(), [0.5])

    def test_a_failed_turn_does_not_count(self):
        read = one(series(then=[[10, None], [None, None]], now=[[20, 20], [30, 30]]))
        self.assertEqual(read.ratios(), [2.0])

    def test_medians_are_over_rounds(self):
        read = one(series(then=[[1, None], [9, 5], [7, 8], [None, None]], now=[[], [], [], []]))
        self.assertEqual(read.median("then"), 5)
        self.assertIsNone(read.median("now"))


class Intervals(unittest.TestCase):
    def test_confidence_is_that_of_the_sign_test(self):
        self.assertEqual(comparison.interval([3, 1, 2])[:2], (1, 3))
        self.assertAlmostEqual(comparison.interval([3, 1, 2])[2], 0.75)
        self.assertEqual(comparison.interval([7])[:2], (7, 7))
        self.assertEqual(comparison.interval([7])[2], 0.0)

    def test_outliers_are_left_out_as_far_as_the_confidence_allows(self):
        low, high, confidence = comparison.interval(range(12))
        self.assertEqual((low, high), (1, 10))  # 1 - 2 (1 + 12) / 2^12
        self.assertAlmostEqual(confidence, 1 - 26 / 4096)
        self.assertEqual(comparison.interval(range(11))[:2], (0, 10))  # 1 - 2 (1 + 11) / 2^11 is less than 99 %

    def test_only_an_interval_beside_1_says_something(self):
        self.assertEqual(comparison.verdict(0.9, 1.1, 0.99), "–")
        self.assertEqual(comparison.verdict(1.0, 1.1, 0.99), "–")
        self.assertEqual(comparison.verdict(1.01, 1.1, 0.99), "dearer")
        self.assertEqual(comparison.verdict(0.9, 0.99, 0.99), "cheaper")

    def test_too_few_rounds_say_nothing(self):
        self.assertEqual(comparison.verdict(1.01, 1.1, 0.75), "–")


class Text(unittest.TestCase):
    def test_each_row_has_medians_ratio_and_spread(self):
        text = comparison.text_of(document([series(then=[[10, 10]] * 8, now=[[20, 30]] + [[22, 22]] * 6 + [[30, 24]])]))
        self.assertEqual(cells(text, "read"), [["read", "10 ns", "22 ns", "2.200", "2.000 … 2.400", "dearer"]])
        self.assertIn("confidence of 99.2 % each", text)

    def test_what_one_side_cannot_do_is_in_a_table_without_ratios(self):
        text = comparison.text_of(document([series(then=[[], []], now=[[20, 20], [20, 20]])]))
        self.assertEqual(cells(text, "read"), [])
        self.assertEqual(cells(text, "read, 1,000 keys"), [["read, 1,000 keys", "–", "20 ns"]])

    def test_what_failed_is_told(self):
        text = comparison.text_of(document([series(then=[[None, None]], now=[[20, 20]])],
                                           failures=["then: read, 1,000 keys: a key is missing"]))
        self.assertIn("- then: read, 1,000 keys: a key is missing", text)
        self.assertEqual(cells(text, "read, 1,000 keys"), [["read, 1,000 keys", "–", "20 ns"]])

    def test_instructions_have_ratios_where_both_sides_were_counted(self):
        counted = {"then": {"read": 200.0}, "now": {"read": 150.0, "push": 160.0}}
        text = comparison.text_of(document([], instructions=counted))
        self.assertEqual(cells(text, "read"), [["read", "200.0", "150.0", "0.750"]])
        self.assertEqual(cells(text, "push, instructions"), [["push, instructions", "–", "160.0"]])

    def test_changes_that_are_not_committed_are_told(self):
        now = {"commit": "f" * 40, "subject": "Another", "dirty": True}
        self.assertIn("now: ffffffffffff (Another), and changes that are not committed",
                      comparison.text_of(document([], now=now)))

    def test_committed_runs_can_be_read(self):
        for file in sorted((kRoot / "bench/samples").glob("*.json")):
            with self.subTest(file.name):
                text = comparison.text_of(json.loads(file.read_text()))
                self.assertGreaterEqual(len(cells(text, "read")), 1)


if __name__ == "__main__":
    unittest.main()
