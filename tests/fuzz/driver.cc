// Runs a fuzz target without libFuzzer, the same in every test run: all files of its corpus, then seeded random changes
// of them. Usage: NAME CORPUS-DIRECTORY ITERATIONS, or NAME FILE to run one input.
//
// The input that broke something is left in ./NAME.failed; give that file to the same program, or to the fuzzer.
#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "harness/explored.h"
#include "harness/test_instance.h"
#include "input.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t bytes);

namespace {

namespace fs = std::filesystem;
using Bytes = std::vector<std::uint8_t>;
using shmstate::test::Random;

constexpr unsigned kSecondsMax = 60;  // for one input; then it hangs
constexpr std::size_t kBytesMax = 8192;

std::string failed_path;
const Bytes* running = nullptr;

void leave_input(int signal) {
  std::ofstream out(failed_path, std::ios::binary);  // not for handlers, but the process is lost anyway
  out.write(reinterpret_cast<const char*>(running->data()), static_cast<std::streamsize>(running->size()));
  out.close();
  std::fprintf(stderr, "shmstate: signal %d; the input is in %s\n", signal, failed_path.c_str());
  std::signal(signal, SIG_DFL);
  std::raise(signal);
}

void run(const Bytes& input) {
  running = &input;
  ::alarm(kSecondsMax);
  LLVMFuzzerTestOneInput(input.data(), input.size());
  ::alarm(0);
}

Bytes contents(const fs::path& file) {
  std::ifstream in(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

std::vector<Bytes> corpus_of(const fs::path& directory) {
  std::vector<fs::path> files;
  for (const fs::directory_entry& entry : fs::directory_iterator(directory)) files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  std::vector<Bytes> corpus;
  for (const fs::path& file : files) corpus.push_back(contents(file));
  return corpus;
}

void change(Bytes& input, Random& random) {
  if (input.empty()) input.push_back(0);
  const std::size_t at = random.below(input.size());
  const std::size_t count = std::min(random.between(1, 16), input.size() - at);
  const auto place = input.begin() + static_cast<std::ptrdiff_t>(at);
  switch (random.below(6)) {
    case 0: *place = static_cast<std::uint8_t>(random.word()); break;
    case 1: *place ^= static_cast<std::uint8_t>(1U << random.below(8)); break;
    case 2: std::generate_n(place, count, [&] { return static_cast<std::uint8_t>(random.word()); }); break;
    case 3: input.erase(place, place + static_cast<std::ptrdiff_t>(count)); break;
    case 4: input.insert(place, count, static_cast<std::uint8_t>(random.word())); break;
    default: {
      const Bytes copy(place, place + static_cast<std::ptrdiff_t>(count));
      input.insert(input.begin() + static_cast<std::ptrdiff_t>(random.below(input.size())), copy.begin(), copy.end());
    }
  }
}

// A mixture of two inputs of the corpus, with some changes.
Bytes variation(const std::vector<Bytes>& corpus, Random& random) {
  Bytes input = corpus[random.below(corpus.size())];
  if (random.chance(30)) {
    const Bytes& other = corpus[random.below(corpus.size())];
    input.resize(random.below(input.size() + 1));
    input.insert(input.end(), other.begin() + static_cast<std::ptrdiff_t>(random.below(other.size() + 1)), other.end());
  }
  for (std::size_t n = random.between(1, 8); n > 0; --n) change(input, random);
  if (input.size() > kBytesMax) input.resize(kBytesMax);
  return input;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: %s CORPUS-DIRECTORY ITERATIONS | FILE\n", argv[0]);
    return 2;
  }
  failed_path = fs::path(argv[0]).filename().string() + ".failed";
  for (const int signal : {SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGALRM}) std::signal(signal, leave_input);
  if (argc == 2) {
    run(contents(argv[1]));
    return 0;
  }
  const std::vector<Bytes> corpus = corpus_of(argv[1]);
  for (const Bytes& input : corpus) run(input);
  Random random(90);
  const int iterations = shmstate::test::steps(std::atoi(argv[2]));
  for (int i = 0; i < iterations; ++i) run(variation(corpus, random));
  shmstate::test::explored(corpus.size() + static_cast<std::size_t>(iterations), "hostile inputs");
  return 0;
}
