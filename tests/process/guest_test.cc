// What the libraries leave alone in the process that they are guests in: signals, descriptors, errno, locale, limits.
#include <dlfcn.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <clocale>
#include <csetjmp>
#include <csignal>
#include <cstring>
#include <fstream>
#include <locale>
#include <thread>

#include "files/control.h"
#include "files/ring_file.h"
#include "harness/process_support.h"
#include "shmstate/inspect.h"
#include "shmstate/reader.h"
#include "shmstate/reader_c.h"
#include "shmstate/watch.h"
#include "shmstate/writer.h"
#include "shmstate/writer_c.h"

namespace shmstate::test {
using namespace internal;
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;

class Guest : public testing::Test {
 protected:
  Guest() : merger_(start_merger(instance_)) {}
  [[nodiscard]] std::string path() const { return instance_.string(); }

  TestDirectory directory_;
  fs::path instance_ = directory_ / "plant";
  Program merger_;
};

/// Everything that a program does with the libraries, once.
void use_all_of_it(const std::string& instance) {
  Writer writer(instance);
  Writer shared(instance, {.when_full = WhenFull::kConflate, .shared = true});
  must_be_ok(writer.set("key", 1), "a push");
  must_be_ok(writer.set("key", 2, {.ttl = 1h, .ephemeral = true, .version = 1}), "a push with options");
  must_be_ok(shared.add("sum", 1), "a shared push");
  Batch batch = writer.batch();
  batch.set("a", 1);
  must_be_ok(batch.commit(), "a batch");
  must_be_ok(writer.flush(kPatience), "a flush");
  must_be_ok(shared.flush(kPatience), "a shared flush");
  Reader reader(instance, {.prefault = true});
  must(reader.get<std::int64_t>("key") == 2, "a read");
  must(reader.snapshot().size() >= 3, "a snapshot");
  static_cast<void>(reader.wait(reader.position(), 1ms));
  static_cast<void>(reader.changes({}));
  static_cast<void>(reader.status());
  Watch watch(instance, "");
  static_cast<void>(watch.fd());
  must(watch.next(kPatience).complete, "a watch");
  must(inspect(instance).merger_running, "what it says about itself");
  static_cast<void>(list_instances());
}

std::string verdict_of(const std::function<void()>& body) { return Child(body).verdict(); }

// ---- signals

// A program that takes its signals by signalfd has them blocked in its threads; they must be so in ours.
TEST_F(Guest, TheThreadOfAWatchTakesNoSignal) {
  EXPECT_EQ(verdict_of([&] {
              Writer writer(path());
              Watch watch(path(), "");  // as programs do: before they block
              pollfd news{.fd = watch.fd(), .events = POLLIN, .revents = 0};
              must_be_ok(writer.set("news", 1), "a push");
              must(::poll(&news, 1, 60'000) == 1, "the thread, which has its own mask once it runs");
              sigset_t signals;
              sigemptyset(&signals);
              for (const int signal : {SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGCHLD, SIGALRM}) sigaddset(&signals, signal);
              ::pthread_sigmask(SIG_BLOCK, &signals, nullptr);
              const os::Fd fd(::signalfd(-1, &signals, SFD_CLOEXEC));
              for (const int signal : {SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGALRM}) {
                must(::kill(::getpid(), signal) == 0, "a signal");
                signalfd_siginfo info{};
                must(::read(fd.get(), &info, sizeof info) == sizeof info, "reading it");
                must(info.ssi_signo == static_cast<unsigned>(signal), "that signal");
              }
            }),
            "");
}

// What a thread raises itself must not be blocked: it would be killed instead of surviving.
TEST_F(Guest, TheThreadOfAWatchSurvivesTruncation) {
  const TestDirectory other;
  EXPECT_EQ(verdict_of([&] {
              Program merger = start_merger(other / "plant");
              Watch watch((other / "plant").string(), "", {.survive_truncation = true});
              static_cast<void>(watch.fd());
              fs::resize_file(other / "plant" / "control", 0);
              merger.wait();
              std::this_thread::sleep_for(300ms);  // the thread looks ten times a second
            }),
            "");
}

TEST_F(Guest, NoHandlerNoMaskAndNoLimitIsChanged) {
  struct State {
    std::array<struct sigaction, 64> actions{};
    std::array<rlimit, RLIM_NLIMITS> limits{};
    sigset_t mask{};
    mode_t umask = 0;
    std::string directory;
    std::string c_locale;
    std::string locale;
    rlim_t priority = 0;
  };
  const auto state = [] {
    State now;
    for (int signal = 1; signal < 64; ++signal) ::sigaction(signal, nullptr, &now.actions.at(signal));
    for (unsigned limit = 0; limit < now.limits.size(); ++limit) {
      ::getrlimit(static_cast<__rlimit_resource>(limit), &now.limits.at(limit));
    }
    ::pthread_sigmask(SIG_SETMASK, nullptr, &now.mask);
    now.umask = ::umask(0);
    ::umask(now.umask);
    now.directory = fs::current_path().string();
    now.c_locale = std::setlocale(LC_ALL, nullptr);
    now.locale = std::locale().name();
    return now;
  };
  for (const mode_t mask : {0U, 022U, 077U, 0777U}) {
    EXPECT_EQ(verdict_of([&] {
                ::umask(mask);
                const State before = state();
                use_all_of_it(path());
                const State after = state();
                for (std::size_t i = 1; i < 64; ++i) {
                  const bool is_same = before.actions.at(i).sa_handler == after.actions.at(i).sa_handler &&
                                       before.actions.at(i).sa_flags == after.actions.at(i).sa_flags;
                  must(is_same, "the handler of signal " + std::to_string(i));
                }
                for (std::size_t i = 0; i < before.limits.size(); ++i) {
                  must(std::memcmp(&before.limits.at(i), &after.limits.at(i), sizeof(rlimit)) == 0, "a limit");
                }
                must(std::memcmp(&before.mask, &after.mask, sizeof(sigset_t)) == 0, "the signal mask");
                must(before.umask == after.umask, "the umask");
                must(before.directory == after.directory, "the working directory");
                must(before.c_locale == after.c_locale && before.locale == after.locale, "the locale");
                Writer writer(path());
                const auto mode = fs::status(rings_path(path()) / ring_name(writer.ring_id())).permissions();
                must(mode == fs::perms{0660}, "the mode of a ring, which no umask changes");
              }),
              "")
        << mask;
  }
}

// ---- unloading

volatile std::sig_atomic_t bus_errors = 0;
sigjmp_buf behind_the_fault;
void on_own_bus_error(int /*signal*/) {
  bus_errors = bus_errors + 1;
  ::siglongjmp(behind_the_fault, 1);
}

/// Touches a page that its file does not have.
void raise_bus_error() {
  const int fd = ::memfd_create("short", MFD_CLOEXEC);
  auto* const page = static_cast<volatile char*>(::mmap(nullptr, 4096, PROT_READ, MAP_SHARED, fd, 0));
  if (::sigsetjmp(behind_the_fault, 1) == 0) static_cast<void>(*page);
  ::munmap(const_cast<char*>(page), 4096);
  ::close(fd);
}

using Visit = int (*)(const char*);

// The program's own handler was there first, so ours passes on to it; the second time, with the library closed.
void must_pass_on_what_is_not_ours(const std::string& library, const std::function<int(void*)>& visit) {
  struct sigaction action {};
  action.sa_handler = on_own_bus_error;
  ::sigaction(SIGBUS, &action, nullptr);
  void* const handle = ::dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
  must(handle != nullptr, library);
  must(visit(handle) == SHMSTATE_OK, "the visit");
  raise_bus_error();
  must(bus_errors == 1, "a fault that is the program's own, while the library is loaded");
  must(::dlclose(handle) == 0, "closing the library");
  raise_bus_error();
  must(bus_errors == 2, "a fault that is the program's own, when the library was closed");
  const pid_t child = ::fork();  // handlers of a fork, too, would be called where nothing is
  if (child == 0) ::_exit(0);
  int status = -1;
  must(::waitpid(child, &status, 0) == child && status == 0, "a fork when the library was closed");
}

TEST_F(Guest, ASharedLibraryThatIsClosedLeavesNoHandlerBehindThatLeadsNowhere) {
  const auto reads = [&](void* library) {
    shmstate_reader_options options{};
    options.struct_bytes = sizeof options;
    options.survive_truncation = 1;
    shmstate_reader* reader = nullptr;
    const auto open = reinterpret_cast<decltype(&shmstate_reader_open)>(::dlsym(library, "shmstate_reader_open"));
    const auto close = reinterpret_cast<decltype(&shmstate_reader_close)>(::dlsym(library, "shmstate_reader_close"));
    const int status = open(path().c_str(), &options, &reader);
    close(reader);
    return status;
  };
  const auto writes = [&](void* library) {
    shmstate_writer_options options{};
    options.struct_bytes = sizeof options;
    options.survive_truncation = 1;
    shmstate_writer* writer = nullptr;
    const auto open = reinterpret_cast<decltype(&shmstate_writer_open)>(::dlsym(library, "shmstate_writer_open"));
    const auto close = reinterpret_cast<decltype(&shmstate_writer_close)>(::dlsym(library, "shmstate_writer_close"));
    const int status = open(path().c_str(), &options, &writer);
    close(writer);
    return status;
  };
  EXPECT_EQ(verdict_of([&] { must_pass_on_what_is_not_ours(SHMSTATE_READER_LIBRARY, reads); }), "");
  EXPECT_EQ(verdict_of([&] { must_pass_on_what_is_not_ours(SHMSTATE_WRITER_LIBRARY, writes); }), "");
}

TEST_F(Guest, APluginWithTheLibrariesInItThatIsClosedLeavesNoHandlerBehindThatLeadsNowhere) {
  const auto visit = [&](void* plugin) {
    return reinterpret_cast<Visit>(::dlsym(plugin, "guest_plugin_visit"))(path().c_str());
  };
  EXPECT_EQ(verdict_of([&] { must_pass_on_what_is_not_ours(SHMSTATE_GUEST_PLUGIN, visit); }), "");
}

// As a program that was written for alternate stacks demands of every handler.
TEST_F(Guest, TheHandlerForTruncationRunsOnTheAlternateStack) {
  EXPECT_EQ(verdict_of([&] {
              struct sigaction action {};
              action.sa_handler = on_own_bus_error;
              action.sa_flags = SA_RESTART;
              ::sigaction(SIGBUS, &action, nullptr);
              Reader reader(path(), {.survive_truncation = true});
              ::sigaction(SIGBUS, nullptr, &action);
              must((action.sa_flags & SA_ONSTACK) != 0, "the alternate stack");
              must((action.sa_flags & SA_RESTART) != 0, "restarting calls, as the program's own handler does");
            }),
            "");
}

// ---- descriptors

void must_have_good_descriptors(const std::string& instance, bool has_standard_streams) {
  std::vector<bool> is_before(256, false);
  for (int fd = 0; fd < 256; ++fd) is_before[static_cast<std::size_t>(fd)] = ::fcntl(fd, F_GETFD) >= 0;
  for (int fd = 0; !has_standard_streams && fd <= STDERR_FILENO; ++fd) ::close(fd);
  Writer writer(instance);
  Writer shared(instance, {.shared = true});
  Reader reader(instance);
  Watch watch(instance, "");
  static_cast<void>(watch.fd());
  const Snapshot snapshot = reader.snapshot();
  int ours = 0;
  for (int fd = 0; fd < 256; ++fd) {
    const int flags = ::fcntl(fd, F_GETFD);
    must(flags < 0 || fd > STDERR_FILENO || has_standard_streams, "a standard stream");
    if (flags < 0 || is_before[static_cast<std::size_t>(fd)]) continue;
    ++ours;
    must((flags & FD_CLOEXEC) != 0, "descriptor " + std::to_string(fd));
  }
  must(ours >= 7, "so many that they were seen");
}

TEST_F(Guest, EveryDescriptorIsClosedByExecAndIsNoStandardStream) {
  EXPECT_EQ(verdict_of([&] { must_have_good_descriptors(path(), true); }), "");
  EXPECT_EQ(verdict_of([&] { must_have_good_descriptors(path(), false); }), "");
}

// ---- errno

TEST_F(Guest, ReadsAndPushesLeaveErrnoAlone) {
  Writer writer(path());
  Reader reader(path());
  Key key("key");
  ASSERT_EQ(writer.set("key", 1), Status::kOk);
  ASSERT_EQ(writer.flush(kPatience), Status::kOk);
  for (int i = 0; i < 10'000; ++i) {
    errno = EDOM;
    static_cast<void>(reader.get<std::int64_t>("key"));
    static_cast<void>(reader.get<std::string>("missing"));
    static_cast<void>(reader.get<std::int64_t>(key));
    ASSERT_EQ(errno, EDOM) << "a read";
    ASSERT_EQ(writer.set("key", i), Status::kOk);
    ASSERT_EQ(errno, EDOM) << "a push";
  }
}

// The access that was interrupted is no call at all; errno is as it was behind it.
TEST_F(Guest, SurvivingATruncationLeavesErrnoAlone) {
  const TestDirectory other;
  EXPECT_EQ(verdict_of([&] {
              Program merger = start_merger(other / "plant");
              Writer writer((other / "plant").string());
              must_be_ok(writer.set("text", std::string(5000, 'x')), "a push");
              must_be_ok(writer.flush(kPatience), "its flush");
              Reader reader((other / "plant").string(), {.survive_truncation = true});
              const Snapshot snapshot = reader.snapshot();
              const std::string_view text = snapshot.get<std::string_view>("text").value();
              merger.kill();
              fs::resize_file(other / "plant" / "snapshot", 0);
              errno = EDOM;
              const char first = *static_cast<const volatile char*>(text.data());
              must(errno == EDOM, "errno");
              must(first == '\0' && snapshot.expired(), "zeros");
            }),
            "");
}

// ---- the locale

class GermanNumbers : public std::numpunct<char> {
  [[nodiscard]] char do_thousands_sep() const override { return '.'; }
  [[nodiscard]] char do_decimal_point() const override { return ','; }
  [[nodiscard]] std::string do_grouping() const override { return "\3"; }
};

TEST_F(Guest, NumbersInMessagesAreThoseOfTheCLocale) {
  EXPECT_EQ(verdict_of([&] {
              std::setlocale(LC_ALL, "de_DE.UTF-8");  // where it is installed
              std::locale::global(std::locale(std::locale(), new GermanNumbers));
              use_all_of_it(path());
              std::string text;
              try {
                const Writer writer(path(), {.ring_bytes = 1234567890123});
              } catch (const Error& error) {
                text = error.what();
              }
              must(text.find("1234567890123") != std::string::npos, text);
              Writer writer(path(), {.name = "1234567"});
              must_be_ok(writer.set("number", 1234567.5), "a push");
              must_be_ok(writer.flush(kPatience), "its flush");
              must(Reader(path()).get<double>("number") == 1234567.5, "a number");
              must(inspect(path()).id.size() == 32, "the identity");
            }),
            "");
}

// ---- before and behind main, and threads

TEST_F(Guest, AProgramUsesThemBeforeAndBehindMainWhileThreadsGoOn) {
  ASSERT_EQ(::setenv("SHMSTATE_GUEST", path().c_str(), 1), 0);
  for (int i = 0; i < 5; ++i) {
    Program program(SHMSTATE_GUEST_PROGRAM, {});
    EXPECT_EQ(program.wait(), 0) << program.output();
  }
  EXPECT_EQ(Reader(path()).get<std::int64_t>("behind main"), 1);
}

// A thread that is to be cancelled finishes its calls first: none of them is a place where it ends, or where the
// unwinding meets what must not throw.
TEST_F(Guest, AThreadThatIsCancelledFinishesItsCalls) {
  EXPECT_EQ(verdict_of([&] {
              struct Shared {
                const std::string* path;
                std::atomic<bool> is_through{false};
              } shared{.path = new std::string(path())};
              pthread_t thread{};
              const auto run = [](void* context) -> void* {
                auto& board = *static_cast<Shared*>(context);
                const char* const instance = board.path->c_str();
                ::pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, nullptr);
                Writer writer(instance);
                auto* const reader = new Reader(instance);
                auto* const snapshot = new Snapshot(reader->snapshot());
                ::pthread_cancel(::pthread_self());
                ::pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, nullptr);
                const std::string big(300'000, 'x');  // for which memory must be committed
                must_be_ok(writer.set("big", big), "a push");
                must_be_ok(writer.flush(kPatience), "a flush");
                std::string text;
                must_be_ok(reader->read("big", text), "a read");
                static_cast<void>(reader->wait(reader->position(), 1ms));
                delete snapshot;
                delete reader;
                shmstate_reader* c_reader = nullptr;
                shmstate_snapshot* c_snapshot = nullptr;
                must(shmstate_reader_open(instance, nullptr, &c_reader) == SHMSTATE_OK, "opening a reader in C");
                must(shmstate_snapshot_open(c_reader, &c_snapshot) == SHMSTATE_OK, "a snapshot in C");
                shmstate_snapshot_close(c_snapshot);
                shmstate_reader_close(c_reader);
                board.is_through = true;
                ::pthread_testcancel();
                return nullptr;
              };
              must(::pthread_create(&thread, nullptr, run, &shared) == 0, "a thread");
              void* result = nullptr;
              must(::pthread_join(thread, &result) == 0, "its end");
              must(shared.is_through, "all calls");
              must(result == PTHREAD_CANCELED, "then its end");
              delete shared.path;
            }),
            "");
}

}  // namespace
}  // namespace shmstate::test
