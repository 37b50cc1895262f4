#include "conf/load.h"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <libconfig.h++>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/error.h"
#include "base/fd.h"
#include "conf/check.h"
#include "conf/keys.h"
#include "conf/literals.h"
#include "conf/problems.h"
#include "conf/text.h"

#ifdef __SANITIZE_ADDRESS__
// libconfig 1.5 loses a few bytes, the string it was in, at each syntax error. Not ours to report.
extern "C" __attribute__((visibility("default"))) const char* __lsan_default_suppressions() {
  return "leak:libconfig++.so";
}
#endif

namespace preforkd {
namespace {

using libconfig::Setting;
using nlohmann::ordered_json;

// A configuration is not a gigabyte from /dev/zero.
constexpr size_t kLargestFile = size_t{16} << 20;
// Of arrays that may have more elements, nobody asks on which line each is (and the daemon would be sent all these).
constexpr double kMostLines = 4096;

// What stands there, for "expected ..., not ...".
std::string describe(const Setting& setting) {
  switch (setting.getType()) {
    case Setting::TypeInt:
      return std::to_string(static_cast<int>(setting));
    case Setting::TypeInt64:
      return std::to_string(static_cast<long long>(setting));
    case Setting::TypeFloat:
      return float_text(setting);
    case Setting::TypeString:
      return quote(setting.c_str());
    case Setting::TypeBoolean:
      return static_cast<bool>(setting) ? "true" : "false";
    case Setting::TypeGroup:
      return "a group";
    case Setting::TypeArray:
      return "an array";
    default:
      return "a list";
  }
}

std::optional<long long> integer(const Setting& setting) {
  if (setting.getType() == Setting::TypeInt) return static_cast<int>(setting);
  if (setting.getType() == Setting::TypeInt64) return static_cast<long long>(setting);
  return std::nullopt;
}

// "listen[0]".
std::string element_path(const std::string& path, size_t index) {
  std::string out = path;
  return out.append("[").append(std::to_string(index)).append("]");
}

// Settings travel as JSON, whose strings are UTF-8.
bool is_utf8(const std::string& text) {
  const bool is_ascii = std::all_of(text.begin(), text.end(),
                                    [](char c) { return static_cast<unsigned char>(c) < 0x80; });
  if (is_ascii) return true;  // as all of 65,536 networks
  auto kept = ordered_json(text).dump(-1, ' ', false, ordered_json::error_handler_t::ignore);
  return ordered_json::parse(kept) == text;
}

// Walks the tree that libconfig made of the file, along the table of keys.
class Reader {
 public:
  Reader(LoadedSettings& loaded, Problems& problems) : loaded_(loaded), problems_(problems) {}

  void read_file(const Setting& root) {
    read_group(root, Section::kFile, {&loaded_.settings, nullptr}, loaded_.lines);
  }

 private:
  void read_group(const Setting& group, Section section, Target target, KeyLines& lines);
  void read_section(const Setting& setting, const SectionRow& row, Target target, KeyLines& lines);
  void read_pools(const Setting& list);
  void read_key(const Setting& setting, const Key& key, Target target, KeyLines& lines);

  // Each takes the value if it is good, or reports it and returns false.
  bool is_list(const Setting& setting, const Key& key, const std::string& path);
  bool read(const Setting& setting, const Key& key, KeyLines& lines, uint32_t& value);
  bool read(const Setting& setting, const Key& key, KeyLines& lines, Nanoseconds& value);
  bool read(const Setting& setting, const Key& key, KeyLines& lines, std::string& value);
  bool read(const Setting& setting, const Key& key, KeyLines& lines,
            std::vector<std::string>& value);
  bool read(const Setting& setting, const Key& key, KeyLines& lines, std::vector<uint32_t>& value);
  bool read(const Setting& setting, const Key& key, KeyLines& lines, bool& value);
  bool read(const Setting& setting, const Key& key, KeyLines& lines, int32_t& value);
  bool read(const Setting& setting, const Key& key, KeyLines& lines, OomScoreAdjust& value);
  bool read(const Setting& setting, const Key& key, KeyLines& lines, ResourceLimit& value);
  bool read(const Setting& setting, const Key& key, KeyLines& lines, Environment& value);
  template <class Integer>
  bool read_integer(const Setting& setting, const Key& key, Integer& value);
  bool acceptable(const Setting& setting, const Key& key, const std::string& text);
  bool read_json(const Setting& setting, const std::string& path, ordered_json& value);

  bool unexpected(const Setting& setting, const std::string& path, const std::string& expected) {
    problems_.add(setting.getSourceLine(),
                  path + ": expected " + expected + ", not " + describe(setting));
    return false;
  }
  bool unexpected(const Setting& setting, const Key& key) {
    return unexpected(setting, path_of(key.section, key.name), expectation(key));
  }
  bool not_utf8(const Setting& setting, const std::string& path) {
    problems_.add(setting.getSourceLine(), path + ": expected UTF-8");
    return false;
  }

  LoadedSettings& loaded_;
  Problems& problems_;
};

void Reader::read_group(const Setting& group, Section section, Target target, KeyLines& lines) {
  for (int i = 0; i < group.getLength(); ++i) {
    const Setting& setting = group[i];
    std::string_view name = setting.getName();
    if (const Key* key = find_key(section, name)) {
      read_key(setting, *key, target, lines);
    } else if (const SectionRow* row = find_section(section, name)) {
      read_section(setting, *row, target, lines);
    } else {
      problems_.add(setting.getSourceLine(),
                    path_of(section, name) + ": unknown key" + suggestion(section, name));
    }
  }
}

void Reader::read_section(const Setting& setting, const SectionRow& row, Target target,
                          KeyLines& lines) {
  std::string path = path_of(row.parent, row.name);
  KeyLines::Key& place = lines.keys[path] = {setting.getSourceLine()};
  if (row.section == Section::kPool && setting.isList()) return read_pools(setting);
  if (row.section != Section::kPool && setting.isGroup())
    return read_group(setting, row.section, target, lines);
  place.wrong = true;
  unexpected(
      setting, path,
      row.section == Section::kPool ? "a list of groups, ( { ... }, ... )" : "a group, { ... }");
}

void Reader::read_pools(const Setting& list) {
  for (int i = 0; i < list.getLength(); ++i) {
    const Setting& group = list[i];
    if (!group.isGroup()) {
      loaded_.lines.keys["pools"].wrong = true;
      unexpected(group, "pools", "a group, { ... }");
      continue;
    }
    PoolSettings pool;
    KeyLines lines{group.getSourceLine(), {}};
    read_group(group, Section::kPool, {&loaded_.settings, &pool}, lines);
    loaded_.settings.pools.push_back(std::move(pool));
    loaded_.pool_lines.push_back(std::move(lines));
  }
}

void Reader::read_key(const Setting& setting, const Key& key, Target target, KeyLines& lines) {
  KeyLines::Key& place = lines.keys[path_of(key.section, key.name)] = {setting.getSourceLine()};
  place.wrong = !std::visit([&](auto member) { return read(setting, key, lines, target(member)); },
                            key.field);
}

template <class Integer>
bool Reader::read_integer(const Setting& setting, const Key& key, Integer& value) {
  auto number = integer(setting);
  if (!number) return unexpected(setting, key);
  auto real = static_cast<double>(*number);
  if (real < key.least || real > key.most) return unexpected(setting, key);
  value = static_cast<Integer>(*number);
  return true;
}

bool Reader::read(const Setting& setting, const Key& key, KeyLines&, uint32_t& value) {
  return read_integer(setting, key, value);
}

bool Reader::read(const Setting& setting, const Key& key, KeyLines&, int32_t& value) {
  return read_integer(setting, key, value);
}

bool Reader::read(const Setting& setting, const Key& key, KeyLines&, bool& value) {
  if (setting.getType() != Setting::TypeBoolean) return unexpected(setting, key);
  value = static_cast<bool>(setting);
  return true;
}

bool Reader::read(const Setting& setting, const Key& key, KeyLines&, OomScoreAdjust& value) {
  const bool is_text = setting.getType() == Setting::TypeString;
  if (!is_text || *setting.c_str()) return read_integer(setting, key, value.value);
  value = {};
  return true;
}

bool Reader::read(const Setting& setting, const Key& key, KeyLines&, ResourceLimit& value) {
  if (setting.getType() == Setting::TypeString) {
    const std::string_view word = setting.c_str();
    if (!word.empty() && word != "unlimited") return unexpected(setting, key);
    value.value = word.empty() ? ResourceLimit::kInherited : ResourceLimit::kUnlimited;
    return true;
  }
  auto number = integer(setting);
  if (!number || *number < -1) return unexpected(setting, key);
  // As setrlimit(2) and its users write it: -1 is RLIM_INFINITY.
  value.value = *number < 0 ? ResourceLimit::kUnlimited : static_cast<uint64_t>(*number);
  return true;
}

bool Reader::read(const Setting& setting, const Key& key, KeyLines&, Nanoseconds& value) {
  auto number = integer(setting);
  if (!number && setting.getType() != Setting::TypeFloat) return unexpected(setting, key);
  double seconds = number ? static_cast<double>(*number) : static_cast<double>(setting);
  if (!(seconds >= key.least && seconds <= key.most)) return unexpected(setting, key);
  value = time_from_seconds(seconds);
  return true;
}

bool Reader::read(const Setting& setting, const Key& key, KeyLines&, std::string& value) {
  if (key.type == Type::kGroup) {
    ordered_json json;
    if (!setting.isGroup()) return unexpected(setting, key);
    if (!read_json(setting, path_of(key.section, key.name), json)) return false;
    value = json.dump();
    return true;
  }
  if (setting.getType() != Setting::TypeString) return unexpected(setting, key);
  if (!acceptable(setting, key, setting.c_str())) return false;
  value = setting.c_str();
  return true;
}

// Of as many elements as it may have.
bool Reader::is_list(const Setting& setting, const Key& key, const std::string& path) {
  if (!setting.isArray() && !setting.isList()) return unexpected(setting, key);
  if (setting.getLength() >= key.least && setting.getLength() <= key.most) return true;
  problems_.add(setting.getSourceLine(), path + ": expected " + expectation(key) + ", not " +
                                             std::to_string(setting.getLength()));
  return false;
}

bool Reader::read(const Setting& setting, const Key& key, KeyLines& lines,
                  std::vector<std::string>& value) {
  const std::string path = path_of(key.section, key.name);
  if (!is_list(setting, key, path)) return false;
  value.clear();
  bool good = true;
  for (int i = 0; i < setting.getLength(); ++i) {
    const Setting& element = setting[i];
    if (element.getType() != Setting::TypeString) {
      good = unexpected(element, path, "a string");
    } else if (!acceptable(element, key, element.c_str())) {
      good = false;
    } else {
      if (key.most <= kMostLines)
        lines.keys[element_path(path, value.size())] = {element.getSourceLine()};
      value.push_back(element.c_str());
    }
  }
  return good;
}

bool Reader::read(const Setting& setting, const Key& key, KeyLines&, std::vector<uint32_t>& value) {
  const std::string path = path_of(key.section, key.name);
  if (!is_list(setting, key, path)) return false;
  value.clear();
  bool good = true;
  for (int i = 0; i < setting.getLength(); ++i) {
    const auto number = integer(setting[i]);
    if (number && *number >= 0 && *number <= kHighestStatus)
      value.push_back(static_cast<uint32_t>(*number));
    else
      good = unexpected(setting[i], path, "an exit status, 0 to 255");
  }
  return good;
}

bool Reader::read(const Setting& setting, const Key& key, KeyLines& lines, Environment& value) {
  if (!setting.isGroup()) return unexpected(setting, key);
  value.clear();
  bool good = true;
  for (int i = 0; i < setting.getLength(); ++i) {
    const Setting& variable = setting[i];
    const std::string name = variable.getName();
    const std::string path = path_of(key.section, key.name) + "." + name;
    if (!acceptable(variable, key, name))
      good = false;
    else if (variable.getType() != Setting::TypeString)
      good = unexpected(variable, path, "a string");
    else if (!is_utf8(variable.c_str()))
      good = not_utf8(variable, path);
    else {
      lines.keys[path] = {variable.getSourceLine()};
      value[name] = variable.c_str();
    }
  }
  return good;
}

bool Reader::acceptable(const Setting& setting, const Key& key, const std::string& text) {
  if (!is_utf8(text)) return not_utf8(setting, path_of(key.section, key.name));
  std::string complaint = key.complaint(text);
  if (complaint.empty()) return true;
  problems_.add(setting.getSourceLine(),
                path_of(key.section, key.name) + ": " + quote(text) + ": " + complaint);
  return false;
}

bool Reader::read_json(const Setting& setting, const std::string& path, ordered_json& value) {
  bool good = true;
  switch (setting.getType()) {
    case Setting::TypeString:
      value = setting.c_str();
      return is_utf8(setting.c_str()) || not_utf8(setting, path);
    case Setting::TypeFloat:
      value = static_cast<double>(setting);
      return std::isfinite(static_cast<double>(setting)) ||
             unexpected(setting, path, "a number that a double can hold");
    case Setting::TypeBoolean:
      value = static_cast<bool>(setting);
      return true;
    case Setting::TypeGroup:
      value = ordered_json::object();
      for (int i = 0; i < setting.getLength(); ++i) {
        const char* name = setting[i].getName();
        std::string member = path + "." + name;
        good = read_json(setting[i], member, value[name]) && good;
      }
      return good;
    case Setting::TypeArray:
    case Setting::TypeList:
      value = ordered_json::array();
      for (int i = 0; i < setting.getLength(); ++i) {
        auto index = static_cast<size_t>(i);
        good = read_json(setting[i], element_path(path, index), value.emplace_back()) && good;
      }
      return good;
    default:
      value = integer(setting).value_or(0);
      return true;
  }
}

// False if there is nothing to look at.
bool parse(const std::string& text, LoadedSettings& loaded, Problems& problems) {
  check_literals(text, problems);
  // What these would make libconfig say or do is worth less than what was found.
  if (!problems.empty()) return false;
  libconfig::Config config;
  try {
    config.readString(text);
  } catch (const libconfig::ParseException& e) {
    problems.add(static_cast<unsigned>(e.getLine()), e.getError());
    return false;
  }
  Reader(loaded, problems).read_file(config.getRoot());
  check_settings(loaded, problems);
  return true;
}

// The whole file, or nothing and why. Anything that can be read will do, a pipe too.
std::optional<std::string> read_whole(const std::string& path, std::string& error) {
  UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY));
  if (!fd.is_open() && lacks_room(errno))
    throw SysError("open " + path, errno);  // which says nothing about the file
  if (!fd.is_open()) return error = "open " + path + ": " + std::strerror(errno), std::nullopt;
  std::string text;
  char buffer[16 * 1024];
  for (;;) {
    ssize_t size = ::read(fd.get(), buffer, sizeof buffer);
    if (size == 0) return text;
    if (size < 0 && errno == EINTR) continue;
    if (size < 0) return error = "read " + path + ": " + std::strerror(errno), std::nullopt;
    text.append(buffer, static_cast<size_t>(size));
    if (text.size() > kLargestFile)
      return error = "read " + path + ": larger than 16 MiB", std::nullopt;
  }
}

}  // namespace

LoadedSettings load_settings_text(std::string_view text, const std::string& name,
                                  std::vector<std::string>& errors, const OnStep& on_step) {
  LoadedSettings loaded;
  loaded.file = name;
  Problems problems;
  if (parse(std::string(text), loaded, problems)) look_up_users(loaded, problems, on_step);
  problems.tell(name, errors);
  return loaded;
}

LoadedSettings load_printed_settings(std::string_view text, const std::string& name,
                                     std::vector<std::string>& errors) {
  LoadedSettings loaded;
  loaded.file = name;
  Problems problems;
  parse(std::string(text), loaded, problems);
  problems.tell(name, errors);
  return loaded;
}

LoadedSettings load_settings(const std::string& path, std::vector<std::string>& errors,
                             const OnStep& on_step) {
  std::string error;
  auto text = read_whole(path, error);
  if (text) return load_settings_text(*text, path, errors, on_step);
  errors.push_back(error);
  LoadedSettings loaded;
  loaded.file = path;
  return loaded;
}

}  // namespace preforkd
