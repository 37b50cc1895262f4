// conf/load, conf/print, conf/pool_json: the text of a configuration. What is accepted is printed and loaded
// again, and what becomes of it must be the same; what is not is told in lines that name their place.
#include <vector>

#include "conf/load.h"
#include "conf/pool_json.h"
#include "conf/print.h"
#include "conf/user.h"
#include "tests/fuzz/fuzz.h"

using namespace preforkd;
using fuzz::must;

// libconfig 1.5 loses a few bytes at each syntax error. Not ours to report.
extern "C" const char* __lsan_default_suppressions();
extern "C" __attribute__((visibility("default"))) const char* __lsan_default_suppressions() {
  return "leak:libconfig++.so";
}

// The system's users are another database than this one; asking it would take longer than all the rest.
std::optional<EffectiveUser> preforkd::effective_user(const std::string& user, const std::string&,
                                                      std::string& error, uid_t) {
  if (user != "ghost") return EffectiveUser{1, 1, user, false};
  error = "no such user";
  return std::nullopt;
}
std::optional<EffectiveUser> preforkd::service_user(Service, std::string&, uid_t) {
  return EffectiveUser{2, 2, "service", false};
}
std::optional<gid_t> preforkd::find_group(const std::string& name, std::string& error) {
  if (name != "ghost") return 1;
  error = "no such group";
  return std::nullopt;
}

namespace {

constexpr std::string_view kName = "fuzz";

std::string joined(const std::vector<std::string>& lines) {
  std::string all;
  for (const std::string& line : lines) all += line + "\n";
  return all;
}

void must_name_its_place(const std::string& error) {
  size_t at = kName.size() + 1;
  must(error.starts_with(std::string(kName) + ":"), "an error begins with the file", error);
  size_t digits = error.find_first_not_of("0123456789", at);
  must(digits != error.npos && digits > at && error.substr(digits, 2) == ": ",
       "an error names its line", error);
  for (char c : error)
    must(static_cast<unsigned char>(c) >= 0x20 && c != 0x7f,
         "an error is one line and safe on a terminal", error);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string name(kName);
  std::vector<std::string> errors;
  LoadedSettings loaded = load_settings_text(fuzz::text_of(data, size), name, errors);
  must(loaded.pool_lines.size() == loaded.settings.pools.size(), "each pool has its lines");
  for (const std::string& error : errors) must_name_its_place(error);
  if (!errors.empty()) return 0;

  const std::string printed = print_settings(loaded.settings);
  LoadedSettings again = load_settings_text(printed, name, errors);
  must(errors.empty(), "what is printed can be loaded", joined(errors) + printed);
  must(again.settings == loaded.settings, "what is printed loads as the same", printed);
  for (const PoolSettings& pool : loaded.settings.pools) {
    std::string json = pool_to_json(pool);
    must(pool_from_json(json) == pool, "a supervisor gets the same settings", json);
  }
  return 0;
}
