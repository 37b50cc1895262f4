// What a supervisor and the template of its pool (supervisor/template.h, template/point.h) say to each other, as fixed-size
// messages on a SOCK_SEQPACKET pair. The template is the pool's user and trusted with nothing: of its reports the supervisor
// believes that an order is over, and what to write into the log. Which workers there are it sees for itself (Slot::pid, and
// who is a child of its own). A message of another size or type, or about an order that was not given, ends the template.
#pragma once

#include <cstddef>
#include <cstdint>

namespace preforkd {

// Supervisor → template: make a worker for each of these slots, one after the other.
struct TemplateOrder {
  static constexpr uint32_t kMostSlots = 64;
  uint32_t number = 0;  // + 1 with each
  uint32_t count = 0;
  uint32_t slots[kMostSlots] = {};
};

// Template → supervisor.
enum class TemplateReportType : uint32_t {
  kStands = 1,  // it has reached its point, and can be forked
  kCannot,      // it cannot: `text` says why; it ends
  kDone,        // order `number` is over; `error`: an errno that stopped it before its end, or 0
};
struct TemplateReport {
  TemplateReportType type{};
  uint32_t number = 0;
  int32_t error = 0;
  char text[500] = {};
};

}  // namespace preforkd
