// A generation on trial: launched beside the one that serves, on the same sockets. It has to preload, to start
// its workers, and to keep them alive for a moment (the canary), all within `timeouts.start`; then it may take
// over. Until then nothing of the pool has changed, and if it fails nothing will have.
//
//   preloading ──▶ starting ──ready──▶ canary ──kept alive──▶ verdict ""
//        └────────────┴───────────────────┴── failed, degraded, died, a worker died, too late ──▶ verdict WHY
//
// Its workers accept nobody before the order to serve: a trial that fails has cost no client anything.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "daemon/patience.h"
#include "daemon/plan.h"

namespace preforkd {

class Trial final : private GenerationOwner {
 public:
  // `on_verdict` is called from the loop, and may destroy the trial: "", or the reason against it. After "", as
  // long as it has not taken over, there may still be a reason. With it the pool's key that is to blame, if one is.
  using OnVerdict = std::function<void(std::string reason, std::string key)>;
  // Throws SysError, as launch_generation() does.
  // `heir` owns the generation once the trial is over.
  Trial(EventLoop& loop, GenerationOwner& heir, const Paths& paths, PoolPlan plan,
        const Incarnation& incarnation, OnVerdict on_verdict);

  Generation& generation() { return *generation_; }
  const Generation& generation() const { return *generation_; }
  const PoolPlan& plan() const { return plan_; }
  const Limits& limits() const { return limits_; }
  void set_limits(const Limits& limits);

  // Ends the trial without a verdict; the generation is the caller's.
  std::unique_ptr<Generation> release();

 private:
  void on_report(uint32_t generation, const Report& report) override;
  void on_over(uint32_t) override {}
  void on_failed_launch(uint32_t, const LaunchFailure& failure) override;
  void on_supervisor_death(uint32_t generation, int status) override;
  std::optional<std::vector<pid_t>> unclaimed_children() override {
    return heir_.unclaimed_children();
  }
  void decide(std::string reason, std::string key = "");

  EventLoop& loop_;
  GenerationOwner& heir_;
  const PoolPlan plan_;
  Limits limits_;
  OnVerdict on_verdict_;
  std::unique_ptr<Generation> generation_;
  PatientTimer late_timer_{loop_};
  EventLoop::Timer timer_;  // the end of the canary; the verdict
  std::string said_;        // a supervisor's own words before it exits
  bool passed_ = false, failed_ = false;
};

}  // namespace preforkd
