// What the daemon answers, as a person reads it: JSON in, text out. Pure, but for the time zone.
//
// The documents are those of GET /v1/status and its relatives. A field that is missing or of
// another type is shown as "-", a field that is not known is passed over: an older preforkctl can
// read a newer daemon. Only a document without the list or object that was asked for throws
// std::runtime_error.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

namespace preforkd {

using Json = nlohmann::ordered_json;  // keeps the order in which the daemon wrote it

std::string status_table(const Json& status);    // GET /v1/status
std::string pool_details(const Json& pool);      // GET /v1/pools/NAME
std::string pool_limits(const Json& pool);       // the same, one line: the limits in force
std::string workers_table(const Json& workers);  // GET /v1/pools/NAME/workers, or a bare array
std::string decisions_table(
    const Json& decisions);                   // GET .../decisions, or a bare array: newest last
std::string daemon_line(const Json& status);  // GET /v1/status: version, pid, uptime, reloads
std::string pool_trouble(const Json& pool);  // a line that says why it is degraded; "" if it is not

// The string in a member of an object, as the daemon wrote it; "" if there is none.
std::string member_text(const Json& object, const char* name);

}  // namespace preforkd
