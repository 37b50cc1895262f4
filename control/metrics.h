// GET /metrics: the figures of every pool as Prometheus' text format 0.0.4, or as OpenMetrics 1.0. One
// table of rows says what there is. Pure.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "control/pool_view.h"

namespace preforkd {

enum class MetricsFormat { kPrometheus, kOpenMetrics };

// What the client's Accept header asks for.
MetricsFormat metrics_format(std::string_view accept);
const char* metrics_content_type(MetricsFormat format);

// `started_epoch`: when the daemon began, in seconds since 1970.
std::string metrics_text(const DaemonInfo& daemon, const std::vector<PoolView>& pools,
                         double started_epoch, MetricsFormat format);

std::string escape_label(std::string_view value);

}  // namespace preforkd
