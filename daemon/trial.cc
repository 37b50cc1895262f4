#include "daemon/trial.h"

namespace preforkd {
namespace {

// What crashes at its first idle moment crashes at once; and who reloads waits for this.
constexpr Nanoseconds kCanary = 300 * kMillisecond;

}  // namespace

Trial::Trial(EventLoop& loop, GenerationOwner& heir, const Paths& paths, PoolPlan plan,
             const Incarnation& incarnation, OnVerdict on_verdict)
    : loop_(loop),
      heir_(heir),
      plan_(std::move(plan)),
      limits_(incarnation.limits),
      on_verdict_(std::move(on_verdict)) {
  GenerationOwner& owner = *this;
  generation_ = launch_generation(loop, owner, paths, plan_, incarnation);
  const Nanoseconds patience = plan_.settings.start_timeout;
  if (!patience) return;
  late_timer_.set_after(patience, [this, patience] {
    decide("not ready in " + std::to_string(patience / kMillisecond) + " ms (timeouts.start)");
  });
}

void Trial::set_limits(const Limits& limits) {
  limits_ = limits;
  Order order;
  order.type = OrderType::kLimits;
  order.limits = limits;
  generation_->order(order);
}

std::unique_ptr<Generation> Trial::release() {
  failed_ = true;  // nothing that it says matters any more
  late_timer_.drop();
  timer_ = {};
  return std::move(generation_);
}

void Trial::on_report(uint32_t, const Report& report) {
  switch (report.type) {
    case ReportType::kLog:
      return log_report(plan_.settings.name, report);
    case ReportType::kReady:
      if (passed_ || failed_) return;
      late_timer_.drop();
      timer_ = loop_.after(kCanary, [this] { decide(""); });
      return;
    case ReportType::kFailed:
      said_ = report.text;  // its death follows
      return;
    case ReportType::kWorkerFailed:
      return decide(std::string("a worker ") + report.text);
    case ReportType::kDegraded:
      return decide(report.text);
    case ReportType::kQuiet:
    case ReportType::kDrained:
      return decide("it left by itself");
    case ReportType::kWatchListen:  // whoever is in charge is watched for
    case ReportType::kPreloaded:
    case ReportType::kRecovered:
    case ReportType::kAck:
      return;
  }
}

void Trial::on_failed_launch(uint32_t, const LaunchFailure& failure) {
  decide(failure.text(), failure.key);
}

void Trial::on_supervisor_death(uint32_t, int status) {
  decide(said_.empty() ? "its supervisor " + ending_text(status) : said_);
}

// From a timer: the generation that reports is not to be taken away under its own feet.
void Trial::decide(std::string reason, std::string key) {
  if (failed_ || (passed_ && reason.empty())) return;
  (reason.empty() ? passed_ : failed_) = true;
  late_timer_.drop();
  timer_ = loop_.after(0, [this, reason = std::move(reason), key = std::move(key)] {
    auto on_verdict = on_verdict_;
    on_verdict(reason, key);
  });
}

}  // namespace preforkd
