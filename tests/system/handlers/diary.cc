// diary: a handler that asks preforkd for all that a handler may ask. Each line of a client is an order, and is
// answered by a line:
//
//   note TEXT    notes that                     log TEXT     writes it to the log
//   extend MS    may take so long from now on   recycle      leaves after this connection
//   grow MIB     has so much more memory        pid · local  its pid; the address that was connected to
//   forked_from  the pid that what preload registered with pthread_atfork() saw in the parent, and the child's
// Setting: recycle_in_start: it asks for its replacement in `start`.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <preforkd/handler.h>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <string>

namespace {

pid_t parent = 0, child = 0;

std::string local_text(const preforkd_connection& c) {
  if (c.local_length < sizeof(sockaddr_in) || c.local->sa_family != AF_INET) return "?";
  const auto* in = reinterpret_cast<const sockaddr_in*>(c.local);
  char text[INET_ADDRSTRLEN];
  return std::string(inet_ntop(AF_INET, &in->sin_addr, text, sizeof text)) + ":" +
         std::to_string(ntohs(in->sin_port));
}

std::string obey(const preforkd_host& host, const preforkd_connection& c, const std::string& line) {
  const size_t space = line.find(' ');
  const std::string order = line.substr(0, space),
                    rest = space == line.npos ? "" : line.substr(space + 1);
  if (order == "note") host.note(rest.c_str());
  if (order == "log") host.log(6, rest.c_str());
  if (order == "extend") host.extend(static_cast<uint32_t>(std::atol(rest.c_str())));
  if (order == "recycle") host.recycle();
  if (order == "pid") return std::to_string(getpid());
  if (order == "local") return local_text(c);
  if (order == "forked_from") return std::to_string(parent) + " " + std::to_string(child);
  if (order == "grow") {
    const size_t size = static_cast<size_t>(std::atol(rest.c_str())) << 20;
    mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
  }
  return "done";
}

int preload(const preforkd_host* host, void** state) {
  host->note("nobody reads this");  // there is no worker yet
  host->extend(1);
  host->recycle();
  *state = const_cast<preforkd_host*>(host);
  return pthread_atfork([] { parent = getpid(); }, nullptr, [] { child = getpid(); });
}

int start(void* state) {
  const auto& host = *static_cast<preforkd_host*>(state);
  if (std::strstr(host.settings, "recycle_in_start")) host.recycle();
  return 0;
}

int serve(void* state, const preforkd_connection* c) {
  std::string line;
  for (char next; recv(c->fd, &next, 1, 0) == 1;) {
    if (next != '\n') {
      line += next;
      continue;
    }
    const std::string answer = obey(*static_cast<preforkd_host*>(state), *c, line) + "\n";
    if (send(c->fd, answer.data(), answer.size(), MSG_NOSIGNAL) < 0) return 1;
    line.clear();
  }
  return 0;
}

}  // namespace

PREFORKD_HANDLER = {PREFORKD_ABI, sizeof(preforkd_handler), "diary", preload, start, serve,
                    nullptr};
