#include "conf/pool_json.h"

#include <concepts>
#include <limits>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "conf/keys.h"

namespace preforkd {
namespace {

using nlohmann::ordered_json;

bool is_of_pool(const Key& key) {
  return key.section != Section::kFile && key.section != Section::kControl &&
         key.section != Section::kLog;
}

template <class T>
const T& json_of(const T& value) {
  return value;
}
uint64_t json_of(ResourceLimit limit) { return limit.value; }
int32_t json_of(OomScoreAdjust score) { return score.value; }

// Each takes the value if it is what pool_to_json() writes for one.
template <std::unsigned_integral Integer>
bool take(const ordered_json& json, Integer& value) {
  if (!json.is_number_unsigned() || json.get<uint64_t>() > std::numeric_limits<Integer>::max())
    return false;
  value = json.get<Integer>();
  return true;
}
bool take(const ordered_json& json, bool& value) {
  if (!json.is_boolean()) return false;
  value = json.get<bool>();
  return true;
}
bool take(const ordered_json& json, int32_t& value) {
  if (!json.is_number_integer() || json != json.get<int32_t>()) return false;
  value = json.get<int32_t>();
  return true;
}
bool take(const ordered_json& json, OomScoreAdjust& score) { return take(json, score.value); }
bool take(const ordered_json& json, ResourceLimit& limit) { return take(json, limit.value); }
bool take(const ordered_json& json, std::string& value) {
  if (!json.is_string()) return false;
  value = json.get<std::string>();
  return true;
}
template <class Element>
bool take(const ordered_json& json, std::vector<Element>& value) {
  value.clear();
  bool good = json.is_array();
  for (const ordered_json& element : json) good = good && take(element, value.emplace_back());
  return good;
}
bool take(const ordered_json& json, Environment& value) {
  bool good = json.is_object();
  if (good)
    for (const auto& [name, text] : json.items()) good = good && take(text, value[name]);
  return good;
}

}  // namespace

std::string pool_to_json(const PoolSettings& pool) {
  PoolSettings copy = pool;  // the table of keys gives access to read and to write
  Target target{nullptr, &copy};
  ordered_json json = ordered_json::object();
  for (const Key& key : keys()) {
    if (!is_of_pool(key)) continue;
    std::visit([&](auto member) { json[path_of(key.section, key.name)] = json_of(target(member)); },
               key.field);
  }
  return json.dump();
}

PoolSettings pool_from_json(std::string_view text) {
  PoolSettings pool;
  Target target{nullptr, &pool};
  auto json = ordered_json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) throw std::runtime_error("read pool settings: not a JSON object");
  size_t taken = 0;
  for (const Key& key : keys()) {
    if (!is_of_pool(key)) continue;
    std::string path = path_of(key.section, key.name);
    auto found = json.find(path);
    if (found == json.end()) throw std::runtime_error("read pool settings: " + path + ": missing");
    bool good = std::visit([&](auto member) { return take(*found, target(member)); }, key.field);
    if (!good) throw std::runtime_error("read pool settings: " + path + ": wrong type");
    ++taken;
  }
  if (taken != json.size()) throw std::runtime_error("read pool settings: unknown key");
  return pool;
}

}  // namespace preforkd
