// dropbear as the program of a pool, as inetd starts it: ssh clients log in with a key and run commands.
#include <pwd.h>
#include <sched.h>
#include <sys/mount.h>
#include <unistd.h>

#include <filesystem>

#include "tests/system/conditions.h"
#include "tests/system/load.h"
#include "tests/system/suites.h"

namespace preforkd::system_test {
namespace {

std::string make_key(const std::string& path) {
  Outcome made = run({"dropbearkey", "-t", "ed25519", "-f", path});
  expect_equal("dropbearkey: " + made.err, made.code, 0);
  const size_t begin = made.out.find("ssh-ed25519 ");
  return made.out.substr(begin, made.out.find('\n', begin) - begin) + "\n";
}

// dropbear reads the keys that may log in from the user's own home: in a namespace of the server's, root has one
// for this test.
void log_in() {
  if (!is_root()) return skip("only root can log users in");
  TestFolder folder;
  const std::string host_key = folder.file("host_key"), own_key = folder.file("own_key");
  make_key(host_key);
  const std::string home = folder.file("home"), keys = home + "/.ssh";
  std::filesystem::create_directories(keys);
  folder.write("home/.ssh/authorized_keys", make_key(own_key), 0600);
  for (const std::string& path : {home, keys})
    std::filesystem::permissions(path, std::filesystem::perms::owner_all);
  const std::string home_of_root = getpwuid(0)->pw_dir;

  Server server(
      {PoolText{.name = "ssh",
                .serves = "program = [ \"/usr/sbin/dropbear\", \"-i\", \"-m\", \"-s\", \"-r\", \"" +
                          host_key + "\" ];",
                .more = "user = \"root\";"}},
      {.in_child = [&] {
        if (unshare(CLONE_NEWNS) != 0 ||
            mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
            mount(home.c_str(), home_of_root.c_str(), nullptr, MS_BIND, nullptr) != 0)
          _exit(126);
      }});
  std::vector<std::vector<std::string>> logins;
  for (int i = 0; i < 4; ++i)
    logins.push_back({"dbclient", "-q", "-y", "-y", "-i", own_key, "-p",
                      std::to_string(server.port("ssh")), "root@127.0.0.1",
                      "echo \"$((6 * 7)) for $USER, from ${SSH_CLIENT%% *}\"; head -c 100000 "
                      "/dev/zero | wc -c"});
  run_at_once(logins, folder, 60);
  for (size_t i = 0; i < logins.size(); ++i) {
    const std::string said =
        file_text(folder.file(std::to_string(i) + ".out"));  // with a warning before it
    expect(said.ends_with("42 for root, from 127.0.0.1\n100000\n"), "a login's output: " + said);
  }
  expect_exact_figures(server, "ssh", logins.size());
}

}  // namespace

Suite ssh_suite() { return {"ssh", {{"log in, and run a command", log_in}}}; }

}  // namespace preforkd::system_test
