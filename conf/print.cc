#include "conf/print.h"

#include <nlohmann/json.hpp>

#include "conf/keys.h"
#include "conf/text.h"

namespace preforkd {
namespace {

using nlohmann::ordered_json;

constexpr size_t kHelpColumn = 44;

std::string json_text(const ordered_json& value, const std::string& indent);

// "( 1, 2 )", "{ ... }" with a line for each member: the elements between their brackets.
std::string json_group(const ordered_json& object, const std::string& indent) {
  if (object.empty()) return "{ }";
  const std::string inner = indent + "  ";
  std::string out = "{\n";
  for (const auto& [name, value] : object.items()) {
    out.append(inner).append(name).append(" = ").append(json_text(value, inner)).append(";\n");
  }
  return out + indent + "}";
}

std::string json_list(const ordered_json& array, const std::string& indent) {
  std::string out = "(";
  for (const auto& value : array) out += (out.size() > 1 ? ", " : " ") + json_text(value, indent);
  return out + " )";
}

// A list, and not an array, stands for a JSON array: its elements may be of any types.
std::string json_text(const ordered_json& value, const std::string& indent) {
  if (value.is_object()) return json_group(value, indent);
  if (value.is_array()) return json_list(value, indent);
  if (value.is_string()) return quote(value.get<std::string>());
  if (value.is_number_float()) return float_text(value.get<double>());
  if (value.is_number_integer()) return integer_text(value.get<long long>());
  return value.get<bool>() ? "true" : "false";
}

std::string value_text(const Key&, uint32_t value, const std::string&) {
  return integer_text(value);
}
std::string value_text(const Key&, Nanoseconds value, const std::string&) {
  return seconds_text(value);
}
std::string value_text(const Key& key, const std::string& value, const std::string& indent) {
  return key.type == Type::kGroup ? json_text(ordered_json::parse(value), indent) : quote(value);
}
std::string value_text(const Key&, const std::vector<std::string>& value, const std::string&) {
  std::string out = "[";
  for (const std::string& element : value) out += (out.size() > 1 ? ", " : " ") + quote(element);
  return out + " ]";
}
std::string value_text(const Key&, const std::vector<uint32_t>& value, const std::string&) {
  std::string out = "[";
  for (uint32_t element : value) out += (out.size() > 1 ? ", " : " ") + integer_text(element);
  return out + " ]";
}

std::string value_text(const Key&, bool value, const std::string&) {
  return value ? "true" : "false";
}
std::string value_text(const Key&, int32_t value, const std::string&) {
  return integer_text(value);
}
std::string value_text(const Key&, OomScoreAdjust score, const std::string&) {
  return score.is_set() ? integer_text(score.value) : quote("");
}
std::string value_text(const Key&, ResourceLimit value, const std::string&) {
  if (!value.is_set()) return quote("");
  if (value.value == ResourceLimit::kUnlimited) return quote("unlimited");
  return integer_text(static_cast<long long>(value.value));
}
std::string value_text(const Key&, const Environment& value, const std::string& indent) {
  return json_text(ordered_json(value), indent);
}

void print_key(const Key& key, Target target, const std::string& indent, std::string& out) {
  std::visit(
      [&](auto member) {
        const auto& value = target(member);
        if constexpr (requires { value.empty(); })
          if (key.presence == Presence::kAlternative && value.empty()) return;
        out += indent + std::string(key.name) + " = " + value_text(key, value, indent) + ";";
      },
      key.field);
}

void print_section(Section section, Target target, const std::string& indent, std::string& out) {
  for (const Key& key : keys()) {
    if (key.section != section) continue;
    std::string line;
    print_key(key, target, indent, line);
    if (line.empty()) continue;
    size_t last = line.size() - (line.rfind('\n') + 1);  // npos + 1 is 0
    line.append(last < kHelpColumn ? kHelpColumn - last : 1, ' ');
    out += line + "# " + std::string(key.help) + "\n";
  }
  for (const SectionRow& row : sections()) {
    if (row.parent != section || row.section == Section::kPool) continue;
    out += indent + std::string(row.name) + " = {\n";
    print_section(row.section, target, indent + "  ", out);
    out += indent + "};\n";
  }
}

}  // namespace

std::string print_settings(const Settings& settings) {
  Settings copy = settings;  // the table of keys gives access to read and to write
  std::string out;
  print_section(Section::kFile, {&copy, nullptr}, "", out);
  out += "pools = (\n";
  for (PoolSettings& pool : copy.pools) {
    out += "  {\n";
    print_section(Section::kPool, {&copy, &pool}, "    ", out);
    out += &pool == &copy.pools.back() ? "  }\n" : "  },\n";
  }
  return out + ");\n";
}

}  // namespace preforkd
