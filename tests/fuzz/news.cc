// control/daemon_link, pools, info, totals: what control hears on its channel. Each line of the input is a
// datagram, by its first letter:
//
//   d, p   the JSON of kDaemon, kPool         b        bytes of totals over a good record, for what follows
//   s, S   generation (a digit) and pool of   B        bytes of totals for what follows
//          kSegment; S: without descriptor    r        the bytes themselves
//   a      id (a digit), hundreds of status   ?        id (a digit): control has asked for something
//          (a digit) and text of kAnswer
#include <algorithm>

#include "base/log.h"
#include "control/daemon_link.h"
#include "control/metrics.h"
#include "control/routes.h"
#include "control/status_json.h"
#include "control/totals.h"
#include "tests/fuzz/control.h"

using namespace preforkd;
using fuzz::must;

namespace {

template <class T>
std::string bytes_of(const T& message) {
  return {reinterpret_cast<const char*>(&message), sizeof message};
}

uint32_t digit(std::string_view& rest) {
  if (rest.empty()) return 0;
  uint32_t value = static_cast<uint8_t>(rest.front()) - uint32_t{'0'};
  rest.remove_prefix(1);
  return value;
}

class Control {
 public:
  explicit Control(const fuzz::Memory& memory) : memory_(memory), routes_(pools_) {
    auto [daemon, control] = Channel::make_pair();
    auto [requests, asks] = make_message_pipe();
    daemon_ = Channel(std::move(daemon));
    requests_ = std::move(requests);
    link_.emplace(loop_, std::move(control), std::move(asks), pools_, false);
    link_->start({.on_news = [] {},
                  .on_answer =
                      [this](const Request& asked, const Answer& answer) {
                        HttpReply reply = routes_.conclude(asked, answer);
                        must(reply.status >= 200 && reply.status < 600, "a status of HTTP");
                        fuzz::parsed(reply.body);
                      },
                  .on_end = [this](bool) { ended_ = true; },
                  .clients = [] { return 1u; }});
  }

  bool ended() const { return ended_; }

  void hear(std::string_view line) {
    if (line.empty()) return;
    const char what = line.front();
    line.remove_prefix(1);
    switch (what) {
      case 'd':
        return tell(fuzz::with_header(ControlNews::kDaemon, line));
      case 'p':
        return tell(fuzz::with_header(ControlNews::kPool, line, base_));
      case 's':
      case 'S':
        return tell_segment(line, what == 's');
      case 'a':
        return tell_answer(line);
      case 'b':
        base_ = pack_totals({});
        line.copy(base_.data() + std::min<size_t>(16, base_.size()), base_.size() - 16);
        return check_totals();
      case 'B':
        base_ = line;
        return check_totals();
      case '?':
        return ask(digit(line));
      default:
        if (!line.empty()) tell(std::string(line));
    }
  }

  // Whatever it was told, control can show it.
  void show() {
    auto views = view_all(pools_.shown());
    must(!pools_.complete() ||
             (pools_.daemon().pid != 0 && views.size() == pools_.daemon().pools.size()),
         "complete is what is shown");
    fuzz::parsed(status_json(pools_.daemon(), views, monotonic_now()));
    metrics_text(pools_.daemon(), views, 0, MetricsFormat::kOpenMetrics);
  }

 private:
  void tell(const std::string& bytes, int descriptor = -1) {
    must(daemon_.send(std::as_bytes(std::span(bytes)), {}, descriptor) != Channel::Sent::kFull,
         "there is room");
    loop_.turn(false);
    listen();
  }
  void tell_segment(std::string_view line, bool with_descriptor) {
    SegmentNews news;
    news.generation = digit(line);
    line.copy(news.pool, sizeof news.pool);
    UniqueFd segment = memory_.descriptor();
    tell(bytes_of(news), with_descriptor ? segment.get() : -1);
  }
  void tell_answer(std::string_view line) {
    Answer answer;
    answer.id = digit(line);
    answer.status = digit(line) * 100;
    line.copy(answer.text, sizeof answer.text);
    tell(bytes_of(answer));
  }
  void ask(uint32_t id) {
    Request request;
    request.ask = ControlAsk::kDrain;
    request.id = id;
    if (id % 2) std::strcpy(request.pool, "echo");
    link_->ask(request);
  }
  void check_totals() const {
    auto figures = unpack_totals(base_);
    if (figures) must(pack_totals(*figures) == base_, "totals are packed as they came");
  }
  // Control says nothing but requests, and totals that it can read again itself.
  void listen() {
    Channel::Datagram said;
    while (daemon_.receive(said) == Channel::Got::kMessage) {
      must(said.bytes.size() >= sizeof(Request), "a request");
      Request request;
      std::memcpy(&request, said.bytes.data(), sizeof request);
      must(request.pool[kPoolNameMax] == '\0', "the name of a pool ends");
      if (request.ask != ControlAsk::kTotals) continue;
      must(unpack_totals(std::string_view(said.bytes).substr(sizeof request)).has_value(),
           "totals that are handed in are good");
    }
  }

  const fuzz::Memory& memory_;
  EventLoop loop_;
  Pools pools_;
  Routes routes_;
  Channel daemon_;
  UniqueFd requests_;
  std::optional<DaemonLink> link_;
  std::string base_;
  bool ended_ = false;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static fuzz::Memory memory;
  set_log_sink([](const LogLine&) {});
  Control control(memory);
  std::string_view rest = fuzz::text_of(data, size);
  while (!rest.empty() && !control.ended()) control.hear(fuzz::cut(rest));
  control.show();
  return 0;
}
