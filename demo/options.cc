#include "options.h"

#include <CLI/CLI.hpp>

namespace shmstate::demo {
namespace {

std::optional<int> parse(CLI::App& app, int argc, char** argv) {
  CLI11_PARSE(app, argc, argv);
  return std::nullopt;
}

}  // namespace

std::optional<int> read_options(int argc, char** argv, ViewOptions& options) {
  CLI::App app(
      "Shows the merged state of an instance while it changes: a table that fits the terminal, or a line a second.\n"
      "SIGINT or SIGTERM ends it; it then waits until all writers have ended and prints a summary.");
  app.add_option("instance,-i,--instance", options.instance, "Name of the instance, or path of its directory")
      ->required()
      ->envname("SHMSTATE_INSTANCE");
  return parse(app, argc, argv);
}

std::optional<int> read_options(int argc, char** argv, const std::vector<std::string>& area_names,
                                ProducerOptions& options) {
  CLI::App app("Samples one area of this host's metrics and prints mutations for shmstate-writer-agent.");
  app.add_option("area", options.area, "What to sample")->required()->check(CLI::IsMember(area_names));
  app.add_option("--rate", options.rate_hz, "Samples a second")
      ->check(CLI::Range(1.0, 10'000.0))
      ->capture_default_str()
      ->envname("SHMSTATE_DEMO_RATE");
  return parse(app, argc, argv);
}

}  // namespace shmstate::demo
