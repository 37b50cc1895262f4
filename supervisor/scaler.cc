#include "supervisor/scaler.h"

#include <algorithm>

namespace preforkd {
namespace {

constexpr Nanoseconds kMinStep = 250 * kMillisecond;

void begin_window(ScalerMemory& m, Nanoseconds now) {
  m.steps = 0;
  m.step_began = now;
}

// Patience comes down by half for each quiet stretch of 2 × shrink_after.
void relax(ScalerMemory& m, const Limits& limits, Nanoseconds now) {
  Nanoseconds quiet = std::max<Nanoseconds>(2 * limits.shrink_after, 1);
  while (m.patience > 1 && now - m.patience_since >= quiet) {
    m.patience /= 2;
    m.patience_since += quiet;
  }
}

// The pool has to grow because of load: was the last shrink a mistake? Counted once a shrink.
void learn_from_growth(ScalerMemory& m, const Limits& limits, Nanoseconds now) {
  if (m.shrank_at == 0) return;
  if (now - m.shrank_at < 2 * limits.shrink_after) {
    m.patience = std::min(m.patience * 2, ScalerMemory::kMaxPatience);
    m.patience_since = now;
  }
  m.shrank_at = 0;
}

uint32_t peak_of_window(const ScalerMemory& m, uint32_t window, uint32_t current) {
  uint32_t peak = current;
  for (uint32_t i = 0; i < std::min(m.steps, window); ++i)
    peak = std::max(peak, m.peaks[(m.steps - 1 - i) % ScalerMemory::kMaxSteps]);
  return peak;
}

// Spare workers that are missing; negative: that there are more than min_spare of.
int64_t missing_spares(const View& v, const Limits& limits) {
  return int64_t{limits.min_spare} + v.queued - v.idle - v.starting;
}

// Whether and why the pool must grow, were there no `max`.
uint32_t missing(const View& v, const Limits& limits, uint32_t staying, Reason& reason) {
  int64_t spare = missing_spares(v, limits);
  int64_t below = int64_t{limits.min} - staying;
  if (std::max(spare, below) <= 0) return 0;
  bool without_recycling = spare <= int64_t{v.recycling} && below <= int64_t{v.recycling};
  reason = v.recycling && without_recycling ? Reason::kRecycle
           : spare >= below                 ? Reason::kDemand
                                            : Reason::kBelowMin;
  return static_cast<uint32_t>(std::min<int64_t>(std::max(spare, below), UINT32_MAX));
}

// True: it grows, and that is all. It may want to, and have no room: that is a hold.
bool grow(const View& view, const Limits& limits, uint32_t staying, Nanoseconds now, Verdict& v) {
  const uint32_t wanted = missing(view, limits, staying, v.reason);
  if (wanted == 0) return false;
  const uint32_t existing = staying + view.recycling + view.retiring;
  const uint32_t room = limits.max > existing ? limits.max - existing : 0;
  v.count = std::min(wanted, room);
  v.action = v.count ? Action::kGrow : Action::kHold;
  if (v.action == Action::kHold) v.reason = Reason::kAtMax;
  if (v.reason == Reason::kDemand) learn_from_growth(v.memory, limits, now);
  if (v.count == 0) return false;
  begin_window(v.memory, now);
  v.take_peak = true;
  v.wake_at = now + shrink_step(limits);
  return true;
}

// The window slides by a step, and may show a surplus.
void end_step(const View& view, const Limits& limits, uint32_t staying, Nanoseconds now,
              Verdict& v) {
  ScalerMemory& m = v.memory;
  m.peaks[m.steps++ % ScalerMemory::kMaxSteps] = view.peak_busy;
  m.step_began = now;
  v.take_peak = true;
  const uint32_t window = window_steps(limits, m.patience);
  v.peak = peak_of_window(m, window, view.peak_busy);
  const uint32_t keep = v.peak == 0 ? std::max(limits.min, limits.min_spare)
                                    : std::max(limits.min, v.peak + limits.max_spare);
  if (m.steps < window || staying <= keep || v.action != Action::kNone) return;
  // Nor more than growth would ask for again at once, for connections that wait just now.
  const int64_t spared = std::clamp<int64_t>(-missing_spares(view, limits), 0, view.idle);
  v.count = std::min((staying - keep + 1) / 2, static_cast<uint32_t>(spared));
  if (v.count == 0) return;
  v.action = Action::kShrink;
  v.reason = Reason::kSurplus;
  m.shrank_at = now;
}

}  // namespace

Nanoseconds shrink_step(const Limits& limits) {
  return std::max(limits.shrink_after / 8, kMinStep);
}

uint32_t window_steps(const Limits& limits, uint32_t patience) {
  Nanoseconds step = shrink_step(limits);
  auto steps = static_cast<uint32_t>((limits.shrink_after * patience + step - 1) / step);
  return std::clamp(steps, 1u, ScalerMemory::kMaxSteps);
}

Verdict decide(const View& view, const Limits& limits, Nanoseconds now,
               const ScalerMemory& memory) {
  Verdict v;
  v.memory = memory;
  v.peak = view.peak_busy;
  relax(v.memory, limits, now);
  const uint32_t staying = view.starting + view.idle + view.busy;
  if (staying > limits.max) {
    v.action = Action::kShrink;
    v.reason = Reason::kAboveMax;
    v.count = staying - limits.max;
    begin_window(v.memory, now);
    v.wake_at = now + shrink_step(limits);
    return v;
  }
  if (grow(view, limits, staying, now, v)) return v;
  if (staying <=
      std::max(limits.min, limits.min_spare)) {  // nothing to let go: no window, no timer
    begin_window(v.memory, now);
    return v;
  }
  if (now - v.memory.step_began >= shrink_step(limits)) end_step(view, limits, staying, now, v);
  v.wake_at = v.memory.step_began + shrink_step(limits);
  return v;
}

}  // namespace preforkd
