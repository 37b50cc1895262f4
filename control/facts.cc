#include "control/facts.h"

#include <limits>
#include <nlohmann/json.hpp>
#include <type_traits>

namespace preforkd {
namespace {

using nlohmann::json;

// Reads members one after the other; the first that is not as it should be spoils the whole.
class Members {
 public:
  explicit Members(const json& object) : object_(object), good_(object.is_object()) {}

  bool good() const { return good_; }

  template <class T>
  Members& take(const char* name, T& into) {
    auto member = good_ ? object_.find(name) : object_.end();
    good_ = good_ && member != object_.end() && read(*member, into);
    return *this;
  }

 private:
  static bool read(const json& value, std::string& into) {
    if (value.is_string()) into = value.get<std::string>();
    return value.is_string();
  }
  static bool read(const json& value, bool& into) {
    if (value.is_boolean()) into = value.get<bool>();
    return value.is_boolean();
  }
  static bool read(const json& value, double& into) {
    if (value.is_number()) into = value.get<double>();
    return value.is_number() && into >= 0;
  }
  template <class T>
  requires std::is_unsigned_v<T>
  static bool read(const json& value, T& into) {
    if (!value.is_number_unsigned() || value.get<uint64_t>() > std::numeric_limits<T>::max())
      return false;
    into = static_cast<T>(value.get<uint64_t>());
    return true;
  }
  static bool read(const json& value, int64_t& into) {
    if (value.is_number_integer()) into = value.get<int64_t>();
    return value.is_number_integer();
  }
  static bool read(const json& value, PoolFacts::Generation& into) {
    return Members(value)
        .take("number", into.number)
        .take("over", into.over)
        .take("supervised", into.supervised)
        .take("ended_well", into.ended_well)
        .take("ended_badly", into.ended_badly)
        .good();
  }
  static bool read(const json& value, Limits& into) {
    double shrink_after = 0;
    constexpr double kLongest = 1e9;  // seconds: what is longer overflows somewhere
    bool good = Members(value)
                    .take("min", into.min)
                    .take("max", into.max)
                    .take("min_spare", into.min_spare)
                    .take("max_spare", into.max_spare)
                    .take("shrink_after", shrink_after)
                    .good();
    if (!good || shrink_after > kLongest) return false;
    into.shrink_after = from_seconds(shrink_after);
    return true;
  }
  template <class T>
  static bool read(const json& value, std::vector<T>& into) {
    if (!value.is_array()) return false;
    into.assign(value.size(), T());
    for (size_t i = 0; i < value.size(); ++i)
      if (!read(value[i], into[i])) return false;
    return true;
  }

  const json& object_;
  bool good_;
};

json parse(std::string_view text) { return json::parse(text, nullptr, false); }

}  // namespace

std::optional<DaemonFacts> parse_daemon_facts(std::string_view text) {
  DaemonFacts facts;
  json object = parse(text);
  Members members(object);
  members.take("version", facts.version)
      .take("pid", facts.pid)
      .take("uid", facts.uid)
      .take("started_ns", facts.started)
      .take("reloads", facts.reloads)
      .take("control_gid", facts.control_gid)
      .take("stopping", facts.stopping)
      .take("pools", facts.pools);
  return members.good() ? std::optional(std::move(facts)) : std::nullopt;
}

std::optional<PoolFacts> parse_pool_facts(std::string_view text) {
  PoolFacts facts;
  json object = parse(text);
  Members members(object);
  members.take("name", facts.name)
      .take("state", facts.state)
      .take("reason", facts.reason)
      .take("generation", facts.generation)
      .take("generations", facts.generations)
      .take("listen", facts.listen)
      .take("listen_inodes", facts.listen_inodes)
      .take("backlog_limit", facts.backlog_limit)
      .take("limits", facts.limits)
      .take("capacity", facts.capacity);
  return members.good() ? std::optional(std::move(facts)) : std::nullopt;
}

}  // namespace preforkd
