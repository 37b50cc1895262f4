// Everything as one user, as the shipped unit has it: what a program of a pool may do to preforkd and to other pools.
// Between processes of one user the kernel lets anybody signal, and look into who is dumpable: nothing of that reaches
// out of a pool where Landlock has a scope for signals.
#include <pwd.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "tests/system/conditions.h"
#include "tests/system/harness.h"
#include "tests/system/suites.h"

namespace preforkd::system_test {
namespace {

// Sends signal 0 to each pid of a line, looks into it, and sets its limits; answers with those that it could. (Its own
// limits it may set.)
constexpr char kReach[] =
    "import os, resource, sys\n"
    "resource.setrlimit(resource.RLIMIT_CORE, (0, 0))\n"
    "for line in sys.stdin:\n"
    "    reached = []\n"
    "    for pid in line.split():\n"
    "        try: os.kill(int(pid), 0); reached.append('kill ' + pid)\n"
    "        except PermissionError: pass\n"
    "        try:\n"
    "            files = resource.RLIMIT_NOFILE\n"
    "            resource.prlimit(int(pid), files, resource.prlimit(int(pid), files))\n"
    "            reached.append('limits ' + pid)\n"
    "        except PermissionError: pass\n"
    "        for name in ('mem', 'environ', 'maps'):\n"
    "            try: open('/proc/%s/%s' % (pid, name), 'rb').read(1); reached.append(name + ' ' + "
    "pid)\n"
    "            except OSError: pass\n"
    "        try: os.readlink('/proc/%s/fd/0' % pid); reached.append('fd ' + pid)\n"
    "        except OSError: pass\n"
    "    print(', '.join(reached) or 'nobody', flush=True)\n";

// What follows is `preforkd -c FILE --runtime-dir FOLDER`.
constexpr char kAsUser[] =
    "mkdir -p \"$5\" && chown games \"$5\" && exec setpriv --reuid=games --regid=games "
    "--clear-groups"
    " --no-new-privs \"$@\"";

std::string list_of(const std::vector<pid_t>& pids) {
  std::string line;
  for (pid_t pid : pids) line += (line.empty() ? "" : " ") + std::to_string(pid);
  return line + "\n";
}

void as_one_user() {
  if (!is_root() || !getpwnam("games")) return skip("takes root, and a user games");
  if (are_sanitized()) return skip("leaks cannot be looked for in who is not dumpable");
  if (syscall(SYS_landlock_create_ruleset, nullptr, 0, 1) < 6)
    return skip("Linux has no scope for signals here (6.12 has)");
  const TestFolder script;
  const std::string path = script.write("reach.py", kReach);
  Server server(
      {PoolText{.name = "reach", .serves = "program = [ \"/usr/bin/python3\", \"" + path + "\" ];"},
       PoolText{.name = "other"}},
      {.under = {"/bin/sh", "-c", kAsUser, "sh"}});
  Client client(server.address("reach"));
  std::vector<pid_t> out_of_reach = {server.pid(), server.control(), server.supervisor("other")};
  for (pid_t pid : server.worker_pids("other")) out_of_reach.push_back(pid);
  client.send(list_of(out_of_reach));
  expect_equal("reached", client.read_line(kPatience), "nobody");
  // What it may: its own pool's.
  const pid_t own = server.supervisor("reach");
  client.send(list_of({own}));
  expect_equal("reached of its own", client.read_line(kPatience), "kill " + std::to_string(own));
  expect(Client(server.address("other")).echoes("hello\n"), "the other pool serves");
}

}  // namespace

Suite trust_scope_suite() { return {"trust_scope", {{"as one user", as_one_user}}}; }

}  // namespace preforkd::system_test
