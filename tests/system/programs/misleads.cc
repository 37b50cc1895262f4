// misleads: a template (`preload = true`) that has turned against its supervisor. Its argument says how:
//
//   garbage    says bytes that are no report          early   says that an order is over that nobody has given
//   nothing    says that each order is done, and makes nobody
//   crowd      makes a hundred siblings for each order, who are in no slot, and says that it is done
//   strangers  writes into each slot that it is given the pid of somebody else: its own, its supervisor's, the daemon's, 1
//   scribble   ... and over all other slots and what the supervisor has published
//   silent     answers no order
//   leaves     closes its end
//
// It never serves anybody.
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "ipc/template_messages.h"
#include "shm/layout.h"

namespace {

using namespace preforkd;

int orders = -1;
char* memory = nullptr;
uint32_t capacity = 0;
pid_t supervisor = 0;

void find_oneself() {
  const char* text = std::getenv("PREFORKD_WORKER");
  int segment = -1;
  if (!text || std::sscanf(text, "%*u %*d %d %*u %u %d %*d %*d %*d %*u %*d %*d %*d %d", &supervisor,
                           &capacity, &segment, &orders) != 4)
    std::exit(2);
  void* mapped =
      mmap(nullptr, shm::segment_size(capacity), PROT_READ | PROT_WRITE, MAP_SHARED, segment, 0);
  if (mapped == MAP_FAILED) std::exit(2);
  memory = static_cast<char*>(mapped);
}

shm::Slot& slot(uint32_t index) {
  return reinterpret_cast<shm::Slot*>(memory + shm::slots_offset(capacity))[index];
}

void say(TemplateReportType type, uint32_t number = 0) {
  TemplateReport report;
  report.type = type;
  report.number = number;
  if (send(orders, &report, sizeof report, MSG_NOSIGNAL) < 0) _exit(0);
}

void make_crowd() {
  for (int i = 0; i < 100; ++i)
    if (syscall(SYS_clone, CLONE_PARENT | SIGCHLD, 0, 0, 0, 0) == 0)
      for (;;) pause();
}

void write_strangers(const TemplateOrder& order) {
  const pid_t others[] = {getpid(), supervisor, 1, -1, supervisor - 1, 1 << 30};
  for (uint32_t i = 0; i < order.count; ++i)
    slot(order.slots[i]).pid.store(static_cast<uint32_t>(others[i % 6]));
}

void scribble() {
  std::memset(static_cast<void*>(&slot(0)), 0xff, size_t{capacity} * sizeof(shm::Slot));
  auto& published = reinterpret_cast<shm::Segment*>(memory)->published;
  std::memset(static_cast<void*>(&published), 0xff, sizeof published);
}

}  // namespace

int main(int argc, char** argv) {
  const std::string how = argc > 1 ? argv[1] : "";
  find_oneself();
  if (how == "garbage" && send(orders, "what?", 5, MSG_NOSIGNAL) < 0) return 2;
  if (how == "early") say(TemplateReportType::kDone, 1);
  say(TemplateReportType::kStands);
  if (how == "leaves") {
    close(orders);
    for (;;) pause();
  }
  for (TemplateOrder order; recv(orders, &order, sizeof order, 0) == sizeof order;) {
    if (how == "crowd") make_crowd();
    if (how == "strangers" || how == "scribble") write_strangers(order);
    if (how == "scribble") scribble();
    if (how != "silent") say(TemplateReportType::kDone, order.number);
  }
  return 0;
}
