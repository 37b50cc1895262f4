// worker/program: the environment of a connection, and what is said of a program that cannot be run.
#include "worker/program.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <cstring>
#include <fstream>
#include <iterator>

#include "base/address.h"
#include "daemon/resolve.h"
#include "tests/unit/unit_test.h"

using namespace preforkd;

namespace {

SocketAddress inet(const char* text, uint16_t port) {
  SocketAddress a;
  auto* v4 = reinterpret_cast<sockaddr_in*>(&a.storage);
  auto* v6 = reinterpret_cast<sockaddr_in6*>(&a.storage);
  if (inet_pton(AF_INET, text, &v4->sin_addr) == 1) {
    v4->sin_family = AF_INET;
    v4->sin_port = htons(port);
    a.length = sizeof *v4;
  } else {
    CU_ASSERT_EQUAL_FATAL(inet_pton(AF_INET6, text, &v6->sin6_addr), 1);
    v6->sin6_family = AF_INET6;
    v6->sin6_port = htons(port);
    a.length = sizeof *v6;
  }
  return a;
}

std::string environment(const SocketAddress& local, const SocketAddress& peer,
                        const ucred& unix_peer = {}) {
  std::string all;
  ConnectionEnvironment entries(local, peer, unix_peer);
  for (size_t i = 0; i < entries.size(); ++i) all += entries[i] + std::string("\n");
  return all;
}

void environments_over_tcp() {
  static const struct {
    const char *local, *peer, *local_shown, *peer_shown;
  } kRows[] = {
      {"127.0.0.1", "192.0.2.7", "127.0.0.1", "192.0.2.7"},
      {"::1", "2001:db8::7", "::1", "2001:db8::7"},
      {"::ffff:127.0.0.1", "::ffff:192.0.2.7", "127.0.0.1", "192.0.2.7"},
  };
  for (const auto& row : kRows) {
    std::string local = row.local_shown, peer = row.peer_shown;
    CU_ASSERT(unit::same_text(environment(inet(row.local, 7007), inet(row.peer, 65535)),
                              "PROTO=TCP\nTCPLOCALIP=" + local +
                                  "\nTCPLOCALPORT=7007\nTCPREMOTEIP=" + peer +
                                  "\nREMOTE_ADDR=" + peer + "\nREMOTE_HOST=" + peer +
                                  "\nTCPREMOTEPORT=65535\nREMOTE_PORT=65535\n"));
  }
}

void environment_over_unix() {
  for (const char* path : {"/run/echo.sock", "@echo"}) {
    SocketAddress local = resolve({ListenAddress::Kind::kUnix, "", 0, path});
    CU_ASSERT(unit::same_text(environment(local, {}, {42, 1000, 100}),
                              "PROTO=UNIX\nUNIXLOCALPATH=" + std::string(path) +
                                  "\nUNIXREMOTEPID=42\nUNIXREMOTEEUID=1000\nUNIXREMOTEEGID=100\n"));
  }
}

void troubles() {
  unit::Folder folder;
  const std::string plain = folder / "plain", script = folder / "script", pipe = folder / "pipe";
  std::ofstream(plain) << "text";
  std::ofstream(script) << "#!/bin/sh\n";
  chmod(script.c_str(), 0700);
  mkfifo(pipe.c_str(), 0700);
  const struct {
    std::string path, reason;
  } rows[] = {
      {"/bin/true", ""},
      {script, ""},
      {folder / "missing", "No such file or directory"},
      {plain + "/below", "Not a directory"},
      {plain, "Permission denied"},
      {"/tmp", "not a regular file"},
      {pipe, "not a regular file"},
  };
  for (const auto& row : rows)
    CU_ASSERT(unit::same_text(program_trouble({row.path, "argument"}),
                              row.reason.empty() ? "" : "execute " + row.path + ": " + row.reason));
}

std::string contents_of(const char* file) {
  std::ifstream in(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

// Nothing of them is executed to find that out.
void of_no_kind() {
  unit::Folder folder;
  int count = 0;
  auto made = [&](const std::string& contents, mode_t mode = 0700) {
    const std::string path = folder / ("file" + std::to_string(++count));
    std::ofstream(path, std::ios::binary) << contents;
    chmod(path.c_str(), mode);
    return path;
  };
  const std::string no_kind =
      "neither a binary for this machine nor a script that begins with \"#!\"";
  const std::string missing = ": No such file or directory";
  const std::string cr = " and a CR (its first line ends with CR LF)";
  const std::string ran = folder / "ran", script = made("#!/bin/sh\n: >" + ran + "\n");
  const std::string plain = made("text", 0600);
  std::string binary = contents_of("/bin/true"), foreign = binary, without_loader = binary;
  foreign[18] = 22;  // of a S/390: e_machine
  foreign[19] = 0;
  const size_t loader = without_loader.find("/ld-linux");
  CU_ASSERT_FATAL(loader != without_loader.npos);
  without_loader[loader + 1] = 'x';
  const struct {
    std::string path, reason;
  } rows[] = {
      {script, ""},
      {made(binary), ""},
      {made("#! /bin/sh -e \n"), ""},
      {made("#!/bin/sh"), ""},
      {made("#!" + script + " x\n"), ""},
      {made("#!/usr/bin/env sh\n"), ""},
      {made("#!/usr/bin/env -S sh -e\n"), ""},
      {made("#!/usr/bin/env A=b\n"), ""},
      {made("#!/usr/bin/perl -w\r\n"), ""},  // for which it is a blank
      {made("#!/usr/bin/env -S sh -e\r\n"), ""},
      {made("#!/bin/sh -e\r\n"), "its interpreter, /bin/sh, is given -e" + cr},
      {made("#!/bin/sh\r\n"), "its interpreter, /bin/sh" + cr + missing},
      {made("#!/no/such thing\n"), "its interpreter, /no/such" + missing},
      {made("#!" + plain + "\n"), "its interpreter, " + plain + ": Permission denied"},
      {made("#!" + made("#!/no/such\n") + "\n"),
       "its interpreter, " + (folder / ("file" + std::to_string(count - 1))) + missing},
      {made("#!/usr/bin/env no_such_name\n"), "its interpreter, no_such_name: not found in $PATH"},
      {made("#!/usr/bin/env sh\r\n"), "its interpreter, sh" + cr + ": not found in $PATH"},
      {made("#!\n"), "its first line, \"#!\", names no interpreter"},
      {made(": >" + ran + "\n"), no_kind},
      {made(""), no_kind},
      {made(binary.substr(0, 60)), no_kind},
      {made(foreign), no_kind},
      {made(without_loader), "its loader" + missing},
  };
  for (const auto& row : rows)
    CU_ASSERT(unit::same_text(program_trouble({row.path}),
                              row.reason.empty() ? "" : "execute " + row.path + ": " + row.reason));
  CU_ASSERT(access(ran.c_str(), F_OK) < 0);
}

// A connected pair over TCP, and what a program wrote into it, to its end.
struct Client {
  UniqueFd client;
  Accepted server;

  Client() {
    UniqueFd listener(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    SocketAddress at = inet("127.0.0.1", 0);
    bind(listener.get(), at.get(), at.length);
    listen(listener.get(), 1);
    getsockname(listener.get(), at.get(), &at.length);
    client.reset(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    CU_ASSERT_EQUAL_FATAL(connect(client.get(), at.get(), at.length), 0);
    server.peer.length = sizeof server.peer.storage;
    server.fd.reset(accept4(listener.get(), server.peer.get(), &server.peer.length, SOCK_CLOEXEC));
  }
  std::string read_all() {
    server.fd.reset();
    std::string all;
    char buffer[4096];
    for (ssize_t n; (n = read(client.get(), buffer, sizeof buffer)) > 0;)
      all.append(buffer, static_cast<size_t>(n));
    return all;
  }
};

// What a program finds: the connection on 0 and 1, no descriptor but 0 to 2, no signal blocked or
// ignored, its environment.
void becomes_a_program() {
  Client c;
  unit::Child worker([&] {
    setenv("NOTIFY_SOCKET", "/run/systemd/notify", 1);
    setenv("REMOTE_HOST", "of-another-connection", 1);
    setenv("KEPT", "kept", 1);
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, nullptr);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGHUP, SIG_IGN);                   // as nohup leaves it
    raise(SIGUSR1);                            // a nudge that came too late
    int leaked = open("/dev/null", O_RDONLY);  // not CLOEXEC: a handler's carelessness
    if (leaked < 3) return false;
    Program program({"/bin/sh", "-c",
                     "readlink /proc/self/fd/0 /proc/self/fd/1 | sort -u | grep -c socket; "
                     "ls -m /proc/$$/fd; "  // no pipe: the shell would hold its ends
                     "grep -E 'SigBlk|SigIgn' /proc/$$/status | grep -vc 0000000000000000; "
                     "echo $REMOTE_HOST $KEPT ${NOTIFY_SOCKET-unset} $TCPREMOTEPORT"});
    program.become(c.server, SIGUSR1);
    return false;
  });
  std::string said = c.read_all();
  auto port = ntohs(reinterpret_cast<sockaddr_in*>(&c.server.peer.storage)->sin_port);
  CU_ASSERT(
      unit::same_text(said, "1\n0, 1, 2\n0\n127.0.0.1 kept unset " + std::to_string(port) + "\n"));
  CU_ASSERT_TRUE(worker.succeeded());
}

void cannot_become_it() {
  Client c;
  unit::Child worker([&] {
    return unit::same_text(Program({"/nonexistent/program"}).become(c.server, SIGUSR1),
                           "execute /nonexistent/program: No such file or directory");
  });
  CU_ASSERT_TRUE(worker.succeeded());
}

}  // namespace

void add_program_tests() {
  static const unit::Test kTests[] = {
      {"environment of TCP connections", environments_over_tcp},
      {"environment of Unix connections", environment_over_unix},
      {"programs that cannot be run", troubles},
      {"programs of no kind that could be", of_no_kind},
      {"a worker becomes a program", becomes_a_program},
      {"a worker cannot become it", cannot_become_it},
  };
  unit::add_suite("program", kTests);
}
