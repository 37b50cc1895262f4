#include "control/explain.h"

#include <algorithm>
#include <string_view>

namespace preforkd {
namespace {

using shm::DecisionView;

std::string number(uint64_t n) { return std::to_string(n); }

uint64_t staying(const DecisionView& d) { return uint64_t{d.idle} + d.busy + d.starting; }

std::string workers(uint64_t n) { return number(n) + (n == 1 ? " worker" : " workers"); }

std::string need(const DecisionView& d) {
  return number(d.idle) + " idle + " + number(d.starting) + " starting for " + number(d.queued) +
         " queued and " + number(d.limits.min_spare) + " to spare";
}

std::string growth(const DecisionView& d) { return "grew by " + number(d.count) + ": "; }
std::string retreat(const DecisionView& d) { return "let " + number(d.count) + " retire: "; }

std::string below_min(const DecisionView& d) {
  return growth(d) + workers(staying(d)) + " of at least " + number(d.limits.min);
}
std::string demand(const DecisionView& d) { return growth(d) + need(d); }
std::string recycling(const DecisionView& d) {
  return "started " + number(d.count) + " to replace " +
         (d.count == 1 ? "a worker that is" : "workers that are") + " to be recycled";
}
std::string on_trial(const DecisionView& d) {
  return "started " + number(d.count) + " on trial: workers have died one after the other";
}
std::string surplus(const DecisionView& d) {
  std::string has = retreat(d) + "of " + workers(staying(d)) + ", ";
  if (d.peak == 0)
    return has + "none was busy for a while, so " +
           (d.limits.min_spare > d.limits.min ? number(d.limits.min_spare) + " (min_spare)"
                                              : number(d.limits.min) + " (min)") +
           " are enough";
  uint64_t keep = std::max<uint64_t>(d.limits.min, uint64_t{d.peak} + d.limits.max_spare);
  std::string why = keep == d.limits.min ? "that is no more than min " + number(d.limits.min)
                                         : "with " + number(d.limits.max_spare) +
                                               " to spare that asks for " + number(keep);
  return has + "at most " + number(d.peak) + (d.peak == 1 ? " was" : " were") +
         " busy at once for a while; " + why;
}
std::string above_max(const DecisionView& d) {
  return retreat(d) + workers(staying(d)) + ", and max is " + number(d.limits.max);
}
std::string at_max(const DecisionView& d) {
  return "could not grow: the pool is at its max of " + number(d.limits.max) + ", with " + need(d);
}
std::string died(const DecisionView& d) {
  return "waits before it grows: workers have died one after the other (" + workers(staying(d)) +
         " now, " + number(d.queued) + " queued)";
}
std::string refused(const DecisionView& d) {
  return "could not grow: the system refused another process (" + workers(staying(d)) + " now, " +
         number(d.queued) + " queued); it tries again";
}

std::string without_template(const DecisionView& d) {
  return "waits before it grows: its program has not come to where it can be forked (" +
         workers(staying(d)) + " now, " + number(d.queued) + " queued)";
}

constexpr struct {
  Action action;
  Reason reason;
  std::string (*sentence)(const DecisionView&);
} kSentences[] = {
    {Action::kGrow, Reason::kBelowMin, below_min},
    {Action::kGrow, Reason::kDemand, demand},
    {Action::kGrow, Reason::kRecycle, recycling},
    {Action::kGrow, Reason::kBreaker, on_trial},
    {Action::kShrink, Reason::kSurplus, surplus},
    {Action::kShrink, Reason::kAboveMax, above_max},
    {Action::kHold, Reason::kAtMax, at_max},
    {Action::kHold, Reason::kBreaker, died},
    {Action::kHold, Reason::kForkFailed, refused},
    {Action::kHold, Reason::kNoTemplate, without_template},
};

}  // namespace

std::string explain(const DecisionView& d) {
  std::string text;
  for (const auto& row : kSentences)
    if (row.action == d.action && row.reason == d.reason) text = row.sentence(d);
  if (text.empty())  // a pair that no scaler makes: tell what the memory says
    text =
        std::string(action_name(d.action)) + " " + number(d.count) + ": " + reason_name(d.reason);
  if (d.action == Action::kShrink && d.patience > 1)
    text += " (patience × " + number(d.patience) + ")";
  return text;
}

}  // namespace preforkd
