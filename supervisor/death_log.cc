#include "supervisor/death_log.h"

#include "base/log.h"

namespace preforkd {
namespace {

constexpr Nanoseconds kPerLine = 1 * kSecond;
constexpr Nanoseconds kCredit = 100 * kPerLine;  // lines at once

}  // namespace

void DeathLog::tell(const Workforce::Death& death, Nanoseconds now) {
  if (death.only_stopped) {
    if (!death.text.empty())
      log({LogLevel::kWarning, {}, death.pid, death.text, Event::kWorkerStopped});
    return;
  }
  if (!death.abnormal) return log({LogLevel::kDebug, {}, death.pid, death.text});
  last_ = death.text;
  if (told_.exceeds(kCredit, now)) {
    ++untold_;
    return;
  }
  log({LogLevel::kWarning, {}, death.pid, death.text, Event::kWorkerDied});
  told_ = told_.after(kPerLine, now);
}

void DeathLog::tell_of_the_others(Nanoseconds now, WakeTime& wake) {
  if (untold_ == 0) return;
  if (told_.exceeds(kCredit, now)) return wake.by(told_.even_at - kCredit);
  log_warning(std::to_string(untold_) + " more workers died, the last one " + last_,
              Event::kWorkerDied);
  told_ = told_.after(kPerLine, now);
  untold_ = 0;
}

}  // namespace preforkd
