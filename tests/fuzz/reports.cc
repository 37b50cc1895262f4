// daemon/generation: what the daemon hears from a supervisor, which runs handlers and may be anything. Each
// line of the input is a Report: its type (a letter, 'a' is the first), its number (a digit), which is its event
// as well, its level (any byte), its text. Or, by its first character:
//
//   >   the daemon gives an order of a type (a digit)     !   a datagram of these bytes
#include <signal.h>
#include <unistd.h>

#include <array>

#include "daemon/generation.h"
#include "tests/fuzz/fuzz.h"

using namespace preforkd;
using fuzz::must;

namespace {

class Owner final : public GenerationOwner {
 public:
  void on_report(uint32_t generation, const Report& report) override {
    must(generation == 1, "the generation that it is");
    must(report.text[sizeof report.text - 1] == '\0', "a text ends");
    must(report.event <= Event::kTemplateDied, "a supervisor's event");
    must(report.type != ReportType::kAck, "acknowledgements are the generation's own business");
  }
  void on_failed_launch(uint32_t, const LaunchFailure&) override {
    must(false, "nothing was launched");
  }
  std::optional<std::vector<pid_t>> unclaimed_children() override { return std::vector<pid_t>{}; }
  void on_over(uint32_t) override { must(false, "over without a death"); }
  void on_supervisor_death(uint32_t, int) override { must(false, "dead without a death"); }
};

uint8_t take(std::string_view& rest) {
  if (rest.empty()) return 0;
  auto byte = static_cast<uint8_t>(rest.front());
  rest.remove_prefix(1);
  return byte;
}

Report report_of(std::string_view line) {
  Report report;
  report.type = static_cast<ReportType>(take(line) - uint32_t{'a'} + 1);
  report.number = take(line) - uint32_t{'0'};
  report.event = static_cast<Event>(report.number);
  report.level = static_cast<int8_t>(take(line));
  line.copy(report.text, sizeof report.text);
  return report;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  signal(SIGPIPE, SIG_IGN);        // as a supervisor does
  std::array<int, 64> answered{};  // by order, how often its giver was told what became of it
  size_t given = 0;
  EventLoop loop;
  Owner owner;
  auto [orders, to_obey] = Channel::make_pair();
  auto [reports, to_report] = make_message_pipe();
  Channel obeys(std::move(to_obey));
  Outbox supervisor(std::move(to_report));
  Generation::Parts parts;
  parts.number = 1;
  parts.capacity = 1024;
  parts.pool = "echo";
  parts.child.pid = getpid();  // without a pidfd it can be sent no signal
  parts.orders = Channel(std::move(orders));
  parts.reports = Inbox(std::move(reports));
  Generation generation(loop, owner, std::move(parts));

  std::string_view rest = fuzz::text_of(data, size);
  while (!rest.empty()) {
    std::string_view line = fuzz::cut(rest);
    if (line.starts_with('>')) {
      if (given == answered.size()) continue;
      line.remove_prefix(1);
      Order order;
      order.type = static_cast<OrderType>(take(line) - uint32_t{'0'});
      generation.order(order, [&count = answered[given++]](bool) { ++count; });
    } else if (line.starts_with('!')) {
      supervisor.send(std::as_bytes(std::span(line.substr(1))));
    } else {
      supervisor.send_struct(report_of(line));
    }
    loop.turn(false);
  }
  // What the daemon said is orders, each of a number of its own.
  Channel::Datagram said;
  for (uint32_t number = 1; obeys.receive(said) == Channel::Got::kMessage; ++number) {
    auto order = said.as<Order>();
    must(order && order->number == number, "orders are numbered");
  }
  for (int count : answered) must(count <= 1, "who gave an order is told once");
  return 0;
}
