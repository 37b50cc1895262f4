// Variables that a pool's programs have from preforkd or not at all: neither the daemon's environment nor the pool's
// `environment` has a say in them. To handlers they are variables like any other.
#pragma once

#include <algorithm>
#include <iterator>
#include <string_view>

namespace preforkd {

// What says who is connected, or would speak of another connection or of preforkd's own start.
inline constexpr std::string_view kProgramVariables[] = {
    "PROTO",          "TCPLOCALIP",    "TCPLOCALPORT",   "TCPLOCALHOST",  "TCPREMOTEIP",
    "TCPREMOTEPORT",  "TCPREMOTEHOST", "TCPREMOTEINFO",  "UNIXLOCALPATH", "UNIXLOCALUID",
    "UNIXLOCALGID",   "UNIXLOCALPID",  "UNIXREMOTEPATH", "UNIXREMOTEPID", "UNIXREMOTEEUID",
    "UNIXREMOTEEGID", "REMOTE_ADDR",   "REMOTE_PORT",    "REMOTE_HOST",   "NOTIFY_SOCKET",
    "WATCHDOG_PID",   "WATCHDOG_USEC", "LISTEN_PID",     "LISTEN_FDS",    "LISTEN_FDNAMES"};

// Besides, of a program that accepts by itself (worker/serving_program.h).
inline constexpr const char* kLibraryVariable = "PREFORKD_LIBRARY";
inline constexpr const char* kWorkerVariable = "PREFORKD_WORKER";
// Of the dynamic linker's (ld.so(8)): what is loaded before a program's own. A template has the library there.
inline constexpr const char* kPreloadVariable = "LD_PRELOAD";

constexpr bool is_program_variable(std::string_view name) {
  return std::find(std::begin(kProgramVariables), std::end(kProgramVariables), name) !=
         std::end(kProgramVariables);
}
constexpr bool is_serving_variable(std::string_view name) {
  return is_program_variable(name) || name == kLibraryVariable || name == kWorkerVariable;
}

}  // namespace preforkd
