// The pure parts of the demo: what it makes of /proc, and what the live view makes of the merged state.
#include <gtest/gtest.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include "live_screen.h"
#include "live_table.h"
#include "mutation_lines.h"
#include "proc_parser.h"
#include "staleness_histogram.h"

namespace shmstate::demo {
namespace {

using namespace std::chrono_literals;

/// The lines that a parser adds to a batch.
std::string lines_of(const std::function<void(MutationLines&)>& parse) {
  MutationLines lines;
  lines.begin();
  parse(lines);
  std::string batch(lines.commit("n"));
  batch.erase(0, std::string_view("begin\n").size());
  return batch.substr(0, batch.find("set n "));
}

std::string lines_of(void (*parse)(std::string_view, MutationLines&), std::string_view text) {
  return lines_of([&](MutationLines& lines) { parse(text, lines); });
}

// A batch starts with begin, ends with commit, and counts its own mutations.
TEST(DemoMutationLines, BatchIsFramedAndCounted) {
  MutationLines lines;
  lines.begin();
  lines.set_integer("cpu/0/", "user", -7);
  lines.add("samples", 1);
  EXPECT_EQ(lines.commit("count"), "begin\nset cpu/0/user -7\nadd samples 1\nset count 3\ncommit\n");
  lines.begin();
  lines.set_integer("cpu/0/", "user", 8);
  EXPECT_EQ(lines.commit("count"), "begin\nset cpu/0/user 8\nset count 5\ncommit\n");
}

// A key that is not set again is erased, once, and lives again when it comes back.
TEST(DemoMutationLines, WhatVanishesIsErasedOnce) {
  MutationLines lines;
  lines.begin();
  lines.set_integer("a", "", 1);
  lines.set_integer("b", "", 1);
  EXPECT_EQ(lines.commit("n"), "begin\nset a 1\nset b 1\nset n 3\ncommit\n");
  lines.begin();
  lines.set_integer("a", "", 1);
  EXPECT_EQ(lines.commit("n"), "begin\nset a 1\ndel b\nset n 6\ncommit\n");
  lines.begin();
  lines.set_integer("a", "", 1);
  EXPECT_EQ(lines.commit("n"), "begin\nset a 1\nset n 8\ncommit\n");
  lines.begin();
  lines.set_integer("a", "", 1);
  lines.set_integer("b", "", 2);
  EXPECT_EQ(lines.commit("n"), "begin\nset a 1\nset b 2\nset n 11\ncommit\n");
}

// Text stays text, floats stay floats, and any byte survives as one word of one line.
TEST(DemoMutationLines, ValuesKeepTheirType) {
  MutationLines lines;
  lines.begin();
  lines.set_text("k/", "digits", "42");
  lines.set_text("k/", "empty", "");
  lines.set_text("k/", "odd name", "a \"b\" \\ \n\x80=");
  lines.set_float("k/", "whole", 1.0);
  lines.set_float("k/", "part", 0.25);
  EXPECT_EQ(lines.commit("n"),
            "begin\nset:s k/digits 42\nset:s k/empty \"\"\nset:s \"k/odd name\" \"a \\\"b\\\" \\\\ \\x0a\\x80=\"\n"
            "set:f k/whole 1\nset:f k/part 0.25\nset n 6\ncommit\n");
}

// /proc/stat gives each processor's ticks and the host's counters.
TEST(DemoProcParser, Stat) {
  const std::string lines = lines_of(parse_stat,
                                     "cpu  10 20 30 40 50 60 70 80 90 100\n"
                                     "cpu1 1 2 3 4 5 6 7 8 9 10\n"
                                     "intr 12345 1 2 3\n"
                                     "ctxt 678\n"
                                     "btime 1\n"
                                     "processes 9\n");
  EXPECT_TRUE(lines.starts_with("set cpu/all/user 10\nset cpu/all/nice 20\nset cpu/all/system 30\n")) << lines;
  EXPECT_NE(lines.find("set cpu/1/user 1\n"), std::string::npos);
  EXPECT_TRUE(
      lines.ends_with("set cpu/1/guest_nice 10\nset cpu/interrupts 12345\nset cpu/context_switches 678\n"
                      "set cpu/forks 9\n"))
      << lines;
}

// Loads are floats, the number of tasks is an integer.
TEST(DemoProcParser, Loadavg) {
  EXPECT_EQ(lines_of(parse_loadavg, "0.03 1.00 0.02 1/123 4567\n"),
            "set:f cpu/load_1min 0.03\nset:f cpu/load_5min 1\nset:f cpu/load_15min 0.02\nset cpu/tasks 123\n");
}

// Averages of pressure are floats, totals integers.
TEST(DemoProcParser, Pressure) {
  EXPECT_EQ(lines_of(parse_disk_pressure, "some avg10=1.25 total=17\nfull avg10=0.00 total=3\n"),
            "set:f disk/pressure/some_avg10_percent 1.25\nset disk/pressure/some_total_us 17\n"
            "set:f disk/pressure/full_avg10_percent 0\nset disk/pressure/full_total_us 3\n");
}

// Names of /proc/meminfo and /proc/vmstat stay as they are.
TEST(DemoProcParser, Memory) {
  EXPECT_EQ(lines_of(parse_meminfo, "MemTotal:       24684096 kB\nActive(anon):  7 kB\nHugePages_Total:       0\n"),
            "set memory/MemTotal 24684096\nset memory/Active(anon) 7\nset memory/HugePages_Total 0\n");
  EXPECT_EQ(lines_of(parse_vmstat, "nr_free_pages 5\npgfault 6\n"),
            "set memory/vmstat/nr_free_pages 5\nset memory/vmstat/pgfault 6\n");
}

// Headings of /proc/net/dev are skipped; an alias with a colon is an interface like any other.
TEST(DemoProcParser, NetDev) {
  const std::string lines = lines_of(parse_net_dev,
                                     "Inter-|   Receive |  Transmit\n"
                                     " face |bytes    packets errs\n"
                                     "  eth0: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n"
                                     "eth0:1:17 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n");
  EXPECT_TRUE(
      lines.starts_with("set net/eth0/rx_bytes 1\nset net/eth0/rx_packets 2\nset net/eth0/rx_errors 3\n"
                        "set net/eth0/rx_dropped 4\nset net/eth0/rx_multicast_packets 8\n"
                        "set net/eth0/tx_bytes 9\nset net/eth0/tx_packets 10\n"))
      << lines;
  EXPECT_NE(lines.find("set net/eth0:1/rx_bytes 17\n"), std::string::npos) << lines;
}

// Sectors become bytes, and a device that was never used is left out.
TEST(DemoProcParser, Diskstats) {
  EXPECT_EQ(
      lines_of(parse_diskstats,
               "   7       0 loop0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n"
               " 254       0 vda 1 2 3 4 5 6 7 8 9 10 11 0 0 0 0 0 0\n"),
      "set disk/vda/reads 1\nset disk/vda/reads_merged 2\nset disk/vda/read_bytes 1536\nset disk/vda/read_ms 4\n"
      "set disk/vda/writes 5\nset disk/vda/writes_merged 6\nset disk/vda/written_bytes 3584\n"
      "set disk/vda/write_ms 8\nset disk/vda/in_flight 9\nset disk/vda/busy_ms 10\nset disk/vda/weighted_ms 11\n");
}

// A process may call itself anything, also something that looks like the end of its name.
TEST(DemoProcParser, ProcessStat) {
  EXPECT_EQ(lines_of([](MutationLines& lines) {
              parse_process_stat("42 (a) R (b) S 1 42 42 0 -1 4194560 11 12 13 14 15 16 17 18 20 0 3 0 99\n",
                                 "process/42/", lines);
            }),
            "set:s process/42/name \"a) R (b\"\nset:s process/42/state S\nset process/42/parent 1\n"
            "set process/42/minor_faults 11\nset process/42/major_faults 13\nset process/42/user_ticks 15\n"
            "set process/42/system_ticks 16\nset process/42/priority 20\nset process/42/nice 0\n"
            "set process/42/threads 3\n");
}

// Pages become bytes.
TEST(DemoProcParser, ProcessStatm) {
  EXPECT_EQ(
      lines_of([](MutationLines& lines) { parse_process_statm("100 50 25 1 0 10 0\n", "process/42/", 4096, lines); }),
      "set process/42/virtual_bytes 409600\nset process/42/rss_bytes 204800\nset process/42/shared_bytes 102400\n"
      "set process/42/data_bytes 40960\n");
}

// What no kernel would write is left out, and nothing else happens.
TEST(DemoProcParser, NonsenseIsLeftOut) {
  for (const std::string_view nonsense :
       {"", "\n\n", "   ", ":", ")(", "cpu", "cpu0 x y", "ctxt", "a: b", "1 2", "1 2 vda 18446744073709551615 x",
        "MemFree: 99999999999999999999 kB", "some avg10 avg60= total=x", "1 2 sda 0 0 9223372036854775807"}) {
    const std::string lines = lines_of([&](MutationLines& all) {
      parse_stat(nonsense, all);
      parse_loadavg(nonsense.substr(0, 0), all);
      parse_meminfo(nonsense, all);
      parse_vmstat(nonsense.substr(0, nonsense.find(' ')), all);
      parse_net_dev(nonsense, all);
      parse_cpu_pressure(nonsense, all);
      parse_process_stat(nonsense, "process/1/", all);
      parse_process_statm("x", "process/1/", 4096, all);
    });
    EXPECT_EQ(lines, "") << nonsense;
  }
  EXPECT_EQ(lines_of(parse_diskstats, "1 2 sda 1 0 9223372036854775807\n"),
            "set disk/sda/reads 1\nset disk/sda/reads_merged 0\n");
}

// A quantile is never below the exact one, and at most 1/32 above it.
TEST(DemoStalenessHistogram, QuantilesAreClose) {
  StalenessHistogram staleness;
  EXPECT_EQ(staleness.quantile(0.5), 0ns);
  for (int i = 1; i <= 1000; ++i) staleness.record(i * 1us);
  for (const double share : {0.5, 0.9, 0.99}) {
    const auto exact_ns = static_cast<std::int64_t>(share * 1e6);
    EXPECT_GE(staleness.quantile(share).count(), exact_ns);
    EXPECT_LE(staleness.quantile(share).count(), exact_ns + exact_ns / 32 + 1001);
  }
  EXPECT_EQ(staleness.max(), 1ms);
  EXPECT_EQ(staleness.quantile(1), 1ms);
}

// No age is out of range.
TEST(DemoStalenessHistogram, TakesAnyAge) {
  StalenessHistogram staleness;
  staleness.record(-5ns);
  EXPECT_EQ(staleness.quantile(0), 0ns);
  staleness.record(std::chrono::nanoseconds::max());
  EXPECT_EQ(staleness.quantile(0.9), std::chrono::nanoseconds::max());
  EXPECT_EQ(staleness.sample_count(), 2U);
}

std::vector<std::string> keys_of(const std::vector<LiveRow>& rows) {
  std::vector<std::string> keys;
  for (const LiveRow& row : rows) keys.push_back(row.key);
  return keys;
}

// Rows are shared out among the areas, and in each the keys that change most are shown.
TEST(DemoLiveTable, ShowsTheBusiestKeysOfEachArea) {
  LiveTable table;
  for (int i = 0; i < 3; ++i) {
    table.start_refresh(1s);
    table.observe("cpu/0/idle", 5);
    table.observe("cpu/0/user", 100 * i);
    table.observe("cpu/1/idle", 5);
    table.observe("load", 0.5);
    table.observe("net/lo/rx", i);
    table.observe("net/lo/tx", 1);
    table.finish_refresh();
  }
  EXPECT_EQ(keys_of(table.busiest_rows(3)), (std::vector<std::string>{"cpu/0/user", "load", "net/lo/rx"}));
  EXPECT_EQ(keys_of(table.busiest_rows(4)),
            (std::vector<std::string>{"cpu/0/idle", "cpu/0/user", "load", "net/lo/rx"}));
  EXPECT_EQ(table.busiest_rows(100).size(), 6U);
  EXPECT_TRUE(table.busiest_rows(0).empty());
  EXPECT_EQ(table.busiest_rows(3)[0].value, "200");
  EXPECT_EQ(table.busiest_rows(3)[0].change_per_s, "100.0");
}

// A key that left the state leaves the table, and a process is shown with its name.
TEST(DemoLiveTable, FollowsErasures) {
  LiveTable table;
  table.start_refresh(1s);
  table.observe("process/7/name", "a\x1b[2Jb");
  table.observe("process/7/rss_bytes", 1234567);
  table.observe("process/8/rss_bytes", 1);
  table.finish_refresh();
  EXPECT_EQ(
      keys_of(table.busiest_rows(9)),
      (std::vector<std::string>{"process/7/name (a?[2Jb)", "process/7/rss_bytes (a?[2Jb)", "process/8/rss_bytes"}));
  EXPECT_EQ(table.busiest_rows(9)[1].value, "1,234,567");
  table.start_refresh(1s);
  table.observe("process/8/rss_bytes", 1);
  table.finish_refresh();
  EXPECT_EQ(keys_of(table.busiest_rows(9)), (std::vector<std::string>{"process/8/rss_bytes"}));
}

// A snapshot that holds a part of a batch is noticed.
TEST(DemoLiveTable, NoticesTornBatches) {
  LiveTable table;
  const auto see = [&](std::int64_t sum, std::int64_t cpu, std::int64_t disk) {
    table.start_refresh(1s);
    table.observe("producer/samples", sum);
    table.observe("producer/cpu/samples", cpu);
    table.observe("producer/disk/samples", disk);
    table.observe("producer/cpu/mutations", 30);
    table.observe("producer/disk/mutations", 12);
    table.finish_refresh();
    return table.batches_are_whole();
  };
  EXPECT_TRUE(see(5, 2, 3));
  EXPECT_FALSE(see(5, 2, 2));
  EXPECT_FALSE(see(6, 2, 3));
  EXPECT_TRUE(see(7, 3, 4));
  EXPECT_EQ(table.produced_mutations(), 42U);
}

// Whatever the size of the terminal, the screen has at most its lines, each at most as wide.
TEST(DemoLiveScreen, FitsTheTerminal) {
  LiveTable table;
  table.start_refresh(1s);
  for (int i = 0; i < 500; ++i) table.observe("area/" + std::to_string(i) + std::string(90, 'k'), std::string(90, 'v'));
  table.finish_refresh();
  for (const ScreenSize size : {ScreenSize{24, 80}, ScreenSize{1, 1}, ScreenSize{3, 200}, ScreenSize{400, 20}}) {
    const std::string screen = render_screen({.mutation_count = 1'000'000'000'000}, {}, table, size);
    std::size_t line_count = 1;
    std::size_t column_count = 0;
    for (std::size_t i = 0; i < screen.size(); ++i) {
      if (screen[i] == '\x1b') {
        i += 2;  // a control sequence has three bytes
      } else if (screen[i] == '\n') {
        ++line_count;
        column_count = 0;
      } else if (screen[i] != '\r') {
        ++column_count;
        EXPECT_LE(column_count, size.columns);
      }
    }
    EXPECT_EQ(line_count, size.rows);
  }
}

// Large counts are readable, whatever their sign and length.
TEST(DemoLiveTable, GroupsDigits) {
  EXPECT_EQ(grouped(0), "0");
  EXPECT_EQ(grouped(999), "999");
  EXPECT_EQ(grouped(-1000), "-1,000");
  EXPECT_EQ(grouped(-123), "-123");
  EXPECT_EQ(grouped(1234567), "1,234,567");
  EXPECT_EQ(grouped(std::numeric_limits<std::int64_t>::min()), "-9,223,372,036,854,775,808");
}

}  // namespace
}  // namespace shmstate::demo
