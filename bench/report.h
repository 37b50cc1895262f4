// What comes out: one table, and below it every sample, so that a reader can judge the medians.
#pragma once

#include <sys/utsname.h>
#include <time.h>

#include <cstdarg>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <string>
#include <thread>
#include <vector>

#include "base/version.h"
#include "bench/stats.h"

namespace preforkd::bench {

__attribute__((format(printf, 1, 2))) inline std::string text(const char* format, ...) {
  char buffer[1024];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(buffer, sizeof buffer, format, arguments);
  va_end(arguments);
  return buffer;
}

// "15.2 (14.1 – 17.0)": the median, and the range.
inline std::string summary(const Samples& samples, int digits) {
  return text("%.*f (%.*f – %.*f)", digits, median(samples), digits, lowest(samples), digits,
              highest(samples));
}

inline std::string listing(const Samples& samples, int digits) {
  std::string list;
  for (double sample : samples) list += text("%s%.*f", list.empty() ? "" : ", ", digits, sample);
  return list;
}

enum class Verdict { kReached, kMissed, kForComparison };

struct Row {
  std::string figure, preforkd, reference, ratio, target;
  Verdict verdict = Verdict::kForComparison;
};

// What is shown while it runs; the report comes at the end.
inline void progress(const std::string& line) { std::cerr << line << std::endl; }

inline Verdict reached_if(bool reached) { return reached ? Verdict::kReached : Verdict::kMissed; }

class Report {
 public:
  void add(Row row) { rows_.push_back(std::move(row)); }
  void note(const std::string& line) { notes_.push_back(line); }

  void write(std::ostream& out) const {
    out << "| figure | preforkd | reference | ratio | to reach | reached "
           "|\n|---|---|---|---|---|---|\n";
    for (const Row& row : rows_)
      out << "| " << row.figure << " | " << row.preforkd << " | " << row.reference << " | "
          << row.ratio << " | " << row.target << " | " << verdict_name(row.verdict) << " |\n";
    out << "\n";
    for (const std::string& line : notes_) out << "- " << line << "\n";
  }

 private:
  static const char* verdict_name(Verdict verdict) {
    switch (verdict) {
      case Verdict::kReached:
        return "yes";
      case Verdict::kMissed:
        return "**no**";
      case Verdict::kForComparison:
        return "";
    }
    return "";
  }

  std::vector<Row> rows_;
  std::vector<std::string> notes_;
};

inline std::string field_of(const char* path, const std::string& key, char separator) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    size_t at = line.find(separator);
    if (!line.starts_with(key) || at == std::string::npos) continue;
    std::string value = line.substr(at + 1);
    std::erase(value, '"');
    return value.substr(value.find_first_not_of(' '));
  }
  return "unknown";
}

// On what, when and under which load: a figure without this is worth little.
inline std::string machine() {
  utsname system{};
  uname(&system);
  time_t now = time(nullptr);
  char date[32];
  strftime(date, sizeof date, "%Y-%m-%d %H:%M UTC", gmtime(&now));
  double load = 0;
  std::ifstream("/proc/loadavg") >> load;
  return text("preforkd %s, %s; %s, Linux %s; %s, %u cores; g++ %s; load average before: %.2f",
              kVersion, date, field_of("/etc/os-release", "PRETTY_NAME", '=').c_str(),
              system.release, field_of("/proc/cpuinfo", "model name", ':').c_str(),
              std::thread::hardware_concurrency(), __VERSION__, load);
}

}  // namespace preforkd::bench
