#include "process/faulty_program.h"

#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <utility>

namespace shmstate::test {
using namespace internal;
namespace {

struct Watched {
  int number;
  const char* name;
  int path_argument;  // or -1
};

constexpr std::array kWatched{
    Watched{SYS_openat, "openat", 1},
    Watched{SYS_newfstatat, "newfstatat", 1},
    Watched{SYS_fstat, "fstat", -1},
    Watched{SYS_mkdirat, "mkdirat", 1},
    Watched{SYS_unlinkat, "unlinkat", 1},
    Watched{SYS_renameat, "renameat", 1},
    Watched{SYS_statfs, "statfs", 0},
    Watched{SYS_getdents64, "getdents64", -1},
    Watched{SYS_read, "read", -1},
    Watched{SYS_pread64, "pread64", -1},
    Watched{SYS_fcntl, "fcntl", -1},
    Watched{SYS_ftruncate, "ftruncate", -1},
    Watched{SYS_fallocate, "fallocate", -1},
    Watched{SYS_fchmod, "fchmod", -1},
    Watched{SYS_fchown, "fchown", -1},
    Watched{SYS_mmap, "mmap", -1},
#ifdef SYS_open  // not where these came with the calls above
    Watched{SYS_open, "open", 0},
    Watched{SYS_mkdir, "mkdir", 0},
    Watched{SYS_unlink, "unlink", 0},
    Watched{SYS_rmdir, "rmdir", 0},
    Watched{SYS_rename, "rename", 0},
    Watched{SYS_chmod, "chmod", 0},
#endif
};

const Watched* watched(int number) {
  const auto* const found =
      std::find_if(kWatched.begin(), kWatched.end(), [number](const Watched& call) { return call.number == number; });
  return found != kWatched.end() ? found : nullptr;
}

// From now on this process, and what it executes, is asked about. Returns the descriptor to ask through.
int listen_to_me() {
  std::vector<sock_filter> filter{BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr))};
  for (const Watched& call : kWatched) {
    filter.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<std::uint32_t>(call.number), 0, 1));
    filter.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF));
  }
  filter.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
  const sock_fprog program{.len = static_cast<unsigned short>(filter.size()), .filter = filter.data()};
  ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
  return static_cast<int>(::syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &program));
}

union FdMessage {
  cmsghdr header;
  char bytes[CMSG_SPACE(sizeof(int))];
};

void send_fd(int socket, int fd) {
  char byte = 0;
  iovec data{.iov_base = &byte, .iov_len = 1};
  FdMessage control{};
  msghdr message{};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = &control;
  message.msg_controllen = sizeof control;
  cmsghdr* const header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof fd);
  std::memcpy(CMSG_DATA(header), &fd, sizeof fd);
  ::sendmsg(socket, &message, 0);
}

os::Fd receive_fd(int socket) {
  char byte = 0;
  iovec data{.iov_base = &byte, .iov_len = 1};
  FdMessage control{};
  msghdr message{};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = &control;
  message.msg_controllen = sizeof control;
  must(::recvmsg(socket, &message, MSG_CMSG_CLOEXEC) == 1, "recvmsg");
  const cmsghdr* const header = CMSG_FIRSTHDR(&message);
  must(header != nullptr, "a kernel without user notifications of seccomp");
  int fd = -1;
  std::memcpy(&fd, CMSG_DATA(header), sizeof fd);
  return os::Fd(fd);
}

std::string text_at(std::uint32_t pid, std::uint64_t address) {
  char text[512] = "";
  const iovec here{.iov_base = text, .iov_len = sizeof text - 1};
  // A page at most, so that the end of the text need not be the end of what is mapped.
  const std::size_t in_page = std::min<std::size_t>(sizeof text - 1, 4096 - address % 4096);
  const iovec there{.iov_base = reinterpret_cast<void*>(address), .iov_len = in_page};
  if (::process_vm_readv(static_cast<pid_t>(pid), &here, 1, &there, 1, 0) < 0) return "?";
  return text;
}

FileCall call_of(const seccomp_notif& asked) {
  const Watched* const call = watched(asked.data.nr);
  const bool has_path = call != nullptr && call->path_argument >= 0;
  return {.number = asked.data.nr, .path = has_path ? text_at(asked.pid, asked.data.args[call->path_argument]) : ""};
}

}  // namespace

FaultyProgram::FaultyProgram(const std::string& executable, const std::vector<std::string>& arguments, Judge judge)
    : judge_(std::move(judge)), output_(::memfd_create("shmstate-test", MFD_CLOEXEC)) {
  int ends[2];
  must(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0, "socketpair");
  const os::Fd mine(ends[0]);
  const os::Fd child_s(ends[1]);
  std::vector<char*> words{const_cast<char*>(executable.c_str())};
  for (const std::string& argument : arguments) words.push_back(const_cast<char*>(argument.c_str()));
  words.push_back(nullptr);
  if (fork_here() == 0) {
    ::dup2(output_.get(), STDOUT_FILENO);
    ::dup2(output_.get(), STDERR_FILENO);
    const int listener = listen_to_me();
    if (listener < 0) ::_exit(126);
    send_fd(child_s.get(), listener);
    ::close(listener);
    ::execv(executable.c_str(), words.data());
    ::_exit(127);
  }
  supervisor_ = std::thread([this, listener = receive_fd(mine.get())] { answer_calls(listener); });
}

FaultyProgram::~FaultyProgram() {
  if (!has_ended()) kill();
  supervisor_.join();
}

void FaultyProgram::answer_calls(const os::Fd& listener) const {
  for (;;) {
    pollfd asked{.fd = listener.get(), .events = POLLIN, .revents = 0};
    if (::poll(&asked, 1, -1) <= 0) continue;
    if ((asked.revents & POLLIN) == 0) return;  // nobody is left to ask
    seccomp_notif question{};
    if (::ioctl(listener.get(), SECCOMP_IOCTL_NOTIF_RECV, &question) != 0) continue;
    const int error_number = judge_(call_of(question));
    seccomp_notif_resp answer{};
    answer.id = question.id;
    answer.error = -error_number;
    answer.flags = error_number == 0 ? SECCOMP_USER_NOTIF_FLAG_CONTINUE : 0;
    ::ioctl(listener.get(), SECCOMP_IOCTL_NOTIF_SEND, &answer);  // fails when it was killed meanwhile
  }
}

std::string FaultyProgram::output() const {
  std::string text;
  char buffer[4096];
  for (;;) {
    const ssize_t got = ::pread(output_.get(), buffer, sizeof buffer, static_cast<off_t>(text.size()));
    if (got <= 0) return text;
    text.append(buffer, static_cast<std::size_t>(got));
  }
}

std::string describe(const FileCall& call) {
  const Watched* const known = watched(call.number);
  return (known != nullptr ? known->name : "a system call") + std::string("(") + call.path + ")";
}

}  // namespace shmstate::test
