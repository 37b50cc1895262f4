#include "supervisor/daemon_reporter.h"

#include <unistd.h>

namespace preforkd {

bool DaemonReporter::say(ReportType type, uint32_t number, const std::string& text) {
  Report report;
  report.type = type;
  report.number = number;
  text.copy(report.text, sizeof report.text - 1);
  if (daemon_.reports.send_struct(report) == Channel::Sent::kYes) return true;
  return !daemon_.is_open();  // nobody to tell: nothing to say again
}

void DaemonReporter::acknowledge(uint32_t order, uint32_t workers) {
  Report report;
  report.type = ReportType::kAck;
  report.number = order;
  report.level = static_cast<int32_t>(workers);
  daemon_.reports.send_struct(report);
}

bool DaemonReporter::tell_ready(Nanoseconds now, WakeTime& wake) {
  return told_ready_ = told(say(ReportType::kReady), now, wake);
}

void DaemonReporter::tell_trouble(const std::string& trouble, uint32_t workers, Nanoseconds now,
                                  WakeTime& wake) {
  if (trouble.empty() != told_degraded_) return;
  const auto type = trouble.empty() ? ReportType::kRecovered : ReportType::kDegraded;
  if (told(say(type, workers, trouble), now, wake)) told_degraded_ = !told_degraded_;
}

void DaemonReporter::tell_quiet(uint32_t busy, Nanoseconds now, WakeTime& wake) {
  told_quiet_ = told(say(ReportType::kQuiet, busy), now, wake);
}

void DaemonReporter::send_log(const LogLine& line) {
  const pid_t worker = getpid() == supervisor_ ? 0 : getpid();
  if (worker || !daemon_.is_open())
    return log_to_pipe({line.level, {}, worker, line.text});  // whose it is, the pipe says
  Report report;
  report.type = ReportType::kLog;
  report.level = static_cast<int32_t>(line.level);
  report.pid = line.worker;
  report.event = line.event;
  report.number = lost_lines_;
  line.text.copy(report.text, sizeof report.text - 1);
  const bool is_sent = daemon_.reports.send_struct(report) == Channel::Sent::kYes;
  lost_lines_ = is_sent ? 0 : lost_lines_ + 1;
}

}  // namespace preforkd
