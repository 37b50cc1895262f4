// The deaths of workers in the log: a line for each of so many at once, and of one more each second; the others are counted.
#pragma once

#include <string>

#include "supervisor/breaker.h"
#include "supervisor/wake_time.h"
#include "supervisor/workforce.h"

namespace preforkd {

class DeathLog {
 public:
  void tell(const Workforce::Death& death, Nanoseconds now);
  void tell_of_the_others(Nanoseconds now, WakeTime& wake);
  // How the last worker died that should not have; "": none has.
  const std::string& last() const { return last_; }

 private:
  Debt told_;
  uint32_t untold_ = 0;
  std::string last_;
};

}  // namespace preforkd
