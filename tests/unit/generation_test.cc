// daemon/generation: what of a supervisor's many words reaches the pool.
#include "daemon/generation.h"

#include <vector>

#include "tests/unit/unit_test.h"

using namespace preforkd;

namespace {

class Heard final : public GenerationOwner {
 public:
  void on_report(uint32_t, const Report& report) override { types.push_back(report.type); }
  void on_failed_launch(uint32_t, const LaunchFailure&) override {}
  std::optional<std::vector<pid_t>> unclaimed_children() override { return std::vector<pid_t>{}; }
  void on_over(uint32_t) override {}
  void on_supervisor_death(uint32_t, int) override { at_death = types; }

  bool ends_with(ReportType type) const { return !types.empty() && types.back() == type; }
  std::vector<ReportType> types, at_death;
};

// A supervisor by its channels alone: for who it is, this process stands.
struct Spoken {
  Spoken() {
    auto [orders, to_obey] = Channel::make_pair();
    auto [reports, to_report] = make_message_pipe();
    obeys = Channel(std::move(to_obey));
    says = Outbox(std::move(to_report));
    Generation::Parts parts;
    parts.number = 1;
    parts.pool = "alice";
    parts.child.pid = getpid();
    parts.orders = Channel(std::move(orders));
    parts.reports = Inbox(std::move(reports));
    generation = std::make_unique<Generation>(loop, heard, std::move(parts));
  }
  void say(ReportType type) {
    Report report;
    report.type = type;
    CU_ASSERT(says.send_struct(report) == Outbox::Sent::kYes);
    loop.turn(false);
  }
  // More of them than are passed on at once.
  void waver(ReportType last) {
    for (int i = 0; i < 30; ++i) {
      say(ReportType::kDegraded);
      say(ReportType::kRecovered);
    }
    say(last);
  }
  EventLoop loop;
  Heard heard;
  Channel obeys;
  Outbox says;
  std::unique_ptr<Generation> generation;
};

void the_last_state_is_heard() {
  for (auto last : {ReportType::kDegraded, ReportType::kReady}) {
    Spoken s;
    s.waver(last);
    CU_ASSERT(s.heard.types.size() < 30);
    CU_ASSERT(unit::eventually([&] {
      s.loop.turn(false);
      return s.heard.ends_with(last);
    }));
    CU_ASSERT(s.heard.types.size() < 40);
  }
}

void what_was_put_off_is_no_news_after_what_came_later() {
  Spoken s;
  s.waver(ReportType::kDegraded);
  CU_ASSERT(unit::eventually([&] {
    s.say(ReportType::kRecovered);
    return s.heard.ends_with(ReportType::kRecovered);
  }));
  const size_t count = s.heard.types.size();
  const Nanoseconds later = monotonic_now() + kSecond;  // in which what waited would be said
  CU_ASSERT(unit::eventually([&] {
    s.loop.turn(false);
    return monotonic_now() > later;
  }));
  for (size_t i = count; i < s.heard.types.size(); ++i)
    CU_ASSERT(s.heard.types[i] == ReportType::kRecovered);
}

void last_words_are_heard_before_the_death() {
  Spoken s;
  s.waver(ReportType::kFailed);
  CU_ASSERT_FALSE(s.heard.ends_with(ReportType::kFailed));
  s.generation->supervisor_died(0, 0);
  CU_ASSERT(!s.heard.at_death.empty() && s.heard.at_death.back() == ReportType::kFailed);
}

void nothing_is_left_unsaid_before_an_upgrade() {
  Spoken s;
  s.waver(ReportType::kReady);
  s.generation->say_put_off();
  CU_ASSERT(s.heard.ends_with(ReportType::kReady));
  CU_ASSERT(s.generation->state() == Generation::State::kServing);
}

// While the daemon stands still (a machine that is paused) its supervisors do, too: what it hears nothing of then is
// no silence of theirs.
void a_pause_is_no_silence() {
  unit::Child supervisor([] { return pause() != 0; });
  EventLoop loop;
  Heard heard;
  auto [orders, to_obey] = Channel::make_pair();
  auto [reports, to_report] = make_message_pipe();
  GenerationRecord record;
  record.number = 1;
  record.pid = supervisor.pid();
  record.orders = orders.release();
  record.reports = reports.release();
  record.state = static_cast<int>(Generation::State::kServing);
  record.preloaded = true;
  Generation generation(loop, heard, "alice", record, {}, nullptr);
  generation.order({});
  const timespec longer_than_any_silence{6, 0};
  nanosleep(&longer_than_any_silence, nullptr);
  for (int i = 0; i < 3; ++i) loop.turn(false);
  siginfo_t dead{};
  CU_ASSERT_EQUAL(
      waitid(P_PID, static_cast<id_t>(supervisor.pid()), &dead, WEXITED | WNOHANG | WNOWAIT), 0);
  CU_ASSERT_EQUAL(dead.si_pid, 0);
}

}  // namespace

void add_generation_tests() {
  static const unit::Test kTests[] = {
      {"the last state is heard", the_last_state_is_heard},
      {"what was put off is no news after what came later",
       what_was_put_off_is_no_news_after_what_came_later},
      {"last words are heard before the death", last_words_are_heard_before_the_death},
      {"nothing is left unsaid before an upgrade", nothing_is_left_unsaid_before_an_upgrade},
      {"a pause is no silence", a_pause_is_no_silence},
  };
  unit::add_suite("generation", kTests);
}
