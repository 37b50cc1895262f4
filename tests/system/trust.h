// What the suites of attacks (trust_*_test.cc) share: whose pools attack whom, how an attacker is given its orders
// (attacks.h has them), and what must hold meanwhile.
#pragma once

#include <string>
#include <vector>

#include "tests/system/conditions.h"
#include "tests/system/harness.h"

namespace preforkd::system_test {

inline constexpr char kAlice[] = "games";   // attacks; has no processes of its own
inline constexpr char kBob[] = "daemon";    // is attacked
inline constexpr char kStranger[] = "man";  // has no pool

// Whether there are these users, and root, who can run pools as them; prints why not.
bool can_attack();

std::string attacking_program();  // its path (tests/system/programs/trust.cc)

// PoolText::serves and ::more for what attacks as alice, by each seat. `settings`: of handlers/trust.cc.
std::string attacking_handler(const std::string& settings = "");
// In Python: each order is obeyed by that program, with its descriptors.
std::string script_that_attacks_by(const std::string& program);
std::string attacking_script();  // by attacking_program()
PoolText attacker(const std::string& name, const std::string& serves, const std::string& more = "");
PoolText bobs_pool(const std::string& name = "bob");

// A folder that is alice's, in the server's: she may change what is in it.
std::string alices_folder(Server& server);
void give_to(const std::string& user, const std::string& path);

// Sends one order, and keeps the connection, so that its process lives on.
class Attacker {
 public:
  explicit Attacker(const std::string& address) : client_(address) {}
  void begin(const std::string& order) { client_.send(order + "\n"); }
  std::string answer(double seconds = kPatience) { return client_.read_line(seconds); }
  std::string obeys(const std::string& order, double seconds = kPatience) {
    begin(order);
    return answer(seconds);
  }

 private:
  Client client_;
};

// A name for a process that is left behind: of no other test, nor of another run of this one.
std::string name_for_left();
bool is_left(const std::string& name);                        // it, or what came of it
std::vector<pid_t> processes_named(const std::string& comm);  // by /proc/PID/comm; no zombies
// Server::supervisor, but never what its preload has left behind, which has its title.
bool is_supervisor(pid_t pid);
pid_t supervisor_of(Server& server, const std::string& pool);
uid_t uid_of(pid_t pid);

// Sends a request to control, whose answer may take its time.
Client begin_request(Server& server, const std::string& method, const std::string& path,
                     const std::string& body = "");
// Whether a change of this pool's limits is answered with 200 within the time; a Failure if not.
void set_in_time(Server& server, const std::string& pool, double seconds = 1,
                 std::source_location where = std::source_location::current());
// The same for so long, again and again.
void expect_steerable(Server& server, const std::string& pool, double for_seconds,
                      std::source_location where = std::source_location::current());
// TERM is obeyed, and the exit code is 0.
void expect_stops(Server& server, double seconds = 5,
                  std::source_location where = std::source_location::current());

// A server in a PID namespace of its own, which Server takes for one process: who ends it ends all of it. It is not
// ready yet.
ServerOptions with_private_pids();
void wait_until_running(Server& server, size_t pools);

}  // namespace preforkd::system_test
