#include "ipc/info.h"

#include <limits>
#include <nlohmann/json.hpp>
#include <type_traits>

namespace preforkd {
namespace {

using nlohmann::json;

// The members of each struct, by their names in JSON. `take` is a Reader or a Writer.
template <class Take>
void members(Take& take, DaemonInfo& info) {
  take("version", info.version);
  take("pid", info.pid);
  take("uid", info.uid);
  take("started_ns", info.started);
  take("reloads", info.reloads);
  take("control_gid", info.control_gid);
  take("stopping", info.stopping);
  take("pools", info.pools);
}

template <class Take>
void members(Take& take, PoolInfo::Generation& generation) {
  take("number", generation.number);
  take("over", generation.over);
  take("supervised", generation.supervised);
  take("ended_well", generation.ended_well);
  take("ended_badly", generation.ended_badly);
}

template <class Take>
void members(Take& take, Limits& limits) {
  for (const LimitRow& row : kLimitRows)
    row.is_time() ? take.seconds(row.name, limits.*row.time) : take(row.name, limits.*row.workers);
}

template <class Take>
void members(Take& take, PoolInfo& info) {
  take("name", info.name);
  take("state", info.state);
  take("reason", info.reason);
  take("generation", info.generation);
  take("generations", info.generations);
  take("listen", info.listen);
  take("listen_inodes", info.listen_inodes);
  take("backlog_limit", info.backlog_limit);
  take("limits", info.limits);
  take("capacity", info.capacity);
}

template <class T>
concept Plain = std::is_arithmetic_v<T> || std::is_same_v<T, std::string>;

class Writer {
 public:
  template <class T>
  void operator()(const char* name, T& member) {
    object_[name] = write(member);
  }
  void seconds(const char* name, Nanoseconds member) { object_[name] = to_seconds(member); }
  const json& object() const { return object_; }

 private:
  template <Plain T>
  static json write(T& value) {
    return value;
  }
  template <class T>
  static json write(std::vector<T>& values) {
    json list = json::array();
    for (T& value : values) list.push_back(write(value));
    return list;
  }
  template <class T>
  static json write(T& value) {
    Writer writer;
    members(writer, value);
    return writer.object_;
  }

  json object_ = json::object();
};

// Reads members one after the other; the first that is not as it should be spoils the whole.
class Reader {
 public:
  explicit Reader(const json& object) : object_(object), good_(object.is_object()) {}

  bool good() const { return good_; }

  template <class T>
  void operator()(const char* name, T& member) {
    auto found = good_ ? object_.find(name) : object_.end();
    good_ = good_ && found != object_.end() && read(*found, member);
  }
  void seconds(const char* name, Nanoseconds& member) {
    constexpr double kLongest = 1e9;  // what is longer overflows somewhere
    double seconds = 0;
    (*this)(name, seconds);
    good_ = good_ && seconds <= kLongest;
    if (good_) member = from_seconds(seconds);
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
  template <class T>
  static bool read(const json& value, std::vector<T>& into) {
    if (!value.is_array()) return false;
    into.assign(value.size(), T());
    for (size_t i = 0; i < value.size(); ++i)
      if (!read(value[i], into[i])) return false;
    return true;
  }
  template <class T>
  static bool read(const json& value, T& into) {
    Reader reader(value);
    members(reader, into);
    return reader.good();
  }

  const json& object_;
  bool good_;
};

template <class Info>
std::string write(Info info) {
  Writer writer;
  members(writer, info);
  return writer.object().dump(-1, ' ', false, json::error_handler_t::replace);
}

template <class Info>
std::optional<Info> parse(std::string_view text) {
  Info info;
  const json object = json::parse(text, nullptr, false);
  Reader reader(object);
  members(reader, info);
  return reader.good() ? std::optional(std::move(info)) : std::nullopt;
}

}  // namespace

std::string to_json(const DaemonInfo& info) { return write(info); }
std::string to_json(const PoolInfo& info) { return write(info); }

std::optional<DaemonInfo> parse_daemon_info(std::string_view text) {
  return parse<DaemonInfo>(text);
}
std::optional<PoolInfo> parse_pool_info(std::string_view text) { return parse<PoolInfo>(text); }

}  // namespace preforkd
