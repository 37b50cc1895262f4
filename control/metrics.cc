#include "control/metrics.h"

#include <charconv>
#include <cmath>

namespace preforkd {
namespace {

using shm::CounterGroup;
using shm::CounterRow;

std::string text_of(double value) {
  char text[32];
  auto end = std::to_chars(text, text + sizeof text, value).ptr;
  return std::string(text, end);
}
std::string text_of(uint64_t value) { return std::to_string(value); }

// Where the rows of one metric put their samples.
class Samples {
 public:
  Samples(std::string& out, std::string name, std::string pool)
      : out_(out), name_(std::move(name)), pool_(std::move(pool)) {}

  template <class Number>
  void add(Number value) {
    add("", "", "", value);
  }
  template <class Number>
  void add(std::string_view label, std::string_view label_value, Number value) {
    add("", label, label_value, value);
  }
  template <class Number>
  void add(std::string_view suffix, std::string_view label, std::string_view label_value,
           Number value) {
    out_.append(name_).append(suffix);
    std::string labels;
    if (!pool_.empty()) labels = "pool=\"" + escape_label(pool_) + "\"";
    if (!label.empty())
      labels.append(labels.empty() ? "" : ",")
          .append(label)
          .append("=\"")
          .append(escape_label(label_value))
          .append("\"");
    if (!labels.empty()) out_.append("{").append(labels).append("}");
    out_.append(" ").append(text_of(value)).append("\n");
  }

 private:
  std::string& out_;
  std::string name_, pool_;
};

enum class Type { kCounter, kGauge, kInfo, kHistogram };

struct DaemonRow {
  const char* name;  // without _total, _info: the format and the type ask for those
  Type type;
  const char* unit;
  const char* help;
  void (*samples)(const DaemonInfo&, double started_epoch, Samples&);
};
constexpr DaemonRow kDaemonRows[] = {
    {"preforkd_build", Type::kInfo, "", "The version of the daemon.",
     [](const DaemonInfo& d, double, Samples& s) { s.add("version", d.version, uint64_t{1}); }},
    {"preforkd_start_time_seconds", Type::kGauge, "seconds",
     "When the daemon started, in seconds since 1970.",
     [](const DaemonInfo&, double started, Samples& s) { s.add(started); }},
    {"preforkd_reloads", Type::kCounter, "", "Configurations taken over since the start.",
     [](const DaemonInfo& d, double, Samples& s) { s.add(d.reloads); }},
};

struct PoolRow {
  const char* name;  // null: the counters of a group
  Type type;
  const char* unit;
  const char* help;
  void (*samples)(const PoolView&, Samples&);
  CounterGroup counters = CounterGroup::kByItself;
};
constexpr PoolRow counters_of(CounterGroup group) {
  return {nullptr, Type::kCounter, group == CounterGroup::kTimes ? "seconds" : "",
          "",      nullptr,        group};
}

void state(const PoolView& p, Samples& s) {
  for (const char* name : {"starting", "running", "degraded", "draining", "stopped"})
    s.add("state", name, uint64_t{p.info.state == name});
}
void workers(const PoolView& p, Samples& s) {
  s.add("state", "starting", p.starting);
  s.add("state", "idle", p.idle);
  s.add("state", "busy", p.busy);
  s.add("state", "retiring", p.retiring);
}
void limits(const PoolView& p, Samples& s) {
  for (const LimitRow& row : kLimitRows)
    if (!row.is_time()) s.add("limit", row.name, uint64_t{p.info.limits.*row.workers});
}
void utilization(const PoolView& p, Samples& s) {
  s.add("window", "now", p.busy_now);
  for (size_t i = 0; i < std::size(kWindows); ++i)
    s.add("window", kWindows[i].name, p.busy_over[i]);
}

// The buckets of memory are an eighth of a power of two; shown are the powers from 16 µs to 18 min.
// A bucket of memory holds whole microseconds, of which the last one below 2^k stands for all up to it.
void service_time(const PoolView& p, Samples& s) {
  constexpr uint32_t kFirst = 4, kLast = 30;
  const shm::Counters& f = p.reading.figures;
  uint64_t below = 0;
  uint32_t bucket = 0;
  for (uint32_t power = kFirst; power <= kLast; ++power) {
    for (; histogram_upper_bound(bucket) < uint64_t{1} << power; ++bucket)
      below += f.histogram[bucket];
    s.add("_bucket", "le", text_of(std::ldexp(1.0, static_cast<int>(power)) / 1e6), below);
  }
  for (; bucket < kHistogramBuckets; ++bucket) below += f.histogram[bucket];
  s.add("_bucket", "le", "+Inf", below);
  s.add("_sum", "", "", to_seconds(p.reading.finished_ns));
  s.add("_count", "", "", below);
}

void rejected(const PoolView& p, Samples& s) {
  for (size_t i = 0; i < kRejections; ++i)
    s.add("reason", kRejectionNames[i], p.reading.figures.rejected[i]);
}

constexpr PoolRow kPoolRows[] = {
    {"preforkd_pool_state", Type::kGauge, "", "1 for the state that the pool is in.", state},
    {"preforkd_pool_generation", Type::kGauge, "", "The generation that serves new connections.",
     [](const PoolView& p, Samples& s) { s.add(uint64_t{p.info.generation}); }},
    {"preforkd_workers", Type::kGauge, "", "Workers that exist, by state.", workers},
    {"preforkd_workers_limit", Type::kGauge, "", "The limits of the pool, in workers.", limits},
    {"preforkd_workers_capacity", Type::kGauge, "",
     "The most that max can be set to until a reload.",
     [](const PoolView& p, Samples& s) { s.add(uint64_t{p.info.capacity}); }},
    {"preforkd_shrink_after_seconds", Type::kGauge, "seconds",
     "How long a surplus must last before workers retire.",
     [](const PoolView& p, Samples& s) { s.add(to_seconds(p.info.limits.shrink_after)); }},
    {"preforkd_workers_peak_busy", Type::kGauge, "",
     "Most workers busy at once in the window that the pool is sized by.",
     [](const PoolView& p, Samples& s) { s.add(uint64_t{p.peak_busy}); }},
    {"preforkd_utilization_ratio", Type::kGauge, "ratio",
     "Busy by existing worker time, now and over the last seconds.", utilization},
    {"preforkd_connections_accepted", Type::kCounter, "", "Connections taken by a worker.",
     [](const PoolView& p, Samples& s) { s.add(p.accepted()); }},
    counters_of(CounterGroup::kConnections),
    {"preforkd_connections_rejected", Type::kCounter, "",
     "Connections turned away before they were served, by reason.", rejected},
    {"preforkd_connections_active", Type::kGauge, "", "Connections in hand now.",
     [](const PoolView& p, Samples& s) { s.add(p.active); }},
    {"preforkd_connections_queued", Type::kGauge, "",
     "Connections waiting in the accept queues now.",
     [](const PoolView& p, Samples& s) { s.add(uint64_t{p.backlog.queued}); }},
    {"preforkd_backlog_limit", Type::kGauge, "", "How many may wait, as the kernel enforces it.",
     [](const PoolView& p, Samples& s) { s.add(uint64_t{p.backlog.limit}); }},
    counters_of(CounterGroup::kWorkers),
    counters_of(CounterGroup::kTimes),
    {"preforkd_service_time_seconds", Type::kHistogram, "seconds",
     "How long a connection was served, of those that ended.", service_time},
};

// The lines above a metric's samples; returns the name that the samples bear.
std::string head(std::string& out, const char* name, Type type, const char* unit, const char* help,
                 MetricsFormat format) {
  struct Kind {
    const char *suffix, *prometheus, *open_metrics;
  };
  constexpr Kind kKinds[] = {{"_total", "counter", "counter"},
                             {"", "gauge", "gauge"},
                             {"_info", "gauge", "info"},
                             {"", "histogram", "histogram"}};
  const Kind& kind = kKinds[static_cast<size_t>(type)];
  bool open = format == MetricsFormat::kOpenMetrics;
  std::string sample_name = std::string(name) + kind.suffix;
  // OpenMetrics names the family and leaves the suffix to the samples; the older format knows samples only.
  std::string family = open ? name : sample_name;
  out += "# HELP " + family + " " + help + "\n";
  out += "# TYPE " + family + " " + (open ? kind.open_metrics : kind.prometheus) + "\n";
  if (open && *unit) out += "# UNIT " + family + " " + unit + "\n";
  return sample_name;
}

}  // namespace

MetricsFormat metrics_format(std::string_view accept) {
  return accept.find("application/openmetrics-text") != accept.npos ? MetricsFormat::kOpenMetrics
                                                                    : MetricsFormat::kPrometheus;
}

const char* metrics_content_type(MetricsFormat format) {
  return format == MetricsFormat::kOpenMetrics
             ? "application/openmetrics-text; version=1.0.0; charset=utf-8"
             : "text/plain; version=0.0.4; charset=utf-8";
}

std::string metrics_text(const DaemonInfo& daemon, const std::vector<PoolView>& pools,
                         double started_epoch, MetricsFormat format) {
  std::string out;
  for (const auto& row : kDaemonRows) {
    Samples samples(out, head(out, row.name, row.type, row.unit, row.help, format), "");
    row.samples(daemon, started_epoch, samples);
  }
  auto add = [&](const char* name, const PoolRow& row, const char* help, auto samples_of) {
    const std::string sample_name = head(out, name, row.type, row.unit, help, format);
    for (const auto& pool : pools) {
      Samples samples(out, sample_name, pool.info.name);
      samples_of(pool, samples);
    }
  };
  for (const PoolRow& row : kPoolRows) {
    if (row.name)
      add(row.name, row, row.help, row.samples);
    else
      for (const CounterRow& counter : shm::kCounterRows)
        if (counter.group == row.counters)
          add(counter.metric, row, counter.help, [&](const PoolView& p, Samples& s) {
            const uint64_t sum = number_of(counter, p.reading.figures);
            counter.group == CounterGroup::kTimes ? s.add(to_seconds(sum)) : s.add(sum);
          });
  }
  if (format == MetricsFormat::kOpenMetrics) out += "# EOF\n";
  return out;
}

std::string escape_label(std::string_view value) {
  std::string escaped;
  for (char c : value) {
    if (c == '\\' || c == '"') escaped += '\\';
    if (c == '\n')
      escaped += "\\n";
    else
      escaped += c;
  }
  return escaped;
}

}  // namespace preforkd
